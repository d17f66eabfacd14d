"""How typical the regions of a class are for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def typicality(
    embeddings: NDArray[np.floating], classes: Sequence[Hashable]
) -> NDArray[np.float64]:
    """Return for each embedding (M, D) the cosine to the mean of its class, (M,) in [-1, 1].

    Embeddings are scaled to length 1 first, the mean includes the region itself: a region that is
    alone in its class has 1. An embedding of zeros, or a class whose embeddings cancel out, gives
    0. Raises ValueError if `classes` has another length.
    """
    values = np.asarray(embeddings, np.float64)
    if len(values) != len(classes):
        raise ValueError(f"{len(values)} embeddings, {len(classes)} classes")
    values = _unit(values)
    members: dict[Hashable, list[int]] = {}
    for i, k in enumerate(classes):
        members.setdefault(k, []).append(i)
    found = np.zeros(len(values))
    for rows in members.values():
        mean = _unit(values[rows].mean(axis=0))
        found[rows] = values[rows] @ mean
    return np.clip(found, -1, 1)


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale the last axis to length 1; what is shorter than 1e-12 becomes 0."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = np.where(length > 1e-12, values / np.maximum(length, 1e-12), 0)
    return unit
