"""Bootstrap intervals over parts, against scikit-learn and against cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score

from pipeline.evaluation.clustering import clustering_scores
from pipeline.evaluation.intervals import (
    ari,
    auroc,
    auroc_interval,
    clustering_intervals,
    draw_parts,
    interval,
    matched_share,
    nmi,
)


def test_each_resample_draws_as_many_parts_as_there_are() -> None:
    draws = draw_parts(30, 500)
    assert draws.shape == (500, 30)
    assert (draws.sum(1) == 30).all()
    assert draws.mean() == 1
    assert draws.std() == pytest.approx(1, abs=0.05)  # nearly Poisson
    np.testing.assert_array_equal(draws, draw_parts(30, 500))


def test_tables_give_what_labels_give() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        true, predicted = rng.integers(0, 4, 25), rng.integers(0, 5, 25)
        table = np.zeros((1, 4, 5))
        np.add.at(table[0], (true, predicted), 1)
        assert nmi(table)[0] == pytest.approx(normalized_mutual_info_score(true, predicted))
        assert ari(table)[0] == pytest.approx(adjusted_rand_score(true, predicted))
        assert matched_share(table)[0] == pytest.approx(clustering_scores(true, predicted).f1)


def test_one_class_in_one_cluster_is_perfect() -> None:
    table = np.array([[[7.0]]])
    assert nmi(table) == ari(table) == matched_share(table) == 1


def test_auroc_of_counts_is_that_of_scores() -> None:
    rng = np.random.default_rng(1)
    scores, kinds = rng.integers(0, 6, 40), rng.integers(0, 2, 40)
    counts = np.array([[np.bincount(scores[kinds == k], minlength=6)] for k in (0, 1)], float)
    assert auroc(*counts)[0] == pytest.approx(roc_auc_score(kinds, scores))
    assert np.isnan(auroc(counts[0], np.zeros((1, 6))))[0]


def test_the_interval_of_a_share_covers_the_truth() -> None:
    """F1 of two classes is accuracy: 95 % of the intervals should hold the true .8."""
    rng, covered = np.random.default_rng(2), 0
    draws = draw_parts(60, 300)
    true = ["a"] * 30 + ["b"] * 30
    for _ in range(200):
        right = rng.random(60) < 0.8
        predicted = np.where(right, np.repeat([0, 1], 30), np.repeat([1, 0], 30))
        found = clustering_intervals(true, predicted, np.arange(60), draws)["f1"]
        assert found is not None
        covered += found.low <= 0.8 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_repeated_images_do_not_narrow_an_interval() -> None:
    """Nine exposures of each part say no more than one; as parts of their own they would."""
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, 40).astype(str)
    predicted = np.where(rng.random(40) < 0.7, true.astype(int), rng.integers(0, 3, 40))
    parts, draws = np.arange(40), draw_parts(40, 400)
    once = clustering_intervals(true.tolist(), predicted, parts, draws)
    nine = clustering_intervals(
        np.repeat(true, 9).tolist(), np.repeat(predicted, 9), np.repeat(parts, 9), draws
    )
    alone = clustering_intervals(
        np.repeat(true, 9).tolist(), np.repeat(predicted, 9), np.arange(360), draw_parts(360, 400)
    )
    for name in ("nmi", "f1"):
        narrow, wide, single = alone[name], nine[name], once[name]
        assert narrow is not None
        assert wide is not None
        assert single is not None
        assert wide == pytest.approx(single)
        assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_the_interval_of_an_auroc() -> None:
    rng = np.random.default_rng(4)
    kinds = np.arange(200) % 2 == 1
    scores = rng.normal(size=200) + kinds  # true AUROC .760, standard error about .034
    found = auroc_interval(kinds, scores, np.arange(200), draw_parts(200, 500))
    assert found is not None
    assert found.low < roc_auc_score(kinds, scores) < found.high
    assert found.high - found.low == pytest.approx(4 * 0.034, rel=0.25)


def test_no_values_are_no_interval() -> None:
    assert interval([np.nan, np.nan, 1.0]) is None
    assert auroc_interval([True, True], [1, 2], [0, 1], draw_parts(2, 50)) is None
