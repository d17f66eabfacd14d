"""From one image and its anomaly map to its sub-images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange
from pipeline.config.detection import Mebin
from pipeline.config.params import Crops
from pipeline.inference.map_masks import Binarizer
from pipeline.inference.mask_squares import squares_of, stable_count
from pipeline.regions.crops import area_px, crop_scores, cut, resize_mask
from pipeline.regions.weights import map_weights


@dataclass(frozen=True)
class ImageRegions:
    """The K sub-images of one image.

    `squares` (K, 3) int64 are x0, y0, side in its pixels; `areas` (K,) int64 mask pixels; `scores`
    (K,) in [0, 1]; `images` (K, S, S, 3) uint8 RGB and `weights` (K, S, S) uint8, 0 outside the
    mask.
    """

    squares: NDArray[np.int64]
    areas: NDArray[np.int64]
    scores: NDArray[np.float64]
    images: NDArray[np.uint8]
    weights: NDArray[np.uint8]


def regions_of(
    image: NDArray[np.uint8],
    amap: NDArray[np.float32],
    mebin: Mebin,
    crops: Crops,
    score_range: ScoreRange,
) -> ImageRegions:
    """Return the sub-images of an image (H, W, 3) uint8 RGB, by its map (h, w) in [0, 1].

    `score_range` is that of the run, in which thresholds are sought.
    """
    shape = (image.shape[0], image.shape[1])
    found = Binarizer(mebin, score_range)(amap)
    n_stable = stable_count(
        found.n_regions, found.counts, method=mebin.method, tau=mebin.tau, rule=mebin.rule
    )
    mask = resize_mask(found.mask, shape)
    squares = squares_of(mask, crops, n_stable)
    s_min, s_max = score_range.s_min, score_range.s_max
    weights = map_weights(amap, mask, s_min=s_min, s_max=s_max)
    pairs = [cut(image, weights, square, size=crops.size) for square in squares]
    return ImageRegions(
        squares,
        np.array([area_px(mask, square) for square in squares], np.int64),
        crop_scores(amap, squares, shape, s_min=s_min, s_max=s_max),
        np.stack([pixels for pixels, _ in pairs]),
        np.stack([inside for _, inside in pairs]),
    )
