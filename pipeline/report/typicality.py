"""How typical the regions of a class are for it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize


def typicality(
    descriptors: NDArray[np.floating], classes: Sequence[Hashable]
) -> NDArray[np.float64]:
    """Return for each descriptor (M, D) the cosine to the mean of its class, (M,) in [-1, 1].

    Descriptors are scaled to length 1 first, the mean includes the region itself: a region that is
    alone in its class has 1. A descriptor of zeros, or a class whose descriptors cancel out, gives
    0. Raises ValueError if `classes` has another length.
    """
    values = np.asarray(descriptors, np.float64)
    if len(values) != len(classes):
        raise ValueError(f"{len(values)} descriptors, {len(classes)} classes")
    if not len(values):
        return np.zeros(0)
    values = normalize(values)
    members: dict[Hashable, list[int]] = {}
    for i, k in enumerate(classes):
        members.setdefault(k, []).append(i)
    found = np.zeros(len(values))
    for rows in members.values():
        mean = normalize(values[rows].mean(axis=0)[None])[0]
        found[rows] = values[rows] @ mean
    return np.clip(found, -1, 1)
