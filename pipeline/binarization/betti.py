"""Numbers of connected components of a map at many thresholds, from one pass over its pixels.

The number of components as a function of the threshold is the 0-th Betti curve of the map. Coming
down from the highest threshold, pixels join one at a time: a pixel without a neighbour among those
that have joined starts a component, and one between several components merges them. So one
union-find pass over the pixels in falling order gives the exact count at every threshold.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_ABSENT = -1
_RING_Y = np.array([-1, -1, -1, 0, 1, 1, 1, 0])
_RING_X = np.array([-1, 0, 1, 1, 1, 0, -1, -1])
"""The eight neighbours of a pixel, once around it."""


def _representatives() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tabulate, for each set of present neighbours, one of each group of neighbours that touch.

    Neighbours that touch each other are in one component already, so one of them stands for all.
    Returns the first representative (256,), -1 where no neighbour is present, and the others as a
    bit set (256,); bit k of an index or set is neighbour k of the ring.
    """
    first = np.full(256, _ABSENT, np.int32)
    others = np.zeros(256, np.int32)
    for present in range(1, 256):
        unseen = {k for k in range(8) if present >> k & 1}
        chosen = []
        while unseen:
            chosen.append(min(unseen))
            group = [min(unseen)]
            while group:
                k = group.pop()
                unseen.discard(k)
                near = [
                    q
                    for q in unseen
                    if abs(_RING_Y[q] - _RING_Y[k]) <= 1 and abs(_RING_X[q] - _RING_X[k]) <= 1
                ]
                group += near
                unseen -= set(near)
        first[present] = chosen[0]
        others[present] = sum(1 << k for k in chosen[1:])
    return first, others


_FIRST, _OTHERS = _representatives()


def betti_curve(bins: NDArray[np.int32], n_levels: int) -> NDArray[np.int32]:
    """Count the 8-connected components at each of a falling series of thresholds.

    `bins` (H, W) int32 holds, for each pixel, the index of the first (highest) of the `n_levels`
    thresholds that the pixel exceeds, and any value >= `n_levels` where it exceeds none. Returns
    (n_levels,) int32: entry j counts the components of ``bins <= j``. Releases the GIL.
    """
    counts: NDArray[np.int32] = _betti_curve(np.ascontiguousarray(bins, dtype=np.int32), n_levels)
    return counts


def first_exceeded(values: NDArray[np.float32], falling: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return for each value the index of the first threshold of `falling` below it.

    `values` (H, W) float32 without NaN, `falling` (T,) float64 in non-increasing order. A value
    equal to a threshold does not exceed it; where none is exceeded the index is T. Fast for a
    nearly uniform grid, correct for any.
    """
    bins: NDArray[np.int32] = _first_exceeded(
        np.ascontiguousarray(values, dtype=np.float32),
        np.ascontiguousarray(falling, dtype=np.float64),
    )
    return bins


@numba.njit(cache=True, nogil=True)
def _first_exceeded(values, falling):  # type: ignore[no-untyped-def]
    height, width = values.shape
    n = len(falling)
    bins = np.empty((height, width), np.int32)
    highest, lowest = falling[0], falling[n - 1]
    per_unit = (n - 1) / (highest - lowest) if highest > lowest else 0.0
    for y in range(height):
        for x in range(width):
            value = np.float64(values[y, x])
            if value <= lowest:
                bins[y, x] = n
                continue
            # A guess from the uniform grid, then exact comparisons: j is the first index exceeded.
            j = min(max(int((highest - value) * per_unit), 0), n - 1)
            while j > 0 and value > falling[j - 1]:
                j -= 1
            while not value > falling[j]:
                j += 1
            bins[y, x] = j
    return bins


@numba.njit(cache=True, nogil=True)
def _root(parent, p):  # type: ignore[no-untyped-def]
    while parent[p] != p:
        parent[p] = parent[parent[p]]
        p = parent[p]
    return p


@numba.njit(cache=True, nogil=True)
def _falling_order(bins, n_levels):  # type: ignore[no-untyped-def]
    """Counting sort: padded pixel indices by level, and where each level starts."""
    height, width = bins.shape
    starts = np.zeros(n_levels + 1, np.int64)
    for y in range(height):
        for x in range(width):
            if bins[y, x] < n_levels:
                starts[bins[y, x] + 1] += 1
    for j in range(n_levels):
        starts[j + 1] += starts[j]
    order = np.empty(starts[n_levels], np.int32)
    free = starts[:n_levels].copy()
    for y in range(height):
        for x in range(width):
            j = bins[y, x]
            if j < n_levels:
                order[free[j]] = (y + 1) * (width + 2) + x + 1
                free[j] += 1
    return order, starts


@numba.njit(cache=True, nogil=True)
def _betti_curve(bins, n_levels):  # type: ignore[no-untyped-def]
    stride = bins.shape[1] + 2
    # A margin of absent pixels, so that no neighbour needs a bounds check.
    parent = np.full((bins.shape[0] + 2) * stride, _ABSENT, np.int32)
    order, starts = _falling_order(bins, n_levels)
    counts = np.empty(n_levels, np.int32)
    components = 0
    for j in range(n_levels):
        for i in range(starts[j], starts[j + 1]):
            p = order[i]
            present = 0
            for k in range(8):
                q = p + _RING_Y[k] * stride + _RING_X[k]
                present |= (parent[q] >= 0) << k
            first = _FIRST[present]
            if first < 0:
                parent[p] = p
                components += 1
                continue
            parent[p] = parent[p + _RING_Y[first] * stride + _RING_X[first]]
            others = _OTHERS[present]
            if others == 0:
                continue
            own = _root(parent, p)
            for k in range(8):
                if (others >> k) & 1:
                    root = _root(parent, p + _RING_Y[k] * stride + _RING_X[k])
                    if root != own:
                        parent[root] = own
                        components -= 1
        counts[j] = components
    return counts
