"""The detector `nearest`: references without themselves, and a state that scores as before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.config.params import Compute
from pipeline.config.reading import parse_params
from pipeline.detectors.base import Images
from pipeline.detectors.features import Allocate, Features
from pipeline.inference import nearest_patches
from pipeline.inference.map_scores import some_references
from pipeline.inference.nearest_patches import NearestPatches
from pipeline.inference.patch_features import Resources
from pipeline.io.paths import ArtifactError

GRID, WIDTH = (6, 6), 24
DEFECT = 14
"""The patch of a defect, row 2, column 2."""


class Tokens:
    """Stands in for the ViT: an image holds the seed of its tokens, a defect, and its exposure."""

    def __init__(self, options: Maps, resources: Resources, layers: Sequence[int]) -> None:
        self._layers = layers

    def __call__(self, images: Images, what: str, allocate: Allocate) -> Features:
        kinds = np.random.default_rng(0).normal(size=(4, WIDTH))
        layers = []
        for layer in self._layers:
            tokens = []
            for image in images:
                rng = np.random.default_rng([int(image[0, 0, 0]), layer])
                one = kinds[rng.integers(0, 4, 36)] + rng.normal(0, 0.2, (36, WIDTH))
                if image[0, 0, 1]:
                    one[DEFECT] = -3 * kinds.sum(0)
                noise = np.random.default_rng(int(image[0, 0, 2])).normal(0, 0.01, one.shape)
                tokens.append(one + noise)
            layers.append(np.array(tokens, np.float32))
        return Features(tuple(layers), np.zeros((len(images), WIDTH), np.float32), GRID)


def images(seeds: range | list[int], *, defect: bool = False, parts: str = "") -> Images:
    """Images of these seeds; `parts` has a letter for each, "" means each its own."""

    def read(i: int) -> NDArray[np.uint8]:
        return np.full((1, 1, 3), (seeds[i], defect, seeds[:i].count(seeds[i])), np.uint8)

    return Images([f"{seed}" for seed in seeds], read, list(parts))


def renamed(known: Images) -> Images:
    return Images([f"copy of {name}" for name in known.names], known.read)


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> NearestPatches:
    monkeypatch.setattr(nearest_patches, "PatchFeatures", Tokens)
    return new(tmp_path)


def new(folder: Path) -> NearestPatches:
    options = parse_params({"maps": {"method": "nearest", "runs": [[3, 1], [5, 3]]}}).maps
    return NearestPatches(options, Resources(folder, Compute(device="cpu"), "thing"))


def image_scores(scores: nearest_patches.Scores) -> NDArray[np.float32]:
    return scores.image_scores(np.zeros(len(scores.patch_scores[:]), np.float32))


def test_a_defect_scores_above_all_normal_images(detector: NearestPatches) -> None:
    detector.fit(images(range(12)))
    normal, abnormal = detector.score(images(range(50, 70))), images([80, 81], defect=True)
    found = detector.score(abnormal)
    assert image_scores(found).min() > image_scores(normal).max()
    assert found.patch_scores[:].reshape(2, -1).argmax(1).tolist() == [DEFECT, DEFECT]


def test_a_stored_detector_scores_new_images_as_before(
    detector: NearestPatches, tmp_path: Path
) -> None:
    detector.fit(images(range(12)))
    again = new(tmp_path)
    again.load(detector.state())
    queries = images([60, 61, 62])
    before, after = detector.score(queries), again.score(queries)
    np.testing.assert_allclose(after.patch_scores[:], before.patch_scores[:], atol=1e-4)
    np.testing.assert_allclose(image_scores(after), image_scores(before), atol=1e-4)


def test_a_bank_without_a_run_is_a_gap(detector: NearestPatches, tmp_path: Path) -> None:
    detector.fit(images(range(4)))
    state = {name: array for name, array in detector.state().items() if name != "patches_1"}
    with pytest.raises(KeyError, match="patches_1"):
        new(tmp_path).load(state)


def test_references_are_not_compared_with_themselves(detector: NearestPatches) -> None:
    detector.fit(images(range(12)))
    known = detector.score_references()
    assert list(known.names) == [str(i) for i in range(12)]
    themselves = image_scores(detector.score(renamed(images(range(12)))))
    fresh = image_scores(detector.score(images(range(50, 90))))
    held_out = image_scores(known.scores)
    assert (held_out > themselves).all()
    assert abs(np.median(held_out) - np.median(fresh)) < np.ptp(fresh) / 2


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_references_are_named(detector: NearestPatches, count: int) -> None:
    with pytest.raises(ArtifactError, match=rf"thing: .*at least 2 .* has {count}: add some"):
        detector.fit(images(range(count)))


def test_references_are_not_compared_with_their_own_part(detector: NearestPatches) -> None:
    """Two exposures of each thing, with nearly the same tokens, would vouch for each other."""
    twice = [seed for seed in range(12) for _ in range(2)]
    detector.fit(images(twice, parts="abcdefghijklmnopqrstuvwx"))
    vouched = detector.state()["run_scales"][:, 0]
    detector.fit(images(twice, parts="aabbccddeeffgghhiijjkkll"))
    known = detector.score_references()
    assert len(known.names) == 24
    assert (vouched < 0.1 * detector.state()["run_scales"][:, 0]).all()
    shared = detector.score(images(range(12), parts="abcdefghijkl")).patch_scores[:]
    np.testing.assert_allclose(shared, known.scores.patch_scores[::2], atol=1e-4)


def test_a_query_leaves_out_its_own_part_of_the_bank(detector: NearestPatches) -> None:
    detector.fit(images(range(12)))
    own, other = images([5]), renamed(images([5]))
    left_out = image_scores(detector.score(own))
    assert left_out > image_scores(detector.score(other))
    held_out = detector.score_references()
    row = list(held_out.names).index("5")
    assert left_out == pytest.approx(image_scores(held_out.scores)[row], abs=1e-4)


def test_one_part_alone_is_named(detector: NearestPatches) -> None:
    with pytest.raises(ArtifactError, match="thing: the normal references show one part only"):
        detector.fit(images(range(4), parts="aaaa"))


def test_references_are_drawn_by_parts() -> None:
    parts = [name for name in "abcdefgh" for _ in range(3)]
    drawn = some_references(parts, 0, 5)
    assert len(drawn) == 15
    assert drawn == sorted(drawn)
    assert len({parts[i] for i in drawn}) == 5
    assert len(some_references(parts, 0, 100)) == 24
