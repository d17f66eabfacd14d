"""How many classes of defects there are, from the regions alone.

Mixtures with more components than there are classes cut every class into pieces, each mixture in
its own way: what they all leave together is one class. How often two regions share a component is a
graph (evidence accumulation: Fred and Jain, 2005), and a graph of k groups without ties between
them has k eigenvalues of 1. So the number of classes is where the eigenvalues of the normalised
graph fall most (the eigengap: von Luxburg, A tutorial on spectral clustering, 2007, section 8.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.clustering.ensemble import fit_mixture

Array = NDArray[np.float64]

_DIMENSIONS = (8, 16)
_COMPONENTS = (4, 8, 16)
_SAMPLES_PER_COMPONENT = 4
_FEWEST = 8
_MOST = 12
_AGREED = 0.5


@dataclass(frozen=True)
class Candidate:
    """A number of classes k, and the eigenvalues k and k + 1 of the graph, in [0, 1]."""

    k: int
    eigenvalue: float
    next_eigenvalue: float

    @property
    def gap(self) -> float:
        """Return by how much the eigenvalues fall after the k-th: the evidence for k."""
        return self.eigenvalue - self.next_eigenvalue


def count_candidates(
    descriptors: ArrayLike, *, most: int = _MOST, seed: int
) -> Sequence[Candidate]:
    """Return candidates for the number of classes of a set of regions (evidence accumulation).

    Parameters
    ----------
    descriptors
        (M, L, D) of M regions in L layers (`descriptors.region_descriptors`).
    most
        Largest number to consider.

    Returns
    -------
    Candidates for 1, 2, ... classes, at most a quarter of the regions and half of the different
    ones; none with fewer than 8 regions. `best_count` chooses.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = np.repeat(np.eye(4), 16, axis=0) + rng.normal(scale=0.05, size=(64, 4))
    >>> best_count(count_candidates(x[:, None], seed=0))
    4
    """
    x = np.asarray(descriptors, np.float64)
    n = len(x)
    if n < _FEWEST:
        return []
    distinct = len(np.unique(x.reshape(n, -1).round(6), axis=0))
    largest = min(most, n // _SAMPLES_PER_COMPONENT, distinct // 2)
    values = _eigenvalues(_memberships(x, seed))
    return [
        Candidate(k, float(values[k - 1]), float(values[k]) if k < len(values) else 0.0)
        for k in range(1, largest + 1)
        if k <= len(values)
    ]


def best_count(candidates: Sequence[Candidate]) -> int:
    """Return the number from 2 on with the widest gap, the smaller of equal ones.

    It is 1 without candidates, and where the second eigenvalue is below 0.5: the mixtures then
    agree on nothing (with fewer than some 60 regions they agree by chance). Rather a class too
    many than all in one: people join two classes more easily than they take one apart.
    """
    several = [c for c in candidates if c.k > 1 and candidates[0].next_eigenvalue >= _AGREED]
    best = max(several, key=lambda candidate: (candidate.gap, -candidate.k), default=None)
    return 1 if best is None else best.k


def _memberships(x: Array, seed: int) -> Array:
    """Return the responsibilities of the components of all mixtures, (M, all components)."""
    most = len(x) // _SAMPLES_PER_COMPONENT
    responsibilities = [
        fit_mixture(x, layer, d, n_components, seed).responsibilities(x)
        for layer in range(x.shape[1])
        for d in _DIMENSIONS
        for n_components in sorted({min(n, most) for n in _COMPONENTS})
    ]
    return np.concatenate(responsibilities, 1)


def _eigenvalues(memberships: Array) -> Array:
    """Return the falling eigenvalues of the normalised graph whose weights are shared components.

    The graph R R^T of memberships R (M, K) is never built: its eigenvalues are the squared singular
    values of R, rows divided by the root of their degrees.
    """
    degrees = memberships @ memberships.sum(0)  # (M,)
    scaled = memberships / np.sqrt(degrees)[:, None]
    return np.asarray(np.linalg.svd(scaled, compute_uv=False) ** 2)
