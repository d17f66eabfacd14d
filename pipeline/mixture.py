"""Classes of regions from their descriptors: a vote of Gaussian mixtures.

Which layer, how many dimensions and how many components suit a product cannot be known without
labels, and a single mixture depends much on them. So there is one for every combination, and the
classes are the clusters of what they say together (evidence accumulation: Fred and Jain, 2005, with
k-means on the responsibilities).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

Floats = NDArray[np.float64]

_REGULARISATION = 1e-3
_RESTARTS = 5
_RESTARTS_OF_THE_VOTE = 20
_SAMPLES_PER_DIMENSION = 4


def mixture_probabilities(
    descriptors: ArrayLike,
    scores: ArrayLike,
    normal: ArrayLike,
    n_classes: int,
    *,
    dimensions: Sequence[int] = (8, 16),
    extra_components: Sequence[int] = (0, 2),
    seed: int = 0,
) -> Floats:
    """Return the class probabilities (M, n_classes) of sub-images; class 0 is normal.

    Those that are known to be `normal` (M,) bool are. The others, descriptors (M, L, D) of L
    layers, are sorted into `n_classes - 1` clusters (`vote`), by falling size. With none known to
    be normal there are `n_classes` clusters, and the one with the lowest mean of `scores` (M,), the
    anomaly scores, is normal.

    With fewer different regions than classes the last classes stay empty. Raises ValueError for
    lengths that differ, fewer than two classes, and no or impossible dimensions or components.
    """
    x, s = np.asarray(descriptors, np.float64), np.asarray(scores, np.float64)
    known = np.asarray(normal, np.bool_)
    if x.ndim != 3 or not len(x) == len(s) == len(known):
        raise ValueError(f"{len(s)} scores, {len(known)} flags for descriptors {x.shape}")
    if n_classes < 2:
        raise ValueError(f"a mixture needs 2 classes or more, not {n_classes}")
    if not dimensions or min(dimensions) < 1:
        raise ValueError(f"dimensions are {list(dimensions)}: give one or more above 0")
    if not extra_components or min(extra_components) < 0:
        raise ValueError(f"extra_components are {list(extra_components)}: give 0 or more")
    probabilities = np.zeros((len(x), n_classes))
    probabilities[known, 0] = 1.0
    x, s = x[~known], s[~known]
    if not len(x):
        return probabilities
    spaces = [project(x[:, i], d, seed) for i in range(x.shape[1]) for d in dimensions]
    n_clusters = n_classes - int(known.any())
    found = vote(spaces, n_clusters, extra_components=extra_components, seed=seed)
    order = _by_size(found)
    if not known.any():
        first = _lowest_score(found, s)
        order = [first, *(j for j in order if j != first)]
    start = n_classes - n_clusters
    probabilities[~known, start : start + len(order)] = found[:, order]
    return probabilities


def project(x: Floats, dimensions: int, seed: int) -> Floats:
    """Return (M, F) on its first principal components.

    There are `dimensions` of them, fewer where there are not four rows for each.
    """
    if len(x) < 2:
        return x
    wanted = min(dimensions, x.shape[1], max(1, len(x) // _SAMPLES_PER_DIMENSION))
    return np.asarray(PCA(wanted, random_state=seed).fit_transform(x), np.float64)


def vote(
    spaces: Sequence[Floats], n_clusters: int, *, extra_components: Sequence[int], seed: int
) -> Floats:
    """Return cluster probabilities (M, k) of M regions; k is `n_clusters` or less for few regions.

    In each of `spaces`, (M, d) each, mixtures of `n_clusters` + e Gaussians with one shared
    covariance are fitted, e from `extra_components`. k-means on the responsibilities of all of them
    gives the clusters. Each component of each mixture then votes for the clusters of the regions
    that it is responsible for; a region's probabilities are the mean of its components' votes.
    """
    said = np.concatenate(
        [_responsibilities(x, n_clusters + e, seed) for x in spaces for e in extra_components], 1
    )  # (M, all components)
    k = min(n_clusters, len(np.unique(said.round(6), axis=0)))
    labels = KMeans(k, n_init=_RESTARTS_OF_THE_VOTE, random_state=seed).fit_predict(said)
    votes = said.T @ np.eye(k)[labels]  # (all components, k)
    votes /= np.maximum(votes.sum(1, keepdims=True), 1e-12)
    found = said @ votes
    return np.asarray(found / found.sum(1, keepdims=True), np.float64)


def _responsibilities(x: Floats, n_components: int, seed: int) -> Floats:
    k = min(n_components, len(np.unique(x, axis=0)))
    if k < 2:
        return np.ones((len(x), 1))
    mixture = GaussianMixture(
        k,
        covariance_type="tied",
        n_init=_RESTARTS,
        reg_covar=_REGULARISATION,
        random_state=seed,
    )
    return np.asarray(mixture.fit(x).predict_proba(x), np.float64)


def _lowest_score(found: Floats, scores: Floats) -> int:
    """Return the cluster, of half a region at least, whose mean score is lowest."""
    size = found.sum(0)
    means = (found * scores[:, None]).sum(0) / np.maximum(size, 1e-12)
    means[size < 0.5] = np.inf
    return int(means.argmin())


def _by_size(found: Floats) -> list[int]:
    return [int(j) for j in np.argsort(-found.sum(0), kind="stable")]
