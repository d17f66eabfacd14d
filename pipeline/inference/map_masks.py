"""From an anomaly map to a mask, by section `mebin`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange, binarize_map
from pipeline.binarization.thresholds import (
    MapBinarization,
    binarize_fixed,
    binarize_otsu,
    count_regions,
)
from pipeline.config.detection import Mebin

Binarize = Callable[[NDArray[np.float32]], MapBinarization]


def binarizer(options: Mebin, score_range: ScoreRange) -> Binarize:
    """Return what makes a mask of one map (H, W) in [0, 1], by `mebin.method`."""
    if options.method == "fixed":
        return lambda amap: binarize_fixed(
            amap, threshold=options.fixed_threshold, erode_px=options.erode_px
        )
    if options.method == "otsu":
        return lambda amap: binarize_otsu(amap, erode_px=options.erode_px)
    return lambda amap: binarize_map(
        amap,
        score_range,
        thresholds=options.n_thresholds,
        tau=options.tau,
        erode_px=options.erode_px,
        rule=options.rule,
    )


def pass_through(amap: NDArray[np.float32]) -> MapBinarization:
    """Binarize a map of zeros and ones, as `maps.method: ground_truth` makes it."""
    mask = amap > 0
    return MapBinarization(mask, float("nan"), count_regions(mask), 0, np.empty(0, np.int32))
