from __future__ import annotations

import numpy as np
import pytest

from pipeline.regions.weights import map_weights


def test_weights_rise_with_the_map_and_stay_inside_the_mask() -> None:
    amap = np.random.default_rng(0).random((12, 16), np.float32)
    mask = np.random.default_rng(1).random((12, 16)) > 0.4
    weights = map_weights(amap, mask, s_min=0.3, s_max=0.9)
    expected = np.clip(np.rint(255 * (amap.astype(np.float64) - 0.3) / 0.6), 1, 255)
    np.testing.assert_array_equal(weights, np.where(mask, expected, 0))
    assert weights.dtype == np.uint8
    np.testing.assert_array_equal(weights > 0, mask)


def test_the_map_is_brought_to_the_size_of_the_mask() -> None:
    amap = np.array([[0.0, 1.0]], np.float32)
    weights = map_weights(amap, np.ones((3, 40), np.bool_), s_min=0.0, s_max=1.0)
    assert weights.shape == (3, 40)
    assert (np.diff(weights[0].astype(int)) >= 0).all()
    assert (weights[0, 0], weights[0, -1]) == (1, 255)


@pytest.mark.parametrize("s_max", [0.5, 0.4])
def test_without_a_range_all_pixels_of_the_mask_weigh_alike(s_max: float) -> None:
    mask = np.eye(4, dtype=np.bool_)
    weights = map_weights(np.ones((4, 4), np.float32), mask, s_min=0.5, s_max=s_max)
    np.testing.assert_array_equal(weights, 255 * mask)
