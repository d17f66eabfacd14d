"""Classes of regions from their descriptors: a vote of Gaussian mixtures.

Which layer, how many dimensions and how many components suit a product cannot be known without
labels, and a single mixture depends much on them and on its seed. So every combination is fitted
with three seeds, which makes runs agree (docs/ablations.md), and the classes are the clusters of
their responsibilities (evidence accumulation: Fred and Jain, 2005, with k-means on the
responsibilities).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from pipeline.clustering.taught import FREE, taught_gaussians, taught_kmeans

Array = NDArray[np.float64]

_REGULARISATION = 1e-3
_RESTARTS = 5
_REPEATS = 3
"""Mixtures of each combination, with seeds of their own."""
_RESTARTS_OF_THE_VOTE = 20
_SAMPLES_PER_DIMENSION = 4


@dataclass(frozen=True)
class Mixture:
    """k Gaussians with one covariance over d principal components of one layer's descriptors.

    `mean` (D,) and `axes` (d, D) project; `centres` (k, d), `precision_cholesky` (d, d), the
    Cholesky factor of the inverse covariance, and `log_weights` (k,) are the Gaussians'.
    """

    layer: int
    mean: Array
    axes: Array
    centres: Array
    precision_cholesky: Array
    log_weights: Array

    def project(self, x: Array) -> Array:
        """Return the principal components (M, d) of descriptors (M, L, D)."""
        return np.asarray((x[:, self.layer] - self.mean) @ self.axes.T)

    def responsibilities(self, x: Array) -> Array:
        """Return those (M, k) of the components for descriptors (M, L, D); rows sum to 1."""
        points = self.project(x) @ self.precision_cholesky  # (M, d)
        gaps = points[:, None] - self.centres @ self.precision_cholesky  # (M, k, d)
        return np.asarray(softmax(self.log_weights - (gaps**2).sum(2) / 2, axis=1))


@dataclass(frozen=True)
class MixtureEnsemble:
    """Fitted mixtures, and the class probabilities that each of their components stands for."""

    mixtures: Sequence[Mixture]
    votes: Array
    """(all components, n_classes) float64, rows summing to 1."""

    def probabilities(self, descriptors: ArrayLike) -> Array:
        """Return the class probabilities (M, n_classes) of descriptors (M, L, D)."""
        x = np.asarray(descriptors, np.float64)
        if not self.mixtures:
            return np.repeat(self.votes, len(x), 0)
        weights = _responsibilities(self.mixtures, x) @ self.votes  # (M, n_classes)
        return np.asarray(weights / weights.sum(1, keepdims=True))

    def components(self, descriptors: ArrayLike) -> Array:
        """Return descriptors (M, L, D) in the principal components of all layers, side by side.

        Of the mixtures of a layer, the one with the most components counts; (M, 0) without any.
        """
        x = np.asarray(descriptors, np.float64)
        widest = {m.layer: m for m in sorted(self.mixtures, key=lambda m: len(m.axes))}
        parts = [m.project(x) for _, m in sorted(widest.items())]
        return np.concatenate([np.zeros((len(x), 0)), *parts], 1)


def fit_ensemble(
    descriptors: ArrayLike,
    scores: ArrayLike,
    n_classes: int,
    *,
    normal_known: bool,
    dimensions: Sequence[int],
    extra_components: Sequence[int],
    seed: int,
    taught: ArrayLike | None = None,
) -> MixtureEnsemble:
    """Sort regions into classes by a vote of Gaussian mixtures, without labels or with a few.

    For every layer and each of `dimensions` and `extra_components` three mixtures of as many
    Gaussians as there are clusters, plus the extra ones, are fitted; k-means on the
    responsibilities of all of them gives the clusters. Each component of each mixture votes for the
    clusters of the regions that it is responsible for; a region's probabilities are the mean of its
    components' votes.

    Parameters
    ----------
    descriptors
        (M, L, D) of M regions in L layers (`descriptors.region_descriptors`).
    scores
        (M,) anomaly scores; read only where `normal_known` is False.
    n_classes
        Number of classes, the normal one (0) included.
    normal_known
        True: none of the regions is normal, and the clusters are classes 1 to n_classes - 1 by
        falling size. False: there are n_classes clusters, and the one with the lowest mean score is
        class 0.
    dimensions
        Principal components of each layer; fewer where there are not four regions for each.
    extra_components
        Gaussians in addition to one a cluster.
    taught
        (M,) class of each region that people have classified, or `FREE`. Taught regions belong to
        their class in every mixture and in the vote; taught classes keep their numbers, and the
        other clusters have what numbers are left. Regions taught to be normal make class 0 a
        cluster, whatever `normal_known` says.

    Returns
    -------
    The ensemble. With fewer different regions than clusters the last classes stay empty; without
    any region all is class 0.

    Raises
    ------
    ValueError
        For lengths that differ, fewer than two classes, no or impossible dimensions or components,
        and taught classes that are not below `n_classes`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = np.repeat(np.eye(3), [12, 8, 4], axis=0) + rng.normal(scale=0.01, size=(24, 3))
    >>> options = {"dimensions": [2], "extra_components": [0, 2], "seed": 0}
    >>> ensemble = fit_ensemble(x[:, None], np.ones(24), 4, normal_known=True, **options)
    >>> np.bincount(ensemble.probabilities(x[:, None]).argmax(1)).tolist()
    [0, 12, 8, 4]
    """
    x, s = np.asarray(descriptors, np.float64), np.asarray(scores, np.float64)
    _check(x, s, n_classes, dimensions, extra_components)
    if not len(x):
        return MixtureEnsemble([], np.eye(1, n_classes))
    if taught is not None and (np.asarray(taught) != FREE).any():
        fixed = np.asarray(taught, np.int64)
        return _fit_taught(x, s, fixed, n_classes, normal_known, dimensions, extra_components, seed)
    n_clusters = n_classes - int(normal_known)
    mixtures = [
        fit_mixture(x, layer, d, n_clusters + extra, _REPEATS * seed + repeat)
        for repeat in range(_REPEATS)
        for layer in range(x.shape[1])
        for d in dimensions
        for extra in extra_components
    ]
    responsibilities = _responsibilities(mixtures, x)
    k = min(n_clusters, len(np.unique(responsibilities.round(6), axis=0)))
    kmeans = KMeans(k, n_init=_RESTARTS_OF_THE_VOTE, random_state=seed)
    labels = kmeans.fit_predict(responsibilities)
    votes = responsibilities.T @ np.eye(k)[labels]  # (all components, k)
    votes /= np.maximum(votes.sum(1, keepdims=True), 1e-12)
    order = _class_order(responsibilities @ votes, None if normal_known else s)
    start = int(normal_known)
    class_votes = np.zeros((len(votes), n_classes))
    class_votes[:, start : start + k] = votes[:, order]
    return MixtureEnsemble(mixtures, class_votes)


def _fit_taught(
    x: Array,
    scores: Array,
    taught: NDArray[np.int64],
    n_classes: int,
    normal_known: bool,
    dimensions: Sequence[int],
    extra_components: Sequence[int],
    seed: int,
) -> MixtureEnsemble:
    """Return the ensemble in which the classes (M,) of taught regions are fixed.

    Clusters are numbered: the taught classes by number, then the others.
    """
    if len(taught) != len(x) or taught.max() >= n_classes:
        raise ValueError(f"{len(taught)} taught classes of {n_classes} for {len(x)} regions")
    classes = np.unique(taught[taught != FREE])
    normal_free = not normal_known and 0 not in classes
    numbers = [k for k in range(0 if normal_free else 1, n_classes) if k not in classes]
    k = len(classes) + len(numbers)
    clusters = np.where(taught == FREE, FREE, np.searchsorted(classes, taught))
    mixtures = [
        fit_mixture(x, layer, d, k + extra, _REPEATS * seed + repeat, clusters)
        for repeat in range(_REPEATS)
        for layer in range(x.shape[1])
        for d in dimensions
        for extra in extra_components
    ]
    responsibilities = _responsibilities(mixtures, x)
    labels = taught_kmeans(responsibilities, clusters, k, seed=seed, restarts=_RESTARTS_OF_THE_VOTE)
    votes = responsibilities.T @ np.eye(k)[labels]
    votes /= np.maximum(votes.sum(1, keepdims=True), 1e-12)
    free = (responsibilities @ votes)[:, len(classes) :]
    order = _class_order(free, scores if normal_free else None) if len(numbers) else []
    class_votes = np.zeros((len(votes), n_classes))
    class_votes[:, classes] = votes[:, : len(classes)]
    class_votes[:, numbers] = votes[:, len(classes) :][:, order]
    return MixtureEnsemble(mixtures, class_votes)


def _check(
    x: Array,
    scores: Array,
    n_classes: int,
    dimensions: Sequence[int],
    extra_components: Sequence[int],
) -> None:
    if x.ndim != 3 or len(x) != len(scores):
        raise ValueError(f"{len(scores)} scores for descriptors {x.shape}")
    if n_classes < 2:
        raise ValueError(f"a mixture needs 2 classes or more, not {n_classes}")
    if not dimensions or min(dimensions) < 1:
        raise ValueError(f"dimensions are {list(dimensions)}: give one or more above 0")
    if not extra_components or min(extra_components) < 0:
        raise ValueError(f"extra_components are {list(extra_components)}: give 0 or more")


def fit_mixture(
    x: Array,
    layer: int,
    dimensions: int,
    n_components: int,
    seed: int,
    taught: NDArray[np.int64] | None = None,
) -> Mixture:
    """Fit one mixture, in fewer dimensions where there are not four regions for each.

    `taught` (M,) gives the component of a region, or `FREE`.
    """
    rows = x[:, layer]
    d = min(dimensions, rows.shape[1], max(1, len(rows) // _SAMPLES_PER_DIMENSION))
    if len(rows) < 2 or len(np.unique(rows, axis=0)) < 2:
        return Mixture(
            layer, rows.mean(0), np.eye(d, rows.shape[1]), np.zeros((1, d)), np.eye(d), np.zeros(1)
        )
    pca = PCA(d, random_state=seed)
    points = pca.fit_transform(rows)
    if taught is not None:
        fitted = taught_gaussians(points, taught, n_components, seed=seed)
        return Mixture(
            layer,
            np.asarray(pca.mean_),
            np.asarray(pca.components_),
            fitted.centres,
            fitted.precision_cholesky,
            np.log(fitted.weights),
        )
    gaussians = GaussianMixture(
        min(n_components, len(np.unique(points, axis=0))),
        covariance_type="tied",
        n_init=_RESTARTS,
        reg_covar=_REGULARISATION,
        random_state=seed,
    ).fit(points)
    return Mixture(
        layer,
        np.asarray(pca.mean_),
        np.asarray(pca.components_),
        np.asarray(gaussians.means_),
        np.asarray(gaussians.precisions_cholesky_),
        np.log(gaussians.weights_),
    )


def _responsibilities(mixtures: Sequence[Mixture], x: Array) -> Array:
    """Return those of all mixtures side by side, (M, all components)."""
    return np.concatenate([mixture.responsibilities(x) for mixture in mixtures], 1)


def _class_order(weights: Array, scores: Array | None) -> list[int]:
    """Order clusters with `weights` (M, k) by falling size; the normal one first, given scores."""
    order = [int(j) for j in np.argsort(-weights.sum(0), kind="stable")]
    if scores is None:
        return order
    first = _lowest_score(weights, scores)
    return [first, *(j for j in order if j != first)]


def _lowest_score(weights: Array, scores: Array) -> int:
    """Return the cluster, of half a region at least, whose mean score is lowest."""
    size = weights.sum(0)
    means = (weights * scores[:, None]).sum(0) / np.maximum(size, 1e-12)
    means[size < 0.5] = np.inf
    return int(means.argmin())
