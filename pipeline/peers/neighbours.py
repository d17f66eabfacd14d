"""Nearest neighbours among the images of a set."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from pipeline.peers.base import Floats, Ints


def n_neighbours(n: int, n_classes: int, most: int) -> int:
    """Return k = min(most, N / 2K), at least 5: a class has hardly more than N / K images.

    Examples
    --------
    >>> n_neighbours(83, 4, 20), n_neighbours(1200, 6, 20), n_neighbours(30, 6, 20)
    (10, 20, 5)
    """
    return min(max(min(most, n // (2 * n_classes)), 5), n)


def cosine_neighbours(features: Floats, k: int) -> Ints:
    """Return the k nearest of each row by cosine, (N, k); the list starts with the row itself."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    itself = np.arange(len(features))[:, None]
    if k == 1:
        return itself
    near = NearestNeighbors(n_neighbors=k - 1).fit(unit).kneighbors(return_distance=False)
    return np.hstack([itself, near])
