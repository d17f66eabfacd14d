"""Embeddings brought to the plane by t-SNE, for looking at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

FEWEST = 5
"""Fewer points than this are not worth a picture."""


def subsample(n: int, limit: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return all of 0 .. n - 1, or `limit` of them drawn without repetition, in rising order."""
    if n <= limit:
        return np.arange(n, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(n, limit, replace=False)
    return np.sort(drawn).astype(np.int64)


def tsne(embeddings: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.float64] | None:
    """Return t-SNE coordinates (M, 2) of embeddings (M, D); None where there is nothing to show.

    That is for fewer than `FEWEST` rows, and for rows that are all the same. The perplexity is 30,
    or a third of the other points where there are fewer than 90. The start is the first two
    principal components, so that the seed decides little, and one thread computes, so that the
    result does not depend on their number. Raises ValueError unless (M, D).
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
