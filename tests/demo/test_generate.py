"""The demo generator: determinism, masks that tell the truth, backgrounds that tell nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config.params import Demo, DemoDefect, Params
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.demo.camera import NORMAL, PRODUCTS, DemoImage, product_image
from pipeline.demo.generate import DemoSample, generate
from pipeline.demo.surfaces import SIZE
from pipeline.io.paths import ArtifactPaths
from stages import demo as stage
from tests.running import run_stage

DEFECTS = [(p, label) for p, labels in PRODUCTS.items() for label in labels if label != "good"]


def _draw(product: str, label: str, seed: int) -> DemoImage:
    return product_image(product, label, np.random.default_rng(seed))


def _samples(product: str, **counts: int) -> dict[tuple[str, str, str], DemoSample]:
    listed = list(generate(product, **counts))
    by_name = {(s.split, s.label, s.name): s for s in listed}
    assert len(by_name) == len(listed)
    return by_name


def _grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


@pytest.mark.parametrize("product", PRODUCTS)
def test_good_images_have_the_documented_form_and_an_empty_mask(product: str) -> None:
    drawn = _draw(product, "good", 0)
    assert drawn.image.shape == (SIZE, SIZE, 3)
    assert drawn.image.dtype == np.uint8
    assert drawn.mask.shape == (SIZE, SIZE)
    assert drawn.mask.dtype == np.bool_
    assert not drawn.mask.any()
    # Nothing is clipped to black or white over an area.
    assert np.mean((drawn.image < 5) | (drawn.image > 250)) < 0.01


@pytest.mark.parametrize(("product", "label"), DEFECTS)
def test_defect_lies_in_its_mask_and_nowhere_else(product: str, label: str) -> None:
    for seed in range(4):
        good, bad = _draw(product, "good", seed), _draw(product, label, seed)
        change = np.abs(bad.image.astype(int) - good.image.astype(int)).max(axis=2)
        # A cast shadow or the flank of a dent may leave the mask, but not go far: beyond 24 px at
        # most the tail of a dent is left, about one deviation of the sensor noise.
        assert change[~_grown(bad.mask, 24)].max() <= 3
        assert change[~_grown(bad.mask, 8)].mean() < 0.5
        assert np.median(change[bad.mask]) > 8


@pytest.mark.parametrize(("product", "label"), DEFECTS)
def test_regions_are_one_or_two_and_large_enough_to_be_found(product: str, label: str) -> None:
    extents, parts = [], Counter[int]()
    for seed in range(16):
        mask = _draw(product, label, seed).mask
        assert 40 < mask.sum() < 0.2 * mask.size
        count, _, stats, _ = cv2.connectedComponentsWithStats(_grown(mask, 5).astype(np.uint8))
        parts[min(count - 1, 3)] += 1
        extents += [int(max(row[2], row[3])) - 10 for row in stats[1:]]
    assert parts[1] >= 7
    assert parts[2] >= 2
    assert parts[3] <= 1
    assert np.min(extents) >= 10
    assert np.max(extents) <= 150
    assert np.ptp(extents) >= 10


@pytest.mark.parametrize("product", PRODUCTS)
def test_poses_and_lighting_differ_between_images(product: str) -> None:
    images = [_draw(product, "good", seed).image.astype(float) for seed in range(8)]
    means = [image.mean() for image in images]
    assert np.ptp(means) > 5
    for other in images[1:]:
        correlation = np.corrcoef(images[0].mean(axis=2).ravel(), other.mean(axis=2).ravel())[0, 1]
        assert abs(correlation) < 0.6


@pytest.mark.parametrize("product", PRODUCTS)
def test_mean_colour_does_not_give_the_label_away(product: str) -> None:
    samples = list(generate(product, good=10, per_defect=10, normals=0, seed=3))
    labels = np.array([sample.label for sample in samples])
    colours = np.array([sample.image.mean(axis=(0, 1)) for sample in samples])
    centred = np.array([[c[0] - c[1], c[2] - c[1], c.mean()] for c in colours])
    within = np.mean([centred[labels == name].std(axis=0) for name in PRODUCTS[product]], axis=0)
    between = np.std([centred[labels == name].mean(axis=0) for name in PRODUCTS[product]], axis=0)
    # Means of 10 draws scatter by within / sqrt(10) = 0.32 within; a give-away would exceed 1.
    assert np.all(between < 0.8 * within)


def test_same_seed_same_images_other_seed_others() -> None:
    counts = {"good": 2, "per_defect": 1, "normals": 2}
    first, again = _samples("metal", **counts, seed=5), _samples("metal", **counts, seed=5)
    other = _samples("metal", **counts, seed=6)
    assert first.keys() == again.keys() == other.keys()
    for key, sample in first.items():
        assert np.array_equal(sample.image, again[key].image)
        assert np.array_equal(sample.mask, again[key].mask)
        assert not np.array_equal(sample.image, other[key].image)
    pictures = {sample.image.tobytes() for sample in first.values()}
    assert len(pictures) == len(first)


@pytest.mark.parametrize("product", PRODUCTS)
def test_counts_do_not_shift_other_images(product: str) -> None:
    few = _samples(product, good=1, per_defect=1, normals=1)
    many = _samples(product, good=3, per_defect=2, normals=0)
    shared = few.keys() & many.keys()
    assert len(shared) == 5
    for key in shared:
        assert np.array_equal(few[key].image, many[key].image)


def test_each_defect_can_have_its_own_number_of_images() -> None:
    each = {"dent": 2, "crack": 1, "knot": 5}
    samples = generate("metal", good=1, per_defect=each, normals=0)
    labels = [sample.label for sample in samples]
    assert labels == ["good", "dent", "dent", "crack"]
    with pytest.raises(ValueError, match="not be negative"):
        list(generate("metal", per_defect={"dent": -1}))

    demo = parse_params({"demo": {"per_defect": {"dent": 2, "crack": 1}}}).demo
    assert [demo.n_images(name) for name in ("dent", "crack", "knot")] == [2, 1, 0]
    assert Demo(per_defect=3).n_images("knot") == 3
    with pytest.raises(ConfigError, match=r"demo\.per_defect"):
        parse_params({"demo": {"per_defect": {"dint": 2}}})
    defects = {label for labels in PRODUCTS.values() for label in labels} - {NORMAL}
    assert set(get_args(DemoDefect)) == defects


def test_drawing_leaves_the_global_random_state_alone() -> None:
    before = np.random.get_state()[1].copy()
    _draw("fabric", "hole", 0)
    assert np.array_equal(before, np.random.get_state()[1])


def test_progress_counts_every_image() -> None:
    seen: list[tuple[int, int]] = []
    counts = {"good": 1, "per_defect": 1, "normals": 2}
    list(generate("metal", **counts, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(k, 7) for k in range(1, 8)]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="wood"):
        _draw("wood", "good", 0)
    with pytest.raises(ValueError, match="knot"):
        _draw("metal", "knot", 0)
    with pytest.raises(ValueError, match="wood"):
        next(generate("wood"))
    with pytest.raises(ValueError, match="negative"):
        next(generate("metal", good=-1))


def test_stage_writes_the_mvtec_layout_in_place_of_what_was_there(tmp_path: Path) -> None:
    paths = ArtifactPaths(tmp_path)
    stale = paths.raw_demo() / "metal" / "test" / "good" / "999.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    run_stage(stage, None, Params(demo=Demo(seed=1, good=1, per_defect=2, normals=2)), paths)

    expected = set()
    for product, labels in PRODUCTS.items():
        expected |= {f"{product}/train/good/{k:03d}.png" for k in range(2)}
        expected.add(f"{product}/test/good/000.png")
        for label in labels[1:]:
            expected |= {f"{product}/test/{label}/{k:03d}.png" for k in range(2)}
            expected |= {f"{product}/ground_truth/{label}/{k:03d}_mask.png" for k in range(2)}
    root = paths.raw_demo()
    assert {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} == expected
    assert [p.name for p in root.parent.iterdir()] == ["demo"]
    assert {p.name for p in root.iterdir()} == set(PRODUCTS)

    counts = {"good": 1, "per_defect": 2, "normals": 2, "seed": 1}
    sample = _samples("fabric", **counts)["test", "knot", "001"]
    written = cv2.imread(str(root / "fabric/test/knot/001.png"), cv2.IMREAD_COLOR)
    assert np.array_equal(written[..., ::-1], sample.image)
    mask = cv2.imread(str(root / "fabric/ground_truth/knot/001_mask.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, sample.mask * np.uint8(255))


def test_stage_that_fails_leaves_the_old_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ArtifactPaths(tmp_path)
    keep = paths.raw_demo() / "metal" / "test" / "good" / "777.png"
    keep.parent.mkdir(parents=True)
    keep.write_bytes(b"old")

    def broken(*_: object, **__: object) -> tuple[bool, None]:
        return False, None

    monkeypatch.setattr(cv2, "imencode", broken)
    with pytest.raises(ValueError, match="cannot be encoded"):
        run_stage(stage, None, Params(demo=Demo(good=1, per_defect=0, normals=0)), paths)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")] == [
        "raw/demo/metal/test/good/777.png"
    ]
