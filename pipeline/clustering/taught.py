"""Clusters and mixtures in which people have said what some regions are.

The class of a taught region is fixed in every step, as in the semi-supervised k-means of GCD (Vaze
et al., CVPR 2022); all others are free to join a taught class or to form one of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

Array = NDArray[np.float64]

FREE = -1
"""The class of a region about which nobody said anything."""

_RESTARTS = 5
_ITERATIONS = 100
_TOLERANCE = 1e-4
_REGULARISATION = 1e-3


def taught_kmeans(
    points: ArrayLike, taught: ArrayLike, n_clusters: int, *, seed: int, restarts: int = _RESTARTS
) -> NDArray[np.int64]:
    """Sort points into clusters, taught ones into theirs.

    Clusters of taught points begin at their mean, others as in k-means++; each step moves free
    points to the nearest centre. Of several starts the one with the least inertia counts.

    Parameters
    ----------
    points
        (M, d).
    taught
        (M,) cluster of each point, or `FREE`.
    n_clusters
        Clusters, more than any of `taught`. Those without a point stay empty.

    Returns
    -------
    (M,) cluster of each point.

    Raises
    ------
    ValueError
        A taught cluster is not below `n_clusters`, or lengths differ.

    Examples
    --------
    >>> taught_kmeans([[0.0], [0.2], [5.0], [5.2]], [1, -1, -1, -1], 2, seed=0).tolist()
    [1, 1, 0, 0]
    """
    x, fixed = np.asarray(points, np.float64), np.asarray(taught, np.int64)
    if len(x) != len(fixed) or fixed.max(initial=FREE) >= n_clusters:
        raise ValueError(f"{len(fixed)} taught clusters of {n_clusters} for {len(x)} points")
    rng = np.random.default_rng(seed)
    best, least = fixed, np.inf
    for _ in range(restarts):
        centres, there = _start(x, fixed, n_clusters, rng)
        labels = fixed
        for _ in range(_ITERATIONS):
            gaps = _gaps(x, centres)
            gaps[:, ~there] = np.inf
            moved = np.where(fixed == FREE, gaps.argmin(1), fixed)
            if np.array_equal(moved, labels):
                break
            labels = moved
            counts = np.bincount(labels, minlength=n_clusters)
            sums = np.eye(n_clusters)[labels].T @ x
            filled = counts > 0
            centres[filled] = sums[filled] / counts[filled, None]
        inertia = float(_gaps(x, centres)[np.arange(len(x)), labels].sum())
        if inertia < least:
            best, least = labels, inertia
    return best


def _start(
    x: Array, fixed: NDArray[np.int64], n_clusters: int, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """Return first centres (k, d), and which of them there are: no more than different points."""
    centres, there = np.zeros((n_clusters, x.shape[1])), np.zeros(n_clusters, bool)
    for k in np.unique(fixed[fixed != FREE]):
        centres[k], there[k] = x[fixed == k].mean(0), True
    free = np.flatnonzero(fixed == FREE)
    for k in np.flatnonzero(~there):
        far = _gaps(x[free], centres[there]).min(1) if there.any() else np.ones(len(free))
        if far.sum() <= 1e-12:
            break
        centres[k], there[k] = x[rng.choice(free, p=far / far.sum())], True
    return centres, there


def _gaps(x: Array, centres: Array) -> Array:
    """Return squared distances (M, k)."""
    return np.asarray(((x[:, None] - centres) ** 2).sum(2))


@dataclass(frozen=True)
class Gaussians:
    """k Gaussians with one covariance: `centres` (k, d), `weights` (k,), `precision_cholesky`.

    The product of (d, d) `precision_cholesky` and its transpose is the inverse covariance.
    """

    centres: Array
    weights: Array
    precision_cholesky: Array


def taught_gaussians(points: Array, taught: NDArray[np.int64], k: int, *, seed: int) -> Gaussians:
    """Fit `k` Gaussians with one covariance by EM; responsibilities of taught points are fixed.

    Parameters
    ----------
    points
        (M, d) float64.
    taught
        (M,) component of each point, or `FREE`.
    """
    known = taught != FREE
    resp = np.eye(k)[taught_kmeans(points, taught, k, seed=seed)]
    pinned = resp[known]
    before = -np.inf
    while True:
        size = resp.sum(0) + 10 * np.finfo(np.float64).eps
        centres = resp.T @ points / size[:, None]
        moments = points.T @ points - (size * centres.T) @ centres
        covariance = moments / len(points) + _REGULARISATION * np.eye(points.shape[1])
        root = np.linalg.inv(np.linalg.cholesky(covariance)).T
        fitted = Gaussians(centres, size / size.sum(), root)
        logs = np.log(fitted.weights) - _gaps(points @ root, centres @ root) / 2
        likelihood = np.log(np.diag(root)).sum() + float(np.logaddexp.reduce(logs, 1).mean())
        if likelihood - before < _TOLERANCE:
            return fitted
        before = likelihood
        resp = softmax(logs, axis=1)
        resp[known] = pinned
