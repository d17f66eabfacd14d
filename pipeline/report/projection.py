"""t-SNE of embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

FEWEST = 5
"""Smallest number of points that are plotted."""


def subsample(n: int, limit: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return 0 .. n - 1, or `limit` of them drawn without replacement, in ascending order."""
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(n, limit, replace=False)
    return np.sort(drawn).astype(np.int64)


def tsne(embeddings: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.float64] | None:
    """Return t-SNE coordinates of embeddings.

    The perplexity is 30, or a third of the other points if there are fewer than 90. The start is
    the first two principal components, so the seed matters little; one thread computes, so the
    result does not depend on their number.

    Parameters
    ----------
    embeddings
        (M, D) float32.

    Returns
    -------
    (M, 2) float64; None for fewer than `FEWEST` rows and for rows that are all equal.

    Raises
    ------
    ValueError
        `embeddings` is not two-dimensional.
    """
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings are {embeddings.shape}, not (M, D)")
    n = len(embeddings)
    if n < FEWEST or (embeddings == embeddings[0]).all():
        return None
    start = "pca" if embeddings.shape[1] >= 2 else "random"
    model = TSNE(perplexity=min(30.0, (n - 1) / 3), init=start, random_state=seed)
    with threadpool_limits(1):
        return np.asarray(model.fit_transform(embeddings.astype(np.float64)), np.float64)
