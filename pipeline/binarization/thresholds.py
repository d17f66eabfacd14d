"""Binary masks from one threshold a map, and the two plain ways to choose it: fixed, and Otsu's.

They are the alternatives that AnomalyNCD compares MEBin (`pipeline.binarization.mebin`) with.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.uint8] | NDArray[np.float32]

_NO_COUNTS: NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(frozen=True)
class MapBinarization:
    """One binarized map."""

    mask: NDArray[np.bool_]
    """(H, W)."""
    threshold: float
    """In the units of the map; NaN without a region."""
    n_regions: int
    """Number of 8-connected components of the mask."""
    run_length: int
    """How many thresholds the stable run spans; 0 without one."""
    counts: NDArray[np.int32]
    """(L,) components at each sampled threshold, highest first; empty where none are sampled."""


def binarize_fixed(amap: Map, *, threshold: float, erode_px: int) -> MapBinarization:
    """Binarize one map (H, W) at a fixed threshold in its own units, then erode (an ablation).

    Raises ValueError if the threshold is NaN or negative.
    """
    amap = checked_map(amap)
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}: give a score that is not negative")
    mask = erode(amap, erode_px) > np.float64(threshold)
    return MapBinarization(mask, float(threshold), count_regions(mask), 0, _NO_COUNTS)


def binarize_otsu(amap: Map, *, erode_px: int) -> MapBinarization:
    """Binarize one map by Otsu's threshold, then erode (an ablation).

    Parameters
    ----------
    amap
        (H, W) uint8 or floats in [0, 1]. The histogram has 256 bins: the values of a uint8 map, or
        equal parts between the lowest and highest value of a float map; OpenCV chooses the bin.
    erode_px
        Side of the square that erodes, in pixels of the map (0: none).

    Returns
    -------
    The mask; empty, with the threshold NaN, for a constant map.

    Examples
    --------
    >>> import numpy as np
    >>> binarize_otsu(np.array([[10, 12, 200, 210]], np.uint8), erode_px=0).mask.tolist()
    [[False, False, True, True]]
    """
    amap = checked_map(amap)
    low, high = amap.min(), amap.max()
    if low == high:
        return MapBinarization(np.zeros(amap.shape, np.bool_), float("nan"), 0, 0, _NO_COUNTS)
    bins = amap
    if amap.dtype != np.uint8:
        scaled = (amap.astype(np.float64) - low) / (float(high) - low)
        bins = np.floor(scaled * 255).astype(np.uint8)
    last, _ = cv2.threshold(bins, 0, 255, cv2.THRESH_OTSU)
    lower = bins <= last
    threshold = float(amap[lower].max())
    mask = erode(amap, erode_px) > np.float64(threshold)
    return MapBinarization(mask, threshold, count_regions(mask), 0, _NO_COUNTS)


def erode(image: Map, erode_px: int) -> Map:
    """Erode a map (H, W): the minimum over squares of side `erode_px` (0, 1: no change).

    The window of side k spans -(k // 2) .. k - 1 - k // 2 on both axes (6: -3..+2), and pixels
    outside the map never erode. Raises ValueError for a negative side.
    """
    if erode_px < 0:
        raise ValueError(f"erode_px is {erode_px}: give 0 or more")
    if erode_px <= 1:
        return image
    eroded: Map = cv2.erode(
        image,
        np.ones((erode_px, erode_px), np.uint8),
        anchor=(erode_px // 2, erode_px // 2),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=255.0 if image.dtype == np.uint8 else np.inf,
    )
    return eroded


def count_regions(mask: NDArray[np.bool_]) -> int:
    """Count the 8-connected components of a mask (H, W)."""
    n_labels, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return int(n_labels) - 1


def checked_map(amap: Map) -> Map:
    """Return a map as uint8 or float32, or raise ValueError.

    Other floats are converted. Refused: other types, a shape other than (H, W) with H, W > 0, NaN,
    and floats outside [0, 1].
    """
    if amap.ndim != 2 or 0 in amap.shape:
        raise ValueError(f"the map must have shape (H, W) with H, W > 0, not {amap.shape}")
    if amap.dtype == np.uint8:
        return amap
    if amap.dtype.kind != "f":
        raise ValueError(f"the map must be uint8 or floats in [0, 1], not {amap.dtype}")
    low, high = float(amap.min()), float(amap.max())
    if not (low >= 0 and high <= 1):
        values = "NaN" if np.isnan(low) else f"values from {low:g} to {high:g}"
        raise ValueError(f"the map has {values}: maps must be normalised over the set to [0, 1]")
    return amap.astype(np.float32, copy=False)
