"""Limits that keep their rate of false alarms, and none where nothing can be promised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from pipeline.clustering.conformal import conformal_limit, modes, normal_limit, part_scores


def p_values(scores: np.ndarray, references: np.ndarray) -> np.ndarray:
    """How rare each score would be for normal images, counted one by one."""
    return np.array([(1 + (references >= s).sum()) / (len(references) + 1) for s in scores])


def _modes(n_low: int, n_high: int, gap: float = 6, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.normal(0, 1, n_low), generator.normal(gap, 1, n_high)])


@pytest.mark.parametrize("count", [1, 5, 19, 20, 80, 300])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_limit_and_p_values_agree(count: int, rate: float) -> None:
    references = np.random.default_rng(count).standard_normal(count)
    scores = np.random.default_rng(0).standard_normal(500)
    limit, promised = conformal_limit(references, rate)
    np.testing.assert_array_equal(scores > limit, p_values(scores, references) <= promised + 1e-12)


@pytest.mark.parametrize("count", [5, 19, 39, 80])
def test_false_alarms_stay_below_the_rate(count: int) -> None:
    """Averaged over draws of the references; heavy tails change nothing."""
    generator = np.random.default_rng(1)
    shares, promised = [], 0.0
    for _ in range(2000):
        limit, promised = conformal_limit(generator.standard_t(2, count), 0.05)
        shares.append((generator.standard_t(2, 100) > limit).mean())
    assert np.mean(shares) <= promised + 0.01
    assert np.mean(shares) >= promised - 0.03


def test_few_references_say_what_they_can_promise() -> None:
    assert conformal_limit([3.0, 1.0, 2.0], 0.05) == (3.0, 0.25)
    assert conformal_limit(np.arange(19.0), 0.05) == (18.0, 0.05)
    assert conformal_limit(np.arange(18.0), 0.05) == (17.0, pytest.approx(1 / 19))
    assert conformal_limit(np.arange(99.0), 0.05) == (94.0, 0.05)


def test_references_decide_whatever_the_set_is() -> None:
    references = np.random.default_rng(2).normal(0, 1, 80)
    for scores in (_modes(40, 60), _modes(0, 60), _modes(60, 0), np.array([0.5])):
        limit = normal_limit(scores, references, false_alarms=0.1)
        assert limit.value == conformal_limit(references, 0.1)[0]
        assert (limit.basis, limit.false_alarms) == ("references", 0.1)


def test_two_modes_decide_without_references() -> None:
    scores = _modes(40, 60)
    limit = normal_limit(scores, [])
    assert (limit.basis, limit.false_alarms) == ("modes", None)
    assert limit.separation > 4
    assert (scores[:40] <= limit.value).mean() > 0.95
    assert (scores[40:] > limit.value).mean() > 0.95


@pytest.mark.parametrize("scores", [np.zeros(20), np.arange(5)])
def test_nothing_is_normal_where_scores_tell_nothing(scores: np.ndarray) -> None:
    limit = normal_limit(scores, [])
    assert limit.value == -np.inf
    assert limit.basis == "nothing"


@pytest.mark.parametrize("scores", [_modes(100, 0), _modes(50, 50, 1)])
@pytest.mark.parametrize(("share", "normal"), [(0.3, 30), (0.5, 50), (0.01, 1)])
def test_the_lowest_scores_are_normal_where_no_mode_stands_out(
    scores: np.ndarray, share: float, normal: int
) -> None:
    limit = normal_limit(scores, [], assumed_normal=share)
    assert (limit.basis, limit.false_alarms, limit.tells_defects) == ("lowest", None, False)
    assert (scores <= limit.value).sum() == pytest.approx(normal, abs=1)


def test_no_image_has_to_be_assumed_normal() -> None:
    limit = normal_limit(_modes(50, 50, 1), [], assumed_normal=0)
    assert (limit.value, limit.basis) == (-np.inf, "nothing")
    with pytest.raises(ValueError, match="assumed_normal"):
        normal_limit(_modes(50, 50, 1), [], assumed_normal=1)


def test_a_few_outliers_are_no_mode() -> None:
    """Else all other images, defects among them, would be called normal."""
    scores = np.append(_modes(50, 50, 2), [30.0, 31.0])
    assert normal_limit(scores, []).basis == "lowest"


def test_negative_scores_and_shifts_change_nothing() -> None:
    scores = _modes(40, 60)
    end, separation = modes(scores)
    moved, again = modes(3 * scores - 50)
    assert moved == pytest.approx(3 * end - 50, abs=1e-6)
    assert again == pytest.approx(separation, rel=1e-6)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ValueError, match="normal references"):
        conformal_limit([], 0.05)
    with pytest.raises(ValueError, match="false_alarms"):
        conformal_limit([1.0], 0.0)
    with pytest.raises(ValueError, match="finite"):
        normal_limit([np.nan], [])


def test_a_part_counts_once_by_its_highest_score():
    assert part_scores([1.0, 5.0, 2.0, 3.0], [2, 0, 2, 0]).tolist() == [5, 2]
    assert part_scores([], []).tolist() == []


def test_one_odd_part_of_many_exposures_does_not_set_the_limit():
    """Of 30 parts one is odd in all of its 20 exposures, a quarter of the images."""
    rng = np.random.default_rng(0)
    parts = np.repeat(np.arange(30), [2] * 29 + [20])
    scores = rng.random(78)
    scores[parts == 29] += 5
    by_images, _ = conformal_limit(scores, 0.1)
    by_parts, rate = conformal_limit(part_scores(scores, parts), 0.1)
    assert rate == 0.1
    assert by_parts < 1
    assert by_images > 5


@pytest.mark.parametrize("exposures", [1, 6])
def test_the_share_of_parts_above_the_limit_is_as_promised(exposures):
    """Images of a part share most of their score; a new part is above at most 10 % of the time."""
    rng, above = np.random.default_rng(1), []
    for _ in range(400):
        own = rng.normal(size=(31, 1)) + 0.3 * rng.normal(size=(31, exposures))
        known = part_scores(own[:30].ravel(), np.repeat(np.arange(30), exposures))
        above.append(own[30].max() > conformal_limit(known, 0.1)[0])
    assert np.mean(above) == pytest.approx(0.1, abs=0.04)


def test_the_limit_lies_half_way_between_the_modes() -> None:
    low, high = np.linspace(0, 1, 30), np.linspace(9, 10, 30)
    assert modes(np.concatenate([high, low]))[0] == pytest.approx(5)


def test_two_modes_that_overlap_promise_nothing() -> None:
    grid = norm.ppf((np.arange(2000) + 0.5) / 2000)
    scores = np.concatenate([grid, grid + 2.8])
    column = scores[:, None]
    bic = [GaussianMixture(k, random_state=0).fit(column).bic(column) for k in (1, 2)]
    assert bic[1] < bic[0]  # two fit better, and are no two kinds all the same
    limit, separation = modes(scores)
    assert limit == -np.inf
    assert 2 < separation <= 3
