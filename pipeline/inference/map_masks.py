"""From an anomaly map to a mask, by section `mebin`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Binarizer:
    """Makes a mask of one map (H, W) in [0, 1], by `mebin.method`."""

    options: Mebin
    score_range: ScoreRange

    def __call__(self, amap: NDArray[np.float32]) -> MapBinarization:
        """Return the mask of a map."""
        options = self.options
        if options.method == "fixed":
            return binarize_fixed(
                amap, threshold=options.fixed_threshold, erode_px=options.erode_px
            )
        if options.method == "otsu":
            return binarize_otsu(amap, erode_px=options.erode_px)
        return binarize_map(
            amap,
            self.score_range,
            thresholds=options.n_thresholds,
            tau=options.tau,
            erode_px=options.erode_px,
            rule=options.rule,
        )


def pass_through(amap: NDArray[np.float32]) -> MapBinarization:
    """Binarize a map of zeros and ones, as `maps.method: ground_truth` makes it."""
    mask = amap > 0
    return MapBinarization(mask, float("nan"), count_regions(mask), 0, np.empty(0, np.int32))
