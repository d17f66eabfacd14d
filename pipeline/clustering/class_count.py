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

Floats = NDArray[np.float64]

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
        """Return by how much the eigenvalues fall after the k-th: what speaks for k."""
        return self.eigenvalue - self.next_eigenvalue


def count_candidates(
    descriptors: ArrayLike, *, most: int = _MOST, seed: int = 0
) -> Sequence[Candidate]:
    """Return candidates for 1 to `most` classes of descriptors (M, L, D), in that order.

    There are none with fewer than 8 regions, and none above a quarter of them or half of the
    different ones.
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


def _memberships(x: Floats, seed: int) -> Floats:
    """Return what the components of all mixtures say of the regions, (M, all components)."""
    most = len(x) // _SAMPLES_PER_COMPONENT
    found = [
        fit_mixture(x, layer, d, n_components, seed).responsibilities(x)
        for layer in range(x.shape[1])
        for d in _DIMENSIONS
        for n_components in sorted({min(n, most) for n in _COMPONENTS})
    ]
    return np.concatenate(found, 1)


def _eigenvalues(memberships: Floats) -> Floats:
    """Return the falling eigenvalues of the normalised graph whose weights are shared components.

    The graph R R^T of memberships R (M, K) is never built: its eigenvalues are the squared singular
    values of R, rows divided by the root of their degrees.
    """
    degrees = memberships @ memberships.sum(0)  # (M,)
    scaled = memberships / np.sqrt(degrees)[:, None]
    return np.asarray(np.linalg.svd(scaled, compute_uv=False) ** 2)
