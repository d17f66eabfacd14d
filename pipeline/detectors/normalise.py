"""Min-max normalisation over a whole set of maps.

Never per image: that would make the good images light up like the bad ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def value_range(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return (smallest, largest) value; raises ValueError for no values or any NaN or infinity."""
    if values.size == 0:
        raise ValueError("no values: there is nothing to normalise")
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("anomaly maps hold NaN or infinity")
    return low, high


def joint_range(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the range that holds all `ranges`; raises ValueError if there are none."""
    pairs = list(ranges)
    if not pairs:
        raise ValueError("no maps: there is nothing to normalise")
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def rescale(values: NDArray[np.floating[Any]], low: float, high: float) -> NDArray[np.float32]:
    """Map [low, high] to [0, 1] in float32 and clip; a constant set (low = high) gives zeros."""
    if not high > low:
        return np.zeros(values.shape, np.float32)
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.clip(scaled, 0, 1).astype(np.float32)


def stretching(minima: NDArray[np.floating[Any]], maxima: NDArray[np.floating[Any]]) -> list[int]:
    """Return which maps (N,) leave next to nothing of the joint range to the others.

    The twentieth of the maps with the highest maxima, and that with the lowest minima, are held
    against the range of the rest: they may go 100 such ranges above it, or one below it.
    """
    low, high = minima.astype(np.float64), maxima.astype(np.float64)
    some = max(1, len(low) // 20)
    if len(low) <= 2 * some:
        return []
    strange = set(np.argsort(high, kind="stable")[-some:]) | set(
        np.argsort(low, kind="stable")[:some]
    )
    rest = [i for i in range(len(low)) if i not in strange]
    bottom, top = low[rest].min(), high[rest].max()
    span = top - bottom
    if not span > 0:
        return []
    return [int(i) for i in np.flatnonzero((high > top + 100 * span) | (low < bottom - span))]
