"""Runs are joined on one scale; an image's score is how far its top stands out."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.detectors.calibration import (
    Scale,
    calibrate,
    contrast,
    fit_scale,
    fuse,
    fused_scores,
    join,
    joint_map,
    top_share,
)


def _patches(n: int = 6, p: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4, 0.1, (n, p)).astype(np.float32)


def test_a_scale_is_mean_and_spread_of_what_is_finite() -> None:
    values = _patches()
    known = fit_scale(np.vstack([values, np.full((1, 400), np.inf, np.float32)]))
    assert known.mean == pytest.approx(values.mean(dtype=np.float64))
    assert known.spread == pytest.approx(values.std(dtype=np.float64))
    assert fit_scale(values[0]) == fit_scale(values[:1])
    with pytest.raises(ValueError, match="two normal references"):
        fit_scale(np.full((1, 4), np.inf, np.float32))


def test_equal_values_have_a_spread_to_divide_by() -> None:
    same = np.full((2, 9), 0.3, np.float32)
    assert fit_scale(same).spread > 0


def test_runs_of_other_units_join_alike() -> None:
    a, b = _patches(seed=0), _patches(seed=1)
    joined = join([a, b], [fit_scale(a), fit_scale(b)])
    other = join([a, 70 * b + 3], [fit_scale(a), fit_scale(70 * b + 3)])
    np.testing.assert_allclose(joined, other, atol=1e-4)
    np.testing.assert_allclose(
        joined, ((a - a.mean()) / a.std() + (b - b.mean()) / b.std()) / 2, atol=1e-4
    )
    with pytest.raises(ValueError, match="no runs"):
        join([], [])
    with pytest.raises(ValueError, match="zip"):
        join([a], [])


@pytest.mark.parametrize(("share", "keep"), [(0.01, 4), (0.005, 2), (0.0001, 1), (1.0, 400)])
def test_the_top_share_is_the_mean_of_the_highest(share: float, keep: int) -> None:
    patches = _patches()
    expected = [sorted(row.tolist())[-keep:] for row in patches]
    np.testing.assert_allclose(top_share(patches, share), np.mean(expected, axis=1), rtol=1e-6)


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_must_be_one(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        top_share(_patches(), share)


def test_contrast_tells_a_spot_from_a_level() -> None:
    patches = np.random.default_rng(2).normal(0, 0.1, (3, 1000)).astype(np.float32)
    patches[1, :200] += 3  # a part that lies unlike all others
    patches[2, :200] += 2
    patches[2, :10] += 1  # lies better, and has a defect
    scores = contrast(patches)
    assert scores[2] > scores[1] + 0.3 > scores[0]
    own = np.quantile(patches, 0.9, axis=1)
    expected = top_share(patches, 0.02) - 0.25 * own
    np.testing.assert_allclose(
        contrast(patches, share=0.02, level=0.9, weight=0.25), expected, rtol=1e-5
    )


def test_an_image_unlike_all_others_still_scores_high() -> None:
    patches = _patches(2, 1000)
    patches[1] += 5
    scores = contrast(patches)
    assert scores[1] > scores[0] + 2


def test_the_largest_score_counts() -> None:
    a, b = np.array([1, 5, 3], np.float32), np.array([40, 10, 30], np.float32)
    fused = fuse([a, b], [Scale(1, 2), Scale(10, 10)])
    np.testing.assert_allclose(fused, [3, 2, 2])
    with pytest.raises(ValueError, match="no scores"):
        fuse([], [])


def test_each_size_weighs_the_same_however_many_layers_it_has() -> None:
    held_out = [_patches(seed=k) for k in range(4)]
    runs, sizes = [_patches(9, seed=k) for k in range(10, 14)], [1, 1, 3, 1]
    known = calibrate(held_out, sizes)
    z = [(a - b.mean()) / b.std() for a, b in zip(runs, held_out, strict=True)]
    fine, coarse = (z[0] + z[1] + z[3]) / 3, z[2]
    np.testing.assert_allclose(joint_map(runs, sizes, known), (fine + coarse) / 2, atol=1e-4)


def test_the_image_score_is_the_largest_calibrated_contrast() -> None:
    held_out = [_patches(20, seed=k) for k in range(2)]
    runs, sizes = [_patches(9, seed=k) for k in range(10, 12)], [3, 1]
    known = calibrate(held_out, sizes)
    parts = []
    for run, own in zip(runs, held_out, strict=True):
        normal = contrast((own - own.mean()) / own.std())
        found = contrast((run - own.mean()) / own.std())
        parts.append((found - normal.mean()) / normal.std())
    np.testing.assert_allclose(fused_scores(runs, sizes, known), np.max(parts, axis=0), atol=1e-3)
    normal = fused_scores(held_out, sizes, known)
    assert abs(float(normal.mean())) < 1


def test_a_reference_that_could_not_be_compared_is_left_out() -> None:
    held_out = _patches(20)
    known = calibrate([held_out], [1])
    lonely = np.vstack([held_out, np.full((1, 400), np.inf, np.float32)])
    assert calibrate([lonely], [1]) == known


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="no runs"):
        calibrate([], [])
