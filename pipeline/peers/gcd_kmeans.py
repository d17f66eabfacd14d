"""GCD's semi-supervised k-means: Vaze, Han, Vedaldi, Zisserman, CVPR 2022.

Code: sgvaze/generalized-category-discovery. Labelled points stay with their class; the others go to
the nearest centre. Without the contrastive training of the paper, on frozen class tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.clustering.descriptors import l2_normalise
from pipeline.peers.base import Assignment, Ints, PeerData, PeerRow

Doubles = NDArray[np.float64]

_ITERATIONS = 200


@dataclass(frozen=True)
class Clusters:
    """Labels (N,) of the unlabelled points, centres (K, D), inertia of all points."""

    labels: Ints
    centres: Doubles
    inertia: float


def squared_gaps(points: Doubles, centres: Doubles) -> Doubles:
    """Return ||x_i - c_k||^2 (N, K)."""
    return np.asarray(((points[:, None] - centres[None]) ** 2).sum(2))


def class_means(points: Doubles, labels: Ints) -> Doubles:
    """Return the mean (C_l, D) of each labelled class."""
    n = int(labels.max()) + 1 if len(labels) else 0
    return np.array([points[labels == k].mean(0) for k in range(n)]).reshape(n, points.shape[1])


def further_centres(
    points: Doubles, centres: Doubles, count: int, rng: np.random.Generator
) -> Doubles:
    """Return `centres` and `count` more, drawn from points (N, D) by k-means++ given the first."""
    for _ in range(count):
        weights = np.ones(len(points))
        if len(centres):
            weights = squared_gaps(points, centres).min(1)
        if weights.sum() <= 0:  # every point has a centre on it
            weights = np.ones(len(points))
        drawn = points[rng.choice(len(points), p=weights / weights.sum())]
        centres = np.concatenate([centres, drawn[None]])
    return centres


def clamped_kmeans(
    queries: Doubles,
    base: Doubles,
    base_labels: Ints,
    centres: Doubles,
    *,
    open_set: bool,
    iterations: int = _ITERATIONS,
) -> Clusters:
    """Alternate from `centres` (K, D), the first C_l of them those of the base classes.

    Queries (N, D) go to their nearest centre (only one after the first C_l unless `open_set`), base
    points (M, D) stay in their class; each centre is the mean of all its points. An empty cluster
    keeps its centre.
    """
    n_base = int(base_labels.max()) + 1 if len(base_labels) else 0
    everything = np.concatenate([queries, base])
    labels = np.full(len(queries), -1, np.int64)
    first = 0 if open_set else n_base
    for _ in range(iterations):
        nearest = squared_gaps(queries, centres[first:]).argmin(1) + first
        if np.array_equal(nearest, labels):
            break
        labels = nearest.astype(np.int64)
        members = np.concatenate([labels, base_labels])
        for k in set(members.tolist()):
            centres = centres.copy()
            centres[k] = everything[members == k].mean(0)
    members = np.concatenate([labels, base_labels])
    inertia = float(((everything - centres[members]) ** 2).sum())
    return Clusters(labels, centres, inertia)


@dataclass(frozen=True)
class SemiSupervisedKMeans:
    """The best of `restarts` by inertia. `open_set` lets a query fall into a base class."""

    restarts: int = 10
    open_set: bool = False

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard clusters; those from n_classes on are base classes (`open_set`)."""
        queries = l2_normalise(np.asarray(data.class_tokens, np.float64))
        base, base_labels = np.zeros((0, queries.shape[1])), np.zeros(0, np.int64)
        if data.base_tokens is not None and data.base_labels is not None:
            base = l2_normalise(np.asarray(data.base_tokens, np.float64))
            base_labels = data.base_labels
        known = class_means(base, base_labels)
        best: Clusters | None = None
        for restart in range(self.restarts):
            rng = np.random.default_rng([seed, restart])
            centres = further_centres(queries, known, n_classes, rng)
            found = clamped_kmeans(queries, base, base_labels, centres, open_set=self.open_set)
            if best is None or found.inertia < best.inertia:
                best = found
        if best is None:
            raise ValueError("restarts must be at least 1")
        novel = best.labels - len(known)
        return Assignment(np.where(novel >= 0, novel, best.labels + n_classes))


ROWS = {
    "gcd_kmeans": PeerRow(
        name="GCD (k-means only)",
        method=SemiSupervisedKMeans(),
        inputs=("whole", "crop"),
        uses=frozenset({"B"}),
        random=True,
        published={"MVTec AD": (0.417, 0.302, 0.553), "MTD": (0.211, 0.115, 0.381)},
        footnote="Published with contrastive training of the last block; without a base set this "
        "is plain k-means.",
    ),
}
