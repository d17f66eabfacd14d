"""The floors: what clustering of frozen features gives without any method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.clustering.descriptors import l2_normalise
from pipeline.peers.base import Assignment, PeerData, PeerRow
from pipeline.peers.partitions import kmeans_labels, ward_labels


@dataclass(frozen=True)
class Floor:
    """A clustering of L2-normalised class tokens, or of tokens pooled by the map."""

    algorithm: Literal["kmeans", "ward"]
    tokens: Literal["class", "pooled"]

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard clusters. Raises ValueError for pooled tokens that are not there."""
        tokens = data.class_tokens if self.tokens == "class" else data.pooled
        if tokens is None:
            raise ValueError("there are no pooled tokens: use the input crop")
        points = l2_normalise(np.asarray(tokens, np.float32))
        if self.algorithm == "ward":
            return Assignment(ward_labels(points, n_classes))
        return Assignment(kmeans_labels(points, n_classes, seed))


def _row(algorithm: Literal["kmeans", "ward"], tokens: Literal["class", "pooled"]) -> PeerRow:
    title = "k-means" if algorithm == "kmeans" else "Ward"
    what = "class" if tokens == "class" else "map-pooled"
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
