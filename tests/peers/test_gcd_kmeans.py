"""Oracle: base {0, .4} of one class, queries .3, 5, 5.2, 9, 9.4, centres .2, 5, 9."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from pipeline.evaluation.clustering import clustering_scores
from pipeline.peers.gcd_kmeans import (
    SemiSupervisedKMeans,
    clamped_kmeans,
    class_means,
    further_centres,
)
from tests.peers.shapes import blobs

QUERIES = np.array([0.3, 5, 5.2, 9, 9.4])[:, None]
BASE, LABELS = np.array([[0.0], [0.4]]), np.zeros(2, np.int64)
CENTRES = np.array([0.2, 5, 9])[:, None]
NONE = np.zeros((0, 1)), np.zeros(0, np.int64)


def test_queries_may_join_a_base_class() -> None:
    found = clamped_kmeans(QUERIES, BASE, LABELS, CENTRES, open_set=True)
    assert found.labels.tolist() == [0, 1, 1, 2, 2]
    np.testing.assert_allclose(found.centres[:, 0], [0.7 / 3, 5.1, 9.2])
    assert found.inertia == pytest.approx(0.186667, abs=1e-6)


def test_task_aware_queries_may_not() -> None:
    found = clamped_kmeans(QUERIES, BASE, LABELS, CENTRES, open_set=False)
    assert found.labels.tolist() == [1, 1, 1, 2, 2]
    np.testing.assert_allclose(found.centres[:, 0], [0.2, 3.5, 9.2])
    assert found.inertia == pytest.approx(15.54)


def test_inertia_never_rises() -> None:
    rng = np.random.default_rng(0)
    queries, base = rng.normal(size=(40, 3)), rng.normal(size=(10, 3))
    labels = np.repeat([0, 1], 5)
    centres = np.concatenate([class_means(base, labels), queries[:3]])
    runs = [
        clamped_kmeans(queries, base, labels, centres, open_set=True, iterations=n).inertia
        for n in range(1, 9)
    ]
    assert runs == sorted(runs, reverse=True)
    assert runs[-1] < runs[0]


def test_without_a_base_set_it_is_lloyd() -> None:
    points = np.random.default_rng(1).normal(size=(50, 2))
    own = clamped_kmeans(points, np.zeros((0, 2)), NONE[1], points[:4], open_set=False)
    model = KMeans(4, init=points[:4], n_init=1, algorithm="lloyd", tol=0).fit(points)
    assert own.labels.tolist() == model.labels_.tolist()
    assert own.inertia == pytest.approx(model.inertia_)


def test_an_empty_cluster_keeps_its_centre() -> None:
    found = clamped_kmeans(QUERIES, *NONE, np.array([[0.0], [7], [99]]), open_set=False)
    assert found.centres[2, 0] == 99
    assert np.isfinite(found.centres).all()


def test_new_centres_lie_far_from_the_known_ones() -> None:
    points = np.array([[0.0], [0.0], [10.0]])
    drawn = further_centres(points, np.array([[0.0]]), 1, np.random.default_rng(0))
    assert drawn[:, 0].tolist() == [0, 10]


def test_an_open_set_loses_queries_that_look_like_base_classes() -> None:
    """Queries on a base blob: a novel cluster of their own if task-aware, else a base class."""
    data, true = blobs(base=True)
    assert data.base_tokens is not None
    mixed = np.concatenate([data.class_tokens[:24], data.base_tokens[:12]])
    data = type(data)(
        mixed, base_tokens=data.base_tokens, base_labels=data.base_labels,
        sample_ids=data.sample_ids,
    )  # fmt: skip
    aware = SemiSupervisedKMeans()(data, 3, 0).labels
    assert clustering_scores(true, aware).nmi > 0.95
    lost = SemiSupervisedKMeans(open_set=True)(data, 3, 0).labels
    assert set(lost[24:].tolist()) == {3}
    assert lost[:24].max() < 3
