"""Which regions people should look at first: where one answer settles most."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FIRST = 200
"""Regions that are chosen one after the other; the others follow by their own value."""


def question_order(
    probabilities: ArrayLike, clusters: ArrayLike, parts: ArrayLike
) -> NDArray[np.int64]:
    """Return the regions (M,) in the order in which people should look at them.

    The value of a question is (1 - margin) * size: how near the two most probable classes are to
    each other, times the regions of its cluster. It is divided by 1 + the questions asked about
    that cluster before, and a part that was seen waits until all others were.

    Parameters
    ----------
    probabilities
        (M, C), C > 1, rows summing to 1.
    clusters, parts
        (M,) numbers of the (fine) cluster of each region, and of the part that it is on.

    Examples
    --------
    >>> question_order([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], [0, 0, 1], [0, 1, 1]).tolist()
    [1, 0, 2]
    """
    p = np.sort(np.asarray(probabilities, np.float64), axis=1)
    cluster, part = np.asarray(clusters, np.int64), np.asarray(parts, np.int64)
    value = (1 - (p[:, -1] - p[:, -2])) * np.bincount(cluster)[cluster]
    asked, seen = np.zeros(cluster.max(initial=0) + 1), np.zeros(part.max(initial=0) + 1)
    left = np.ones(len(p), bool)
    order: list[int] = []
    while left.any() and len(order) < FIRST:
        fresh = left & (seen[part] == seen[part[left]].min())
        gains = np.where(fresh, value / (1 + asked[cluster]), -1)
        best = int(gains.argmax())
        order.append(best)
        left[best] = False
        asked[cluster[best]] += 1
        seen[part[best]] += 1
    rest = np.flatnonzero(left)
    return np.array([*order, *rest[np.argsort(-value[rest], kind="stable")]], np.int64)
