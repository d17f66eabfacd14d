"""How unlike the regions of a model a new region is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NEIGHBOURS = 3
_KNOWN = 0.95
_ROWS = 256


@dataclass(frozen=True)
class KnnNovelty:
    """The descriptors (M, L, D) of a model's regions, and the distance of 95% of them."""

    directions: NDArray[np.float32]
    limit: float

    def distances(self, descriptors: ArrayLike) -> NDArray[np.float64]:
        """Return how far (Q,) descriptors (Q, L, D) are from the three nearest known ones.

        A distance is 1 minus the cosine, averaged over layers and neighbours; in [0, 2], and
        infinite where nothing is known.
        """
        rows = directions(descriptors)
        parts = [_nearest(_cosines(rows[b], self.directions)) for b in _blocks(rows)]
        return np.concatenate([np.zeros(0), *parts])

    def unknown(self, descriptors: ArrayLike) -> NDArray[np.bool_]:
        """Return which (Q,) are farther than `limit`."""
        return np.asarray(self.distances(descriptors) > self.limit)


def fit_novelty(descriptors: ArrayLike) -> KnnNovelty:
    """Learn what is known from the descriptors (M, L, D) of a model's regions.

    The limit is the 95% quantile of each region's distance to the others, so that about one in
    twenty regions like those of the model is called unknown. With fewer than two regions there is
    nothing to tell it from, and nothing is unknown.
    """
    known = directions(descriptors)
    if len(known) < 2:
        return KnnNovelty(known, np.inf)
    own = []
    for block in _blocks(known):
        cosines = _cosines(known[block], known)
        rows = np.arange(len(cosines))
        cosines[rows, block.start + rows] = -np.inf  # itself
        own.append(_nearest(cosines, own=True))
    return KnnNovelty(known, float(np.quantile(np.concatenate(own), _KNOWN)))


def directions(descriptors: ArrayLike) -> NDArray[np.float32]:
    """Return descriptors (M, L, D) scaled to length 1 in each layer; zeros stay zeros."""
    x = np.asarray(descriptors, np.float32)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9))


def _blocks(rows: NDArray[np.float32]) -> list[slice]:
    """Cut rows into blocks, so that memory does not grow with the square of their number."""
    return [slice(start, start + _ROWS) for start in range(0, len(rows), _ROWS)]


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (Q, M), the mean over layers."""
    products = np.einsum("qld,mld->qm", a, b, optimize=True) / max(a.shape[1], 1)
    return np.asarray(products, np.float64)


def _nearest(cosines: NDArray[np.float64], *, own: bool = False) -> NDArray[np.float64]:
    k = min(_NEIGHBOURS, cosines.shape[1] - int(own))
    if k < 1:
        return np.full(len(cosines), np.inf)
    return np.asarray(1 - np.sort(cosines, axis=1)[:, -k:].mean(1))
