"""How many classes of defects there are, from the regions alone.

A number of classes is right when different views of the same regions agree about them: mixtures on
the different layers, and clusterings of two halves of the regions; and when the clusters are apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.mixture import GaussianMixture

Floats = NDArray[np.float64]

_DIMENSIONS = 8
_SAMPLES_PER_DIMENSION = 4
_HALVES = 8
_RESTARTS = 3
_MOST = 12
_CONVINCING = 0.4


@dataclass(frozen=True)
class Candidate:
    """A number of clusters k and what speaks for it.

    `agreement`: mean adjusted Rand index between mixtures on two layers each. `stability`: that of
    k-means on one half of the regions, applied to the other half, with k-means of that half.
    `silhouette`: of k-means on all. Each is 1 at best; `score` is their mean.
    """

    k: int
    agreement: float
    stability: float
    silhouette: float

    @property
    def score(self) -> float:
        """Return the mean of the three."""
        return (self.agreement + self.stability + self.silhouette) / 3


def count_candidates(
    descriptors: ArrayLike, *, most: int = _MOST, seed: int = 0
) -> Sequence[Candidate]:
    """Return candidates for 2 to `most` clusters of descriptors (M, L, D), in that order.

    There are none with fewer than 8 regions, and none above a quarter of
    them or half of the different ones.
    """
    x = np.asarray(descriptors, np.float64)
    n = len(x)
    if n < 2 * _SAMPLES_PER_DIMENSION:
        return []
    d = max(1, min(_DIMENSIONS, n // _SAMPLES_PER_DIMENSION, x.shape[2]))
    layers = [PCA(d, random_state=seed).fit_transform(x[:, i]) for i in range(x.shape[1])]
    together = np.concatenate(layers, 1)
    distinct = len(np.unique(together.round(6), axis=0))
    largest = min(most, n // _SAMPLES_PER_DIMENSION, distinct // 2)
    return [
        Candidate(
            k,
            _agreement(layers, k, seed),
            _stability(together, k, seed),
            _silhouette(together, k, seed),
        )
        for k in range(2, largest + 1)
    ]


def best_count(candidates: Sequence[Candidate]) -> int:
    """Return the number of clusters with the highest score, the smaller of equal ones.

    It is 1 where no number scores 0.4, as with a single kind of defect, and without candidates.
    """
    best = max(candidates, key=lambda candidate: (candidate.score, -candidate.k), default=None)
    return 1 if best is None or best.score < _CONVINCING else best.k


def _agreement(layers: Sequence[Floats], k: int, seed: int) -> float:
    found = [
        GaussianMixture(
            k, covariance_type="tied", n_init=_RESTARTS, reg_covar=1e-3, random_state=seed
        ).fit_predict(points)
        for points in layers
    ]
    pairs = [adjusted_rand_score(a, b) for a, b in combinations(found, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


def _stability(points: Floats, k: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(_HALVES):
        a, b = np.array_split(rng.permutation(len(points)), 2)
        one, two = (_k_means(k, seed).fit(points[half]) for half in (a, b))
        values.append(adjusted_rand_score(one.predict(points[b]), two.labels_))
    return float(np.mean(values))


def _silhouette(points: Floats, k: int, seed: int) -> float:
    labels = _k_means(k, seed).fit_predict(points)
    return float(silhouette_score(points, labels)) if len(set(labels)) > 1 else 0.0


def _k_means(k: int, seed: int) -> KMeans:
    return KMeans(k, n_init=_RESTARTS, random_state=seed)
