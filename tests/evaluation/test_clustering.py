"""Cluster figures against scikit-learn and against trying every matching."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from pipeline.evaluation.clustering import (
    clustering_scores,
    contingency,
    image_auroc,
    match_clusters,
    mean_figures,
    normal_precision_recall,
)

LABELS = st.lists(
    st.tuples(st.sampled_from(["bent", "crack", "good", "scratch"]), st.integers(0, 5)),
    min_size=1,
    max_size=30,
)


def best_agreement(true: list[str], predicted: list[int]) -> int:
    """Most samples that agree under any one-to-one matching, by trying them all."""
    classes, clusters = sorted(set(true)), sorted(set(predicted))
    padded = [*classes, *[None] * max(0, len(clusters) - len(classes))]
    return max(
        sum(t == chosen[clusters.index(p)] for t, p in zip(true, predicted, strict=True))
        for chosen in permutations(padded, len(clusters))
    )


def test_contingency_counts() -> None:
    table = contingency(["b", "a", "b", "b"], [7, 3, 3, 7])
    assert table.classes.tolist() == ["a", "b"]
    assert table.clusters.tolist() == [3, 7]
    assert table.counts.tolist() == [[1, 0], [1, 2]]


@settings(max_examples=60)
@given(LABELS)
def test_f1_is_the_best_of_all_matchings_and_sklearns_micro_f1(
    pairs: list[tuple[str, int]],
) -> None:
    true, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    scores = clustering_scores(true, predicted)
    assert scores.f1 == pytest.approx(best_agreement(true, predicted) / len(true))
    mapping = match_clusters(true, predicted)
    renamed = [mapping.get(p, f"surplus {p}") for p in predicted]
    assert scores.f1 == pytest.approx(f1_score(true, renamed, average="micro"))


@settings(max_examples=60)
@given(LABELS, st.permutations(range(6)), st.randoms(use_true_random=False))
def test_names_of_clusters_and_order_of_images_leave_the_scores(
    pairs: list[tuple[str, int]], names: list[int], random: object
) -> None:
    before = clustering_scores([t for t, _ in pairs], [p for _, p in pairs])
    random.shuffle(pairs)  # type: ignore[attr-defined]
    after = clustering_scores([t for t, _ in pairs], [names[p] for _, p in pairs])
    for name in ("nmi", "ari", "f1"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-12)


@settings(max_examples=40)
@given(LABELS)
def test_matching_is_one_to_one_and_as_large_as_possible(pairs: list[tuple[str, int]]) -> None:
    true, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    mapping = match_clusters(true, predicted)
    assert len(mapping) == min(len(set(true)), len(set(predicted)))
    assert len(set(mapping.values())) == len(mapping)
    assert set(mapping) <= set(predicted)
    assert set(mapping.values()) <= set(true)


def test_matching_is_global_not_greedy() -> None:
    # Cluster 0 holds 4 a and 3 b, cluster 1 the other 3 a: greedy keeps 4, the best is 6 of 10.
    true, predicted = list("aaaabbbaaa"), [0] * 7 + [1] * 3
    assert match_clusters(true, predicted) == {0: "b", 1: "a"}
    assert clustering_scores(true, predicted).f1 == pytest.approx(0.6)


def test_surplus_clusters_are_unmatched_and_wrong() -> None:
    true, predicted = ["a"] * 4 + ["b"] * 4, [0, 0, 0, 1, 2, 2, 2, 2]
    assert match_clusters(true, predicted) == {0: "a", 2: "b"}
    assert clustering_scores(true, predicted).f1 == 7 / 8


def test_surplus_classes_are_wrong() -> None:
    true, predicted = ["a"] * 3 + ["b"] * 2 + ["c"], [0] * 6
    assert match_clusters(true, predicted) == {0: "a"}
    assert clustering_scores(true, predicted).f1 == 0.5


def test_perfect_and_single_cluster() -> None:
    perfect = clustering_scores(["a", "b", "c"], [2, 0, 1])
    assert (perfect.nmi, perfect.ari, perfect.f1) == pytest.approx((1, 1, 1))
    single = clustering_scores(["a", "b", "a", "b"], [0, 0, 0, 0])
    assert (single.nmi, single.ari, single.f1) == pytest.approx((0, 0, 0.5))


@pytest.mark.parametrize(("true", "predicted"), [([], []), ([1], [1, 2]), ([[1]], [[1]])])
def test_bad_labels_are_refused(true: list[object], predicted: list[object]) -> None:
    with pytest.raises(ValueError, match="need labels"):
        clustering_scores(true, predicted)


# The normal class


def test_normal_precision_and_recall_are_those_of_the_matched_cluster() -> None:
    true = ["good"] * 5 + ["crack"] * 4
    predicted = [3, 3, 3, 3, 0, 3, 3, 0, 0]
    assert normal_precision_recall(true, predicted, "good") == (4 / 6, 4 / 5)
    predicted = [3, 3, 3, 0, 1, 3, 3, 0, 0]  # 0 -> crack, 3 -> good
    assert normal_precision_recall(true, predicted, "good") == (3 / 5, 3 / 5)


def test_normal_figures_that_cannot_be_had_are_none() -> None:
    assert normal_precision_recall(["crack"] * 3, [0, 0, 1], "good") == (None, None)
    assert normal_precision_recall(["crack", "crack", "good"], [0, 0, 0], "good") == (None, 0.0)


# Image AUROC


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_image_auroc_counts_the_pairs_in_order(pairs: list[tuple[bool, int]]) -> None:
    positive, scores = [p for p, _ in pairs], [s / 5 for _, s in pairs]
    got = image_auroc(positive, scores)
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for p, a in zip(positive, scores, strict=True)
        for q, b in zip(positive, scores, strict=True)
        if p and not q
    ]
    if not wins:
        assert got is None
        return
    assert got == pytest.approx(sum(wins) / len(wins))


def test_image_auroc_refuses_nan_and_other_lengths() -> None:
    with pytest.raises(ValueError, match="not finite"):
        image_auroc([True, False], [np.nan, 0])
    with pytest.raises(ValueError, match="labels for"):
        image_auroc([True, False], [0.1])


def test_a_mean_needs_a_figure_of_every_product() -> None:
    rows = [{"nmi": 0.4, "aupro": 0.5}, {"nmi": 0.8, "aupro": None}]
    means = mean_figures(rows)
    assert (means["nmi"], means["aupro"]) == (pytest.approx(0.6), None)
