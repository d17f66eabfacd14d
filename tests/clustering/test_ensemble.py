"""The mixture: clusters that can be told are told, and few regions are no error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pipeline.clustering.ensemble import fit_ensemble


def blobs(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), 24)) * 3
    labels = np.repeat(np.arange(len(sizes)), sizes)
    x = centres[labels] + rng.normal(size=(len(labels), 24)) * 0.4
    return x[:, None], labels  # (M, 1, 24)


def none(x: np.ndarray) -> np.ndarray:
    return np.zeros(len(x), np.bool_)


def probabilities(
    x: np.ndarray, scores: np.ndarray, normal: np.ndarray, n_classes: int, **options: Any
) -> np.ndarray:
    """Fit to the regions not known as `normal` and classify all, as the stage `predict` does."""
    model = fit_ensemble(
        x[~normal],
        scores[~normal] if len(scores) == len(normal) else scores,
        n_classes,
        normal_known=bool(normal.any()),
        **options,
    )
    found = model.probabilities(x)
    found[normal] = np.eye(n_classes)[0]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_unbalanced_clusters_are_found_and_the_lowest_scores_are_normal(seed: int) -> None:
    x, labels = blobs([80, 40, 20, 8], seed)
    scores = np.where(labels == 2, 0.1, 0.8)
    p = probabilities(x, scores, none(x), 4, seed=seed)
    np.testing.assert_allclose(p.sum(1), 1)
    assert adjusted_rand_score(labels, p.argmax(1)) == 1
    assert set(p.argmax(1)[labels == 2]) == {0}
    assert set(p.argmax(1)[labels == 0]) == {1}


@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_as_normal_stays_so_and_the_others_are_the_other_classes(seed: int) -> None:
    x, labels = blobs([30, 80, 20, 10], seed)
    normal = labels == 0
    x[normal] = 0
    p = probabilities(x, np.full(len(x), 0.8), normal, 4, seed=seed)
    assert np.all(p[normal, 0] == 1)
    assert np.all(p[~normal, 0] == 0)
    assert adjusted_rand_score(labels, p.argmax(1)) == 1


def test_the_same_seed_gives_the_same_classes() -> None:
    x, labels = blobs([20, 20, 20])
    first, second = (probabilities(x, labels, none(x), 3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_fewer_dimensions_can_lose_a_cluster() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    x = np.stack([10.0 * (labels // 2), 2.0 * (labels % 2)], 1) + rng.normal(size=(120, 2)) * 0.1
    two, one = (
        probabilities(x[:, None], labels, none(x), 4, dimensions=[d]).argmax(1) for d in (2, 1)
    )
    assert adjusted_rand_score(labels, two) == 1
    assert adjusted_rand_score(labels, one) < 0.9


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("normal", [False, True])
def test_few_regions(n: int, normal: bool) -> None:
    x, _ = blobs([max(n, 1)])
    flags = np.arange(n) == (0 if normal else -1)
    p = probabilities(x[:n], np.arange(n), flags, 4)
    assert p.shape == (n, 4)
    np.testing.assert_allclose(p.sum(1), 1)


def test_all_known_as_normal() -> None:
    p = probabilities(np.zeros((6, 1, 3)), np.zeros(6), np.ones(6, np.bool_), 3)
    assert np.all(p[:, 0] == 1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="scores"):
        probabilities(np.ones((6, 1, 3)), np.zeros(5), np.zeros(6, np.bool_), 3)
    with pytest.raises(ValueError, match="2 classes"):
        probabilities(np.ones((6, 1, 3)), np.zeros(6), np.zeros(6, np.bool_), 1)
    with pytest.raises(ValueError, match="descriptors \\(6, 3\\)"):
        probabilities(np.ones((6, 3)), np.zeros(6), np.zeros(6, np.bool_), 3)
    for bad in ({"dimensions": []}, {"dimensions": [0]}, {"extra_components": [-1]}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} are"):
            probabilities(np.ones((6, 1, 3)), np.zeros(6), none(np.ones(6)), 3, **bad)


def test_layers_that_agree_outvote_one_that_does_not() -> None:
    x, labels = blobs([30, 30, 30])
    rng = np.random.default_rng(1)
    noise = rng.normal(size=x.shape)
    alone = probabilities(noise, labels, none(x), 3).argmax(1)
    together = probabilities(np.concatenate([x, noise, x], 1), labels, none(x), 3)
    assert adjusted_rand_score(labels, alone) < 0.2
    assert adjusted_rand_score(labels, together.argmax(1)) == 1


def test_a_region_between_two_clusters_is_less_certain() -> None:
    x, labels = blobs([40, 40])
    middle = x[labels == 0].mean(0) / 2 + x[labels == 1].mean(0) / 2
    x = np.concatenate([x, middle[None]])
    p = probabilities(x, np.zeros(81), none(x), 2, extra_components=[0, 1, 2])
    assert p[-1].max() < np.median(p[:-1].max(1))
