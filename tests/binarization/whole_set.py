"""MEBin over all maps of a set at once, as the stage does it in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.binarization.mebin import binarize_map, score_range
from pipeline.binarization.stable_run import SelectionRule
from pipeline.config.detection import Mebin

OPTIONS = Mebin()


@dataclass(frozen=True)
class Binarization:
    """The fields of `MapBinarization` with a first axis, and the range of scores."""

    masks: NDArray[np.bool_]
    threshold: NDArray[np.float64]
    n_regions: NDArray[np.int64]
    run_length: NDArray[np.int64]
    counts: NDArray[np.int32]
    s_min: float
    s_max: float


def binarize(
    maps: NDArray[Any],
    *,
    rule: SelectionRule = OPTIONS.rule,
    floor: float | None = None,
    **options: int,
) -> Binarization:
    """Binarize maps (N, H, W); `options` are those of `binarize_map`, or config's."""
    ends = score_range(maps.max(axis=(1, 2)), rule=rule, floor=floor)
    options = {
        "thresholds": OPTIONS.n_thresholds,
        "tau": OPTIONS.tau,
        "erode_px": OPTIONS.erode_px,
        **options,
    }
    results = [binarize_map(amap, ends, rule=rule, **options) for amap in maps]
    return Binarization(
        masks=np.stack([r.mask for r in results]),
        threshold=np.array([r.threshold for r in results], np.float64),
        n_regions=np.array([r.n_regions for r in results], np.int64),
        run_length=np.array([r.run_length for r in results], np.int64),
        counts=np.stack([r.counts for r in results]),
        s_min=ends.s_min,
        s_max=ends.s_max,
    )
