"""The number of classes is found where there is one to find."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clustering.class_count import Candidate, _eigenvalues, best_count, count_candidates
from pipeline.config.params import Predict

OPTIONS = Predict()


def regions(n_classes: int, per_class: int = 25, seed: int = 0) -> np.ndarray:
    """Descriptors (M, 3, 20) of three layers that see the same classes, each in its own way."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    layers = [rng.normal(size=(n_classes, 20))[labels] * 2 for _ in range(3)]
    return np.stack([x + rng.normal(size=x.shape) * 0.5 for x in layers], 1)


@pytest.mark.parametrize("n_classes", [2, 4, 7])
def test_separate_classes_are_counted(n_classes: int) -> None:
    candidates = count_candidates(regions(n_classes), seed=OPTIONS.seed)
    assert [c.k for c in candidates] == list(range(1, 13))
    assert best_count(candidates) == n_classes


@pytest.mark.parametrize("seed", range(3))
def test_one_kind_of_defect_is_one_class(seed: int) -> None:
    assert best_count(count_candidates(regions(1, 80, seed), seed=seed)) == 1


@pytest.mark.parametrize(("n", "most"), [(0, 0), (1, 0), (7, 0), (8, 2), (20, 5)])
def test_few_regions_have_few_candidates(n: int, most: int) -> None:
    candidates = count_candidates(regions(2, 50)[:n], seed=OPTIONS.seed)
    assert max((c.k for c in candidates), default=0) == most
    assert best_count(candidates) >= 1


def test_regions_that_are_all_alike_are_one_class() -> None:
    assert best_count(count_candidates(np.ones((40, 2, 6)), seed=OPTIONS.seed)) == 1


def test_of_equal_gaps_the_smaller_number_counts() -> None:
    assert best_count([Candidate(k, 0.9, 0.5) for k in (1, 3, 2, 5)]) == 2
    assert best_count([]) == 1


def test_one_class_needs_mixtures_that_agree_on_nothing() -> None:
    gaps = [Candidate(2, 0.69, 0.6), Candidate(3, 0.6, 0.4)]
    assert best_count([Candidate(1, 1.0, 0.69), *gaps]) == 3
    assert best_count([Candidate(1, 1.0, 0.4), *gaps]) == 1


def test_eigenvalues_are_those_of_the_graph_written_out() -> None:
    rng = np.random.default_rng(0)
    memberships = rng.dirichlet(np.ones(6), 15)
    graph = memberships @ memberships.T
    degrees = graph.sum(1)
    expected = np.linalg.eigvalsh(graph / np.sqrt(np.outer(degrees, degrees)))[::-1]
    np.testing.assert_allclose(_eigenvalues(memberships), expected[:6], atol=1e-12)
    assert _eigenvalues(memberships)[0] == pytest.approx(1)


def test_groups_without_ties_have_an_eigenvalue_of_one_each() -> None:
    memberships = np.eye(4)[np.repeat([0, 1, 2], 5)]
    np.testing.assert_allclose(_eigenvalues(memberships), [1, 1, 1, 0], atol=1e-12)
