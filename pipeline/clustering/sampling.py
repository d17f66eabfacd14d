"""A sample of a set that is too large to fit to, drawn by hashes of names.

The k names with the smallest hashes are a uniform sample. It is that of the union of samples of
parts, does not depend on the order of the set, and hardly changes when names are added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def bottom_k(names: Sequence[str], k: int, seed: int) -> NDArray[np.int64]:
    """Return the rows (min(k, M),) of the k of M different names with the smallest hashes, rising.

    The hash is the first 64 bits of the SHA-256 of seed and name.

    Examples
    --------
    >>> bottom_k(["a", "b", "c"], 3, 0).tolist()
    [0, 1, 2]
    >>> bottom_k(["a", "b", "c"], 1, 0).tolist() == bottom_k(["c", "b", "a"], 1, 0).tolist()
    False
    """
    if len(names) <= k:
        return np.arange(len(names))
    digests = (hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names)
    hashes = np.fromiter((int.from_bytes(digest[:8]) for digest in digests), np.uint64, len(names))
    return np.sort(np.argsort(hashes, kind="stable")[:k])
