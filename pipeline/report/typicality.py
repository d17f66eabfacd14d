"""Typicality of regions for their class."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize


def typicality(
    descriptors: NDArray[np.floating], classes: Sequence[Hashable]
) -> NDArray[np.float64]:
    """Return the cosine of each descriptor to the mean of its class.

    Parameters
    ----------
    descriptors
        (M, D), any length; they are L2-normalised first.
    classes
        The class of each descriptor, M values.

    Returns
    -------
    (M,) float64 in [-1, 1]. The mean includes the region itself, so a region alone in its class has
    1. A descriptor of zeros, or a class whose descriptors cancel out, gives 0.

    Raises
    ------
    ValueError
        `classes` has another length.
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
    cosines = np.zeros(len(values))
    for rows in members.values():
        mean = normalize(values[rows].mean(axis=0)[None])[0]
        cosines[rows] = values[rows] @ mean
    return np.clip(cosines, -1, 1)
