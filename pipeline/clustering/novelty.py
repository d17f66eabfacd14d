"""k-NN novelty score of a region against the training regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from pipeline.clustering.descriptors import l2_normalise

_NEIGHBOURS = 3
_KNOWN = 0.95


@dataclass(frozen=True)
class KnnNovelty:
    """Unit descriptors (M, L, D) float32 of the training regions, and the limit of the known.

    `limit` is the 95% quantile of the training regions' own distances.
    """

    unit_descriptors: NDArray[np.float32]
    limit: float

    def distances(self, descriptors: ArrayLike) -> NDArray[np.float64]:
        """Return how far new regions are from the three nearest training regions.

        Parameters
        ----------
        descriptors
            (Q, L, D) floats of any length.

        Returns
        -------
        (Q,) float64 in [0, 2]: 1 minus the cosine, averaged over layers and neighbours; infinite
        without training regions.
        """
        unit = l2_normalise(np.asarray(descriptors, np.float32))
        if not len(unit) or not len(self.unit_descriptors):
            return np.full(len(unit), np.inf)
        return _mean_distances(self.unit_descriptors, unit)

    def unknown(self, descriptors: ArrayLike) -> NDArray[np.bool_]:
        """Return which of the regions (Q,) are farther than `limit`."""
        return np.asarray(self.distances(descriptors) > self.limit)


def fit_novelty(descriptors: ArrayLike) -> KnnNovelty:
    """Fit the novelty score to the training regions.

    The limit is chosen so that about one in twenty regions like the training regions counts as
    unknown.

    Parameters
    ----------
    descriptors
        (M, L, D) of the training regions. With fewer than two the limit is infinite: nothing is
        unknown.

    Returns
    -------
    The unit descriptors with the 95% quantile of each region's distance to the others.

    Examples
    --------
    >>> import numpy as np
    >>> novelty = fit_novelty([[[1.0, 0.0]], [[1.0, 0.1]], [[1.0, 0.2]], [[1.0, 0.3]]])
    >>> novelty.unknown([[[1.0, 0.15]], [[0.0, 1.0]]]).tolist()
    [False, True]
    """
    unit = l2_normalise(np.asarray(descriptors, np.float32))
    if len(unit) < 2:
        return KnnNovelty(unit, np.inf)
    return KnnNovelty(unit, float(np.quantile(_mean_distances(unit), _KNOWN)))


def _mean_distances(
    known: NDArray[np.float32], queries: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Average the distances to the nearest `known`; without queries, of the known to each other.

    Unit layers one after the other: their cosine is the mean of the layers' cosines.
    """
    k = min(_NEIGHBOURS, len(known) - (queries is None))
    search = NearestNeighbors(n_neighbors=k, metric="cosine").fit(known.reshape(len(known), -1))
    rows = None if queries is None else queries.reshape(len(queries), -1)
    distances, _ = search.kneighbors(rows)  # (Q, k)
    return np.asarray(distances.mean(1), np.float64)
