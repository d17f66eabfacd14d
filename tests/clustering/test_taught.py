"""Mixtures in which people have said what some regions are."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clustering.ensemble import fit_ensemble
from pipeline.clustering.taught import FREE, taught_gaussians, taught_kmeans

OPTIONS = {"dimensions": [2], "extra_components": [0, 2], "seed": 0}


def corners() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [12, 8, 6])
    return np.eye(3)[truth] * 3 + rng.normal(scale=0.2, size=(26, 3)), truth


def test_a_taught_point_stays_in_its_cluster_though_another_is_nearer() -> None:
    x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    taught = np.array([0, FREE, FREE, 1, FREE, 0])
    assert taught_kmeans(x, taught, 2, seed=0).tolist() == [0, 0, 0, 1, 1, 0]
    taught[5] = FREE
    assert taught_kmeans(x, taught, 2, seed=0).tolist() == [0, 0, 0, 1, 1, 1]


def test_clusters_beyond_different_points_stay_empty_and_wrong_ones_are_refused() -> None:
    assert set(taught_kmeans(np.zeros((4, 2)), [1, FREE, FREE, FREE], 3, seed=0)) == {1}
    with pytest.raises(ValueError, match="2 taught clusters of 2 for 2"):
        taught_kmeans(np.zeros((2, 1)), [2, FREE], 2, seed=0)


def test_gaussians_satisfy_the_equations_of_em() -> None:
    x, _ = corners()
    taught = np.full(26, FREE)
    taught[[0, 12]] = 0  # of two corners: one Gaussian has to hold both
    fitted = taught_gaussians(x, taught, 3, seed=0)
    precision = fitted.precision_cholesky @ fitted.precision_cholesky.T
    gaps = x[:, None] - fitted.centres
    logs = np.log(fitted.weights) - np.einsum("mkd,de,mke->mk", gaps, precision, gaps) / 2
    resp = np.exp(logs - np.logaddexp.reduce(logs, 1)[:, None])
    resp[[0, 12]] = [1, 0, 0]
    again = resp.T @ x / resp.sum(0)[:, None]
    assert np.allclose(again, fitted.centres, atol=0.05)
    assert np.allclose(resp.mean(0), fitted.weights, atol=0.01)


def test_taught_classes_keep_their_numbers_and_others_get_what_is_left() -> None:
    x, truth = corners()
    taught = np.full(26, FREE)
    taught[0], taught[20] = 3, 1
    ensemble = fit_ensemble(x[:, None], np.ones(26), 4, normal_known=True, taught=taught, **OPTIONS)
    found = ensemble.probabilities(x[:, None]).argmax(1)
    assert found.tolist() == np.array([3, 2, 1])[truth].tolist()


def test_regions_taught_to_be_normal_are_class_0_and_attract_others() -> None:
    x, truth = corners()
    taught = np.full(26, FREE)
    taught[[12, 13]] = 0
    ensemble = fit_ensemble(x[:, None], np.ones(26), 3, normal_known=True, taught=taught, **OPTIONS)
    found = ensemble.probabilities(x[:, None]).argmax(1)
    assert found.tolist() == np.array([1, 0, 2])[truth].tolist()


def test_a_taught_defect_is_not_the_normal_class_though_its_scores_are_lowest() -> None:
    x, truth = corners()
    taught = np.full(26, FREE)
    taught[0] = 2
    scores = np.array([0.0, 0.4, 0.9])[truth]
    ensemble = fit_ensemble(x[:, None], scores, 3, normal_known=False, taught=taught, **OPTIONS)
    found = ensemble.probabilities(x[:, None]).argmax(1)
    assert found.tolist() == np.array([2, 0, 1])[truth].tolist()


def test_taught_by_nobody_is_the_fit_without_labels() -> None:
    x, _ = corners()
    a, b = (
        fit_ensemble(x[:, None], np.ones(26), 4, normal_known=True, taught=t, **OPTIONS)
        for t in (None, np.full(26, FREE))
    )
    assert np.array_equal(a.votes, b.votes)
