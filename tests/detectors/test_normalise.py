from __future__ import annotations

import numpy as np
import pytest

from pipeline.detectors.normalise import joint_range, rescale, value_range


def test_the_range_is_that_of_the_whole_set():
    maps = np.array([[[1.0, 2.0]], [[3.0, 5.0]]], np.float32)
    low, high = joint_range([value_range(m) for m in maps])
    assert (low, high) == (1, 5)
    out = rescale(maps, low, high)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[[0, 0.25]], [[0.5, 1]]])


def test_extremes_are_exact():
    values = np.random.default_rng(0).random(1000).astype(np.float32) * 0.3 + 17
    out = rescale(values, *value_range(values))
    assert out.min() == 0
    assert out.max() == 1


def test_a_constant_set_gives_zeros():
    values = np.full((2, 3), 0.7, np.float32)
    assert not rescale(values, *value_range(values)).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        value_range(np.array([0.0, bad]))


def test_nothing_to_normalise():
    with pytest.raises(ValueError, match="nothing"):
        value_range(np.zeros(0))
    with pytest.raises(ValueError, match="nothing"):
        joint_range([])


def test_8_bit_levels_survive():
    levels = np.arange(256) / 255
    out = rescale(levels.astype(np.float32), 0, 1)
    assert list(np.floor(255 * out).astype(int)) == list(range(256))
