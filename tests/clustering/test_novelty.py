"""What is unlike everything known is unknown, what is like it mostly is not."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clustering.novelty import fit_novelty


def regions(n: int, centres: list[int], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis = np.eye(12)[centres]
    x = basis[rng.integers(len(centres), size=n)] + rng.normal(size=(n, 12)) * 0.15
    return np.stack([x, x + rng.normal(size=x.shape) * 0.05], 1)  # (n, 2, 12)


def test_a_class_that_was_left_out_is_unknown() -> None:
    known = fit_novelty(regions(150, [0, 1, 2], 0))
    assert known.unknown(regions(200, [0, 1, 2], 1)).mean() < 0.12
    assert known.unknown(regions(50, [5], 2)).mean() > 0.95


def test_one_in_twenty_of_the_known_is_beyond_the_limit() -> None:
    x = regions(400, [0, 1], 0)
    known = fit_novelty(x)
    left_out = [fit_novelty(np.delete(x, i, 0)).distances(x[i : i + 1])[0] for i in range(100)]
    assert np.mean(np.array(left_out) > known.limit) == pytest.approx(0.05, abs=0.04)


def test_the_distance_is_one_minus_the_mean_cosine_of_the_three_nearest() -> None:
    x, new = regions(7, [0, 1], 0), regions(3, [2], 1)
    unit = [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (new, x)]
    cosines = np.mean([unit[0][:, i] @ unit[1][:, i].T for i in range(2)], axis=0)
    expected = [1 - np.mean(sorted(row)[-3:]) for row in cosines]
    np.testing.assert_allclose(fit_novelty(x).distances(new), expected, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_with_nothing_to_compare_nothing_is_unknown(n: int) -> None:
    known = fit_novelty(regions(n, [0], 0))
    assert not known.unknown(regions(4, [3], 0)).any()
    assert len(known.distances(regions(0, [0], 0))) == 0


def test_three_regions_are_compared_with_the_two_others() -> None:
    x = regions(3, [0, 1], 0)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    apart = 1 - np.mean([unit[:, i] @ unit[:, i].T for i in range(2)], axis=0)
    means = (apart.sum(1) - np.diag(apart)) / 2
    assert fit_novelty(x).limit == pytest.approx(np.quantile(means, 0.95), abs=1e-6)
