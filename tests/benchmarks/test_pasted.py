"""Pasted defects: small, visible, drawn by seed, and on the object where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.paste import paste
from benchmarks.pasted import Found, Fusion, fused, fusions
from pipeline.detectors.calibration import calibrate, fused_scores, joint_map

Pixels = NDArray[np.uint8]


def surface(seed: int, shape: tuple[int, int] = (200, 300)) -> Pixels:
    """Noise with a bright square in the middle, a ninth of the image."""
    image = np.random.default_rng(seed).normal(90, 6, (*shape, 3))
    h, w = shape
    image[h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] += 90
    return image.clip(0, 255).astype(np.uint8)


def drawn(count: int, smallest: float = 0.032) -> list[tuple[Pixels, Pixels]]:
    pairs = []
    for seed in range(count):
        image, other = surface(seed), surface(seed + 1000, (150, 180))
        pairs.append((image, paste(image, other, np.random.default_rng(seed), smallest=smallest)))
    return pairs


def changed(image: Pixels, defective: Pixels) -> NDArray[np.bool_]:
    return np.abs(image.astype(int) - defective).max(axis=2) > 3


def test_an_image_gets_one_small_defect_and_stays_as_it_is() -> None:
    for image, defective in drawn(30):
        assert defective.shape == image.shape
        assert defective.dtype == np.uint8
        assert 0 < changed(image, defective).mean() < 0.2
    np.testing.assert_array_equal(image, surface(29))


def test_a_seed_gives_the_same_defect() -> None:
    image, other = surface(0), surface(1)
    first, again, another = (paste(image, other, np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != another).any()


def test_defects_grow_with_the_smallest_one() -> None:
    areas = [
        np.mean([changed(*pair).mean() for pair in drawn(40, smallest)])
        for smallest in (0.02, 0.06)
    ]
    assert areas[1] > 3 * areas[0]


def test_most_defects_lie_on_the_object() -> None:
    """A ninth of the image; by chance one in nine would."""
    centres = [np.argwhere(changed(*pair)).mean(axis=0) for pair in drawn(60)]
    inside = [
        abs(row / 200 - 0.5) < 1 / 5 and abs(column / 300 - 0.5) < 1 / 5 for row, column in centres
    ]
    assert np.mean(inside) > 0.5


def test_defects_are_of_all_kinds() -> None:
    """Brighter ones, darker ones, and patches, some pixels of which go either way."""
    signs = []
    for image, defective in drawn(40):
        difference = (defective.astype(int) - image)[changed(image, defective)]
        signs.append(np.sign(np.median(difference)))
    assert {-1, 1} <= set(signs)


@pytest.mark.parametrize("shape", [(1, 1), (20, 9), (64, 700)])
def test_any_size_of_image_will_do(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    for seed in range(9):
        assert paste(image, surface(seed), np.random.default_rng(seed)).shape == image.shape


SIZES = [1, 1, 3]


def distances(count: int, seed: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [rng.gamma(4, 0.1, (count, 400)).astype(np.float32) for _ in SIZES]


def found_with(*, seen_at: int) -> Found:
    """Distances in which a defect shows at one of the two sizes."""
    pasted = distances(20, 1)
    for run, size in zip(pasted, SIZES, strict=True):
        if size == seen_at:
            run[:, 7:12] += 3
    known = np.stack(distances(20, 0))
    return Found(known, known, np.stack(pasted), np.array([20, 20]), np.arange(20).astype(str))


def test_the_default_row_is_what_the_detector_does() -> None:
    known, queries = distances(20, 0), distances(5, 2)
    calibration = calibrate(known, SIZES)
    patches, images = fused(queries, SIZES, calibration, Fusion((1.0, 1.0)))
    np.testing.assert_allclose(patches, joint_map(queries, SIZES, calibration), rtol=1e-5)
    np.testing.assert_allclose(images, fused_scores(queries, SIZES, calibration), rtol=1e-5)


@pytest.mark.parametrize(("seen_at", "weights"), [(1, (1.0, 0.0)), (3, (0.0, 1.0))])
def test_the_size_that_shows_pasted_defects_is_chosen(
    seen_at: int, weights: tuple[float, float]
) -> None:
    found = found_with(seen_at=seen_at)
    rows = fusions(found, SIZES, calibrate(list(found.references), SIZES))
    assert rows["the better alone"].weights == weights
    assert np.argmax(rows["weighed, power 4"].weights) == np.argmax(weights)
    assert sum(rows["weighed, power 4"].weights) == pytest.approx(1)
