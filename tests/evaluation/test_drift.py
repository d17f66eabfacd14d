"""Distances between distributions, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.drift import share_interval, shift_of, stability_index


def test_the_same_distribution_is_as_in_the_run() -> None:
    rng = np.random.default_rng(0)
    words = [shift_of(rng.normal(size=80), rng.normal(size=60)).words for _ in range(200)]
    assert words.count("as in the run") >= 192  # p below .01 in one of 100


def test_a_shift_is_seen_and_its_direction() -> None:
    rng = np.random.default_rng(0)
    run = rng.normal(size=200)
    up, down = shift_of(run, rng.normal(2, size=100)), shift_of(run, rng.normal(-0.5, size=200))
    assert up.words == "far higher than in the run"
    assert down.words == "lower than in the run"
    assert up.psi > 0.25
    values = np.sort(np.concatenate([run, x := rng.normal(1, size=90)]))
    below = [(a <= values[:, None]).mean(1) for a in (run, x)]
    assert shift_of(run, x).distance == pytest.approx(np.abs(below[0] - below[1]).max())


def test_few_values_say_nothing() -> None:
    assert shift_of(np.arange(7), np.arange(100)).words == "too few to say"
    assert shift_of([], []).words == "too few to say"
    assert np.isnan(shift_of(np.arange(49), np.arange(100)).psi)
    assert shift_of([np.nan] * 100, np.arange(50)).n_run == 0


def test_the_stability_index_is_that_of_its_formula() -> None:
    a, b = np.full(10, 100.5), np.array([*[50.5] * 5, *[150.5] * 5])
    run, new = np.arange(1000), np.repeat(np.arange(10) * 100 + 50, b.astype(int))
    a, b = a / a.sum(), b / b.sum()
    assert stability_index(run, new) == pytest.approx(((b - a) * np.log(b / a)).sum())


def test_the_interval_holds_the_share() -> None:
    low, high = share_interval(0, 20)
    assert low == 0
    assert 0.15 < high < 0.17
    assert share_interval(0, 0) == (0.0, 1.0)
