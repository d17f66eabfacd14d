"""The mixture: clusters that can be told are told, and few regions are no error."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pipeline.mixture import mixture_probabilities


def blobs(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), 24)) * 3
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return centres[labels] + rng.normal(size=(len(labels), 24)) * 0.4, labels


@pytest.mark.parametrize("seed", range(3))
def test_unbalanced_clusters_are_found_and_the_lowest_scores_are_normal(seed: int) -> None:
    x, labels = blobs([80, 40, 20, 8], seed)
    scores = np.where(labels == 2, 0.1, 0.8)
    p = mixture_probabilities(x, scores, 4, seed=seed)
    np.testing.assert_allclose(p.sum(1), 1)
    assert adjusted_rand_score(labels, p.argmax(1)) == 1
    assert set(p.argmax(1)[labels == 2]) == {0}
    assert set(p.argmax(1)[labels == 0]) == {1}


def test_the_same_seed_gives_the_same_classes() -> None:
    x, labels = blobs([20, 20, 20])
    first, second = (mixture_probabilities(x, labels, 3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_fewer_dimensions_can_lose_a_cluster() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    x = np.stack([10.0 * (labels // 2), 2.0 * (labels % 2)], 1) + rng.normal(size=(120, 2)) * 0.1
    two = mixture_probabilities(x, labels, 4, dimensions=2).argmax(1)
    one = mixture_probabilities(x, labels, 4, dimensions=1).argmax(1)
    assert adjusted_rand_score(labels, two) == 1
    assert adjusted_rand_score(labels, one) < 0.9


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_regions(n: int) -> None:
    x, _ = blobs([max(n, 1)])
    p = mixture_probabilities(x[:n], np.arange(n), 4)
    assert p.shape == (n, 4)
    np.testing.assert_allclose(p.sum(1), 1)


def test_equal_regions_are_one_class() -> None:
    p = mixture_probabilities(np.ones((6, 3)), np.zeros(6), 3)
    assert np.all(p.argmax(1) == 0)


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="scores for descriptors"):
        mixture_probabilities(np.ones((6, 3)), np.zeros(5), 3)
