"""Clusterings and distances that several methods end with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering, KMeans
from torch import Tensor

from pipeline.peers.base import Ints

_RESTARTS = 10


def kmeans_labels(points: NDArray[np.floating], n_classes: int, seed: int) -> Ints:
    """Return the k-means clusters (N,) of points (N, D): the best of 10 restarts.

    There are no more clusters than different points.
    """
    k = min(n_classes, len(np.unique(points, axis=0)))
    model = KMeans(k, n_init=_RESTARTS, random_state=seed)
    return np.asarray(model.fit_predict(points), np.int64)


def ward_labels(points: NDArray[np.floating], n_classes: int) -> Ints:
    """Return Ward's clusters (N,) of points (N, D): the merges that raise the inertia least."""
    if len(points) < 2:
        return np.zeros(len(points), np.int64)
    model = AgglomerativeClustering(min(n_classes, len(points)), linkage="ward")
    return np.asarray(model.fit_predict(points), np.int64)


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return the squared Euclidean distances (m, n) between rows of (m, D) and (n, D), in float32.

    By |a|^2 + |b|^2 - 2 ab; at least 0.
    """
    sums = left.square().sum(1)[:, None] + right.square().sum(1)
    return (sums - 2 * left @ right.T).clamp_min(0)
