"""What MuSc keeps of a run for new images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.params import Compute, Maps
from pipeline.inference.map_scores import rescale_maps
from pipeline.inference.musc_maps import MuSc
from pipeline.inference.patch_features import Resources
from pipeline.io.paths import ArtifactError


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
