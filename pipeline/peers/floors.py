"""The floors: what clustering of frozen features gives without any method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering, KMeans

from pipeline.clustering.descriptors import l2_normalise
from pipeline.peers.base import Assignment, Ints, PeerData, PeerRow

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


@dataclass(frozen=True)
class Floor:
    """A clustering of L2-normalised class tokens, or of tokens pooled under the masks."""

    algorithm: Literal["kmeans", "ward"]
    tokens: Literal["class", "pooled"]

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard clusters. Raises ValueError for pooled tokens that are not there."""
        tokens = data.class_tokens if self.tokens == "class" else data.pooled
        if tokens is None:
            raise ValueError("there are no tokens pooled under masks: use the input crop")
        points = l2_normalise(np.asarray(tokens, np.float32))
        if self.algorithm == "ward":
            return Assignment(ward_labels(points, n_classes))
        return Assignment(kmeans_labels(points, n_classes, seed))


def _row(algorithm: Literal["kmeans", "ward"], tokens: Literal["class", "pooled"]) -> PeerRow:
    title = "k-means" if algorithm == "kmeans" else "Ward"
    what = "class" if tokens == "class" else "mask-pooled"
    return PeerRow(
        name=f"{title} on {what} tokens",
        method=Floor(algorithm, tokens),
        inputs=("whole", "crop") if tokens == "class" else ("crop",),
        random=algorithm == "kmeans",
        basis="M",
        footnote="A floor: no method, only frozen DINOv2 features.",
    )


ROWS = {
    "kmeans_class": _row("kmeans", "class"),
    "ward_class": _row("ward", "class"),
    "kmeans_pooled": _row("kmeans", "pooled"),
    "ward_pooled": _row("ward", "pooled"),
}
