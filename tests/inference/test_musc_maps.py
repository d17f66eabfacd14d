"""What MuSc keeps of a run for new images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.detection import Maps
from pipeline.config.params import Compute
from pipeline.detectors.base import Images
from pipeline.detectors.features import Allocate, Features
from pipeline.executor import Local, using
from pipeline.inference import musc_maps
from pipeline.inference.map_scores import rescale_maps
from pipeline.inference.musc_maps import MuSc
from pipeline.inference.patch_features import Resources
from pipeline.io.paths import ArtifactError
from tests.distributed.workers import Through


def detector() -> MuSc:
    return MuSc(Maps(method="musc", layers=[0]), Resources(Path("none"), Compute(), "bolts"))


def bank(skip: float, fraction: float) -> dict[str, np.ndarray]:
    return {"layer_0": np.zeros((2, 4, 3), np.float16), "ranks": np.array([skip, fraction])}


def test_the_ranks_of_a_run_are_kept_for_new_images() -> None:
    musc = detector()
    musc.load(bank(0.05, 0.3))
    assert np.array_equal(musc.state()["ranks"], [0.05, 0.3])


@pytest.mark.parametrize("ranks", [(1.05, 0.3), (0.0, 0.0), (0.0, 1.3), (np.nan, 0.3)])
def test_ranks_that_are_no_shares_are_refused(ranks: tuple[float, float]) -> None:
    with pytest.raises(ArtifactError, match=r"bolts: .*ranks.*run the stage 'maps' again"):
        detector().load(bank(*ranks))


@pytest.mark.parametrize(("references", "compared"), [("auto", 256), (7, 7), (None, 2048)])
def test_so_many_images_are_compared_with(references: str | int | None, compared: int) -> None:
    options = Maps(method="musc", layers=[0], references=references)
    musc = MuSc(options, Resources(Path("none"), Compute(), "bolts"))
    numbers = musc._compared_with([f"image {number}" for number in range(2048)])
    assert len(set(numbers.tolist())) == compared


def test_maps_are_stored_to_the_power_gamma() -> None:
    raw = np.array([[[1.0, 2.0], [3.0, 5.0]]], np.float32)
    assert np.allclose(rescale_maps(raw.copy(), 1.0, 5.0, 1.0), [[[0, 0.25], [0.5, 1]]])
    assert np.allclose(rescale_maps(raw.copy(), 1.0, 5.0, 0.5), [[[0, 0.5], [0.5**0.5, 1]]])


class Tokens:
    """Stands in for the ViT: the pixels of an image, (4, 3), are its tokens."""

    def __init__(self, options: Maps, resources: Resources, layers: Sequence[int]) -> None:
        del options, resources, layers

    def __call__(self, images: Images, what: str, allocate: Allocate) -> Features:
        tokens = np.array([image[:, :, 0] for image in images], np.float32)
        return Features((tokens,), np.zeros((len(tokens), 3), np.float32), (2, 2))


def shown(values: list[int], parts: str, prefix: str = "") -> Images:
    """An image for each value: its patches point the more aside, the higher the value."""
    pixels = [np.array([[[100], [v], [0]]] * 4, np.uint8) for v in values]
    names = [f"{prefix}{i}" for i in range(len(values))]
    return Images(names, lambda i: pixels[i], list(parts))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> MuSc:
    monkeypatch.setattr(musc_maps, "PatchFeatures", Tokens)
    options = Maps(
        method="musc", layers=[0], neighbourhoods=[1], skip=0.0, fraction=1.0, image_score="maximum"
    )
    return MuSc(options, Resources(Path("none"), Compute(device="cpu", dtype="float32"), "bolts"))


def test_exposures_of_one_part_do_not_vouch_for_each_other(plain: MuSc) -> None:
    """Two exposures of an odd part beside three others: its twin must not lower the score."""
    values = [80, 80, 0, 2, 4]
    alone = plain.score_run(shown(values, "abcde")).patch_scores[:]
    apart = plain.score_run(shown(values, "aabcd")).patch_scores[:]
    odd = shown([80, 0, 2, 4], "abcd")
    once = plain.score_run(odd).patch_scores[:]
    np.testing.assert_allclose(apart[0], once[0], atol=1e-5)
    np.testing.assert_allclose(apart[1], once[0], atol=1e-5)
    assert (alone[0] < 0.9 * apart[0]).all()


def test_references_are_not_compared_with_queries_of_their_part(plain: MuSc) -> None:
    plain.fit(shown([80, 0], "ax", "r"))
    plain.score_run(shown([80, 0, 2, 4], "abcd"))
    known = plain.score_references()
    assert list(known.names) == ["r0", "r1"]
    fresh = plain.score(shown([80], "z", "n")).patch_scores[:]
    assert (known.scores.patch_scores[0] > 1.2 * fresh[0]).all()


def test_images_of_one_part_alone_are_named(plain: MuSc) -> None:
    with pytest.raises(ArtifactError, match=r"bolts: .*different parts.*only one"):
        plain.score_run(shown([1, 2, 3], "aaa"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_blocks_compare_with_references_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: type
) -> None:
    """150 images in three blocks against 40, two images a part; no file of a block is left."""
    tokens = np.random.default_rng(0).normal(size=(150, 36, 16)).astype(dtype)

    class Drawn(Tokens):
        def __call__(self, images: Images, what: str, allocate: Allocate) -> Features:
            return Features((tokens, tokens[::-1].copy()), np.zeros((150, 3), np.float32), (6, 6))

    monkeypatch.setattr(musc_maps, "PatchFeatures", Drawn)
    options = Maps(method="musc", layers=[0, 1], neighbourhoods=[1, 3], references=40)
    compute = Compute(device="cpu", dtype="float32")
    names = [str(i) for i in range(150)]
    images = Images(
        names, lambda i: np.zeros((1, 1, 3), np.uint8), [str(i // 2) for i in range(150)]
    )
    calls: list[str] = []

    def scored() -> np.ndarray:
        resources = Resources(Path("none"), compute, "c", folder=tmp_path)
        return np.asarray(MuSc(options, resources).score_run(images).patch_scores[:])

    whole = scored()
    with using(Through(Local(), lambda block: block, calls)):
        np.testing.assert_array_equal(scored(), whole)
    assert calls == ["against_block"]
    assert np.ptp(whole) > 0
    assert not list(tmp_path.iterdir())
