"""MEBin (section 3.2) with one pass of erosion and connected components a threshold.

The same masks as `pipeline.binarization.mebin.binarize_map`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def binarize_map(
    amap: NDArray[np.float32],
    s_min: float,
    s_max: float,
    *,
    thresholds: int = 64,
    tau: int = 4,
    erode_px: int = 6,
) -> tuple[NDArray[np.bool_], int]:
    """Return the mask (H, W) of a map (H, W) in [0, 1], and delta*, 0 where nothing is stable.

    Rule "paper": of the most frequent non-zero count the longest run of thresholds; at least `tau`.
    """
    levels = 255 - np.arange(thresholds) * 256 / thresholds
    cuts = (s_min + levels * (s_max - s_min) / 255).astype(np.float32)
    counts = []
    for cut in cuts:
        mask = _eroded(amap, cut, erode_px)
        n_labels, _, _, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        counts.append(n_labels - 1)
    at, count = _stable(counts, tau)
    if at < 0:
        return np.zeros(amap.shape, np.bool_), 0
    return _eroded(amap, cuts[at], erode_px) > 0, count


def _eroded(amap: NDArray[np.float32], cut: np.float32, erode_px: int) -> NDArray[np.uint8]:
    mask = np.where(amap > cut, 255, 0).astype(np.uint8)
    return np.asarray(cv2.erode(mask, np.ones((erode_px, erode_px), np.uint8)), np.uint8)


def _stable(counts: list[int], tau: int) -> tuple[int, int]:
    """Return the index of the lowest threshold of the stable run, and its count; -1, 0 if none."""
    frequency: dict[int, int] = {}
    for count in counts:
        if count:
            frequency[count] = frequency.get(count, 0) + 1
    if not frequency:
        return -1, 0
    stable = max(frequency, key=lambda count: frequency[count])
    best_end, best_length, length = -1, 0, 0
    for j, count in enumerate(counts):
        length = length + 1 if count == stable else 0
        ends = j + 1 == len(counts) or counts[j + 1] != stable
        if length and ends and length >= best_length:
            best_end, best_length = j, length
    return (best_end, stable) if best_length >= tau else (-1, 0)
