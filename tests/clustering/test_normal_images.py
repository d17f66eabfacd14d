"""Normal images are those of the lower mode of the scores, where there are two."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from pipeline.clustering.normal_images import NormalRule, known_normal, low_mode_limit, normal_limit


def low_mode(values: object) -> np.ndarray:
    return np.asarray(values, float) <= low_mode_limit(values)


def scores(n_low: int, n_high: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logs = np.concatenate([rng.normal(-2, 0.1, n_low), rng.normal(-0.7, 0.3, n_high)])
    return np.exp(logs)


@pytest.mark.parametrize(("n_low", "n_high"), [(20, 80), (80, 20), (191, 392), (20, 20)])
def test_two_modes_are_told_apart(n_low: int, n_high: int) -> None:
    low = low_mode(scores(n_low, n_high))
    assert low[:n_low].mean() > 0.95
    assert low[n_low:].mean() < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_one_mode_has_no_lower_one(seed: int) -> None:
    assert not low_mode(scores(0, 200, seed)).any()
    assert not low_mode(scores(200, 0, seed)).any()


def test_no_higher_score_belongs_to_the_lower_mode() -> None:
    rng = np.random.default_rng(0)
    logs = np.concatenate([rng.normal(-2, 0.02, 60), rng.normal(-1, 0.4, 60), [-4.0]])
    low = low_mode(np.exp(logs))
    assert low.any()
    assert low[-1]
    assert logs[low].max() < logs[~low].min()


def test_the_limit_lies_half_way_between_the_modes() -> None:
    values = scores(30, 60)
    low = low_mode(values)
    expected = np.sqrt(values[low].max() * values[~low].min())
    assert low_mode_limit(values) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_a_set_of_normal_images_is_normal_beside_references(seed: int) -> None:
    values = scores(100, 0, seed)
    assert (values <= normal_limit(values, scores(30, 0, seed + 50))).mean() > 0.97


@pytest.mark.parametrize("seed", range(5))
def test_no_defect_is_normal_beside_references(seed: int) -> None:
    known = scores(30, 0, seed + 50)
    one_mode = scores(0, 100, seed)
    assert not (one_mode <= normal_limit(one_mode, known)).any()
    two_modes = np.concatenate([one_mode, 30 * one_mode])
    assert low_mode(two_modes).any()  # which alone would be taken for normal
    assert not (two_modes <= normal_limit(two_modes, known)).any()


@pytest.mark.parametrize("seed", range(5))
def test_modes_that_overlap_stand_beside_references_of_the_lower_one(seed: int) -> None:
    """As MuSc's on magnetic tiles: three deviations of references lie beyond most defects."""
    rng = np.random.default_rng(seed)
    known = np.exp(rng.permutation(norm.ppf((np.arange(50) + 0.5) / 50, -0.62, 0.17)))
    normal = np.exp(rng.normal(-0.62, 0.17, 191))
    values = np.concatenate([normal, np.exp(rng.normal(-0.25, 0.08, 392))])
    assert known.mean() + 3 * known.std(ddof=1) > np.median(values[191:])
    assert normal_limit(values, known) == low_mode_limit(values) > 0


@pytest.mark.parametrize("seed", range(5))
def test_two_modes_of_normal_images_are_normal_beside_references(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, known = (
        np.exp(np.concatenate([rng.normal(-2, 0.1, 2 * n), rng.normal(-1.2, 0.1, n)]))
        for n in (50, 20)
    )
    assert low_mode(values).any()  # which alone would call the others defects
    assert (values <= normal_limit(values, known)).all()


def test_references_far_below_the_set_are_clipped() -> None:
    values = scores(0, 50)
    known = np.maximum(
        scores(30, 0) - np.exp(-2), 0
    )  # most of them 0, as maps start at their lowest
    assert (known == 0).sum() > 10
    assert not (values <= normal_limit(values, known)).any()


def test_references_leave_the_limit_between_two_modes_alone() -> None:
    values = scores(40, 60)
    assert normal_limit(values, scores(30, 0, 1)) == low_mode_limit(values)
    assert normal_limit(values, scores(3, 0, 1)) == low_mode_limit(values)


def test_ground_truth_maps_have_two_values() -> None:
    np.testing.assert_array_equal(low_mode([0.0] * 5 + [1.0] * 15), [True] * 5 + [False] * 15)


@pytest.mark.parametrize("values", [[], [0.3], [0.1, 0.9], [0.5] * 30, [0.0] * 30])
def test_few_or_equal_scores_have_no_lower_mode(values: list[float]) -> None:
    assert not low_mode(values).any()


def test_scores_that_are_none_are_refused() -> None:
    for bad in ([-0.1, 0.2], [np.nan, 0.2], [[0.1], [0.2]]):
        with pytest.raises(ValueError, match="anomaly scores"):
            low_mode(bad)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("scores", [True, True, True, False, True]),
        ("regions", [False, True, False, False, True]),
        ("none", [False] * 5),
    ],
)
def test_sub_images_are_normal_by_rule(rule: NormalRule, expected: list[bool]) -> None:
    images = scores(20, 20)
    of = images[[0, 0, 19, 20, 39]]
    found = known_normal(rule, [50, 0, 9, 9, 0], of, low_mode_limit(images))
    np.testing.assert_array_equal(found, expected)
