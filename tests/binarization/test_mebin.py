"""MEBin against a plain sweep: one component pass per threshold, both rules written out."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.plain import mebin as plain
from pipeline.binarization.betti import betti_curve, first_exceeded
from pipeline.binarization.mebin import (
    ScoreRange,
    binarize_map,
    reference_floor,
    sample_levels,
    score_range,
)
from pipeline.binarization.stable_run import stable_run
from pipeline.binarization.thresholds import binarize_fixed, binarize_otsu, erode
from tests.binarization.whole_set import OPTIONS, Binarization, binarize

EIGHT = np.ones((3, 3))
COMMON = settings(max_examples=40)
binarized = partial(
    binarize_map,
    thresholds=OPTIONS.n_thresholds,
    tau=OPTIONS.tau,
    erode_px=OPTIONS.erode_px,
    rule=OPTIONS.rule,
)


def blobs(seed: int, n: int = 4, size: int = 48, sigma: float = 2.5) -> NDArray[np.float32]:
    """Smooth random maps, each with its own brightest value."""
    rng = np.random.default_rng(seed)
    noise = rng.random((n, size, size))
    smooth = ndimage.gaussian_filter(noise, (0, sigma, sigma))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (smooth * rng.uniform(0.4, 1, (n, 1, 1))).astype(np.float32)


def naive_erode(mask: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """Keep a pixel if all of -(k // 2) .. k - 1 - k // 2 is set, outside counting as set."""
    if k <= 1:
        return mask
    low, high = k // 2, k - 1 - k // 2
    padded = np.pad(mask, ((low, high), (low, high)), constant_values=True)
    height, width = mask.shape
    result = np.ones_like(mask)
    for dy in range(k):
        for dx in range(k):
            result &= padded[dy : dy + height, dx : dx + width]
    return result


def naive_count(mask: NDArray[np.bool_]) -> int:
    return int(ndimage.label(mask, structure=EIGHT)[1])


def naive_runs(counts: list[int]) -> list[tuple[int, int, int]]:
    """(count, first index, last index) of each stretch of equal, non-zero counts."""
    runs: list[tuple[int, int, int]] = []
    for j, count in enumerate(counts):
        if count == 0:
            continue
        if runs and runs[-1][0] == count and runs[-1][2] == j - 1:
            runs[-1] = (count, runs[-1][1], j)
        else:
            runs.append((count, j, j))
    return runs


def plain_paper(counts: list[int], tau: int) -> tuple[int, int] | None:
    """(last index, length) of the chosen run as the plain implementation chooses it."""
    last, count = plain._stable(counts, tau)
    lengths = {end: end - first + 1 for c, first, end in naive_runs(counts) if c == count}
    return (last, lengths[last]) if last >= 0 else None


def naive_reference(counts: list[int], tau: int) -> tuple[int, int] | None:
    """(last index, length) of the chosen run as the published implementation chooses it."""
    kept: dict[int, list[tuple[int, int]]] = {}
    for count, first, last in naive_runs(counts):
        if last - first + 1 >= tau:
            kept.setdefault(count, []).append((first, last))
    if not kept:
        return None
    winner, mark = 0, -1
    for count, runs in kept.items():
        longest = max(last - first for first, last in runs)
        if longest > mark:
            winner, mark = count, longest
    first, last = [r for r in kept[winner] if r[1] - r[0] == mark][-1]
    return last, last - first + 1


def sweep_paper(
    maps: NDArray[np.float32], s_min: float, *, thresholds: int, tau: int, erode_px: int
) -> list[tuple[NDArray[np.bool_], float, list[int], int]]:
    """The paper's sweep on float maps: (mask, threshold, counts, run length) of each."""
    results = []
    levels = [255 - j * 256 / thresholds for j in range(thresholds)]
    grid = [np.float32(s_min + level * (1 - s_min) / 255) for level in levels]
    for amap in maps:
        masks = [naive_erode(amap > eps, erode_px) for eps in grid]
        counts = [naive_count(mask) for mask in masks]
        run = plain_paper(counts, tau)
        if run is None:
            results.append((np.zeros(amap.shape, bool), np.nan, counts, 0))
        else:
            results.append((masks[run[0]], float(grid[run[0]]), counts, run[1]))
    return results


def sweep_reference(
    maps: NDArray[np.uint8], *, thresholds: int = 64, tau: int = 4, erode_px: int = 6
) -> list[tuple[NDArray[np.bool_], float, list[int], int]]:
    """The published sweep on 8-bit maps, level by level with OpenCV, in wide arithmetic."""
    tops = [int(amap.max()) for amap in maps]
    s_min, s_max = min(tops), max(tops)
    kernel = np.ones((erode_px, erode_px), np.uint8)

    def eroded(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        image = np.where(mask, 255, 0).astype(np.uint8)
        return np.asarray(cv2.erode(image, kernel, iterations=1)) if erode_px else image

    results = []
    for amap in maps:
        wide = amap.astype(np.int64)
        counts, levels = [], list(range(255, 0, -(256 // thresholds)))
        if s_min < s_max:
            scaled = np.where(wide < s_min, 0, ((wide - s_min) / (s_max - s_min)) * 255)
            for level in levels:
                counts.append(
                    cv2.connectedComponents(eroded(scaled > level), connectivity=8)[0] - 1
                )
        run = naive_reference(counts, tau)
        if run is None:
            counts = counts or [0] * len(levels)
            results.append((np.zeros(amap.shape, bool), np.nan, counts, 0))
            continue
        cut = int(levels[run[0]] * (s_max - s_min) / 255 + s_min)
        results.append((eroded(amap > cut) > 0, float(cut), counts, run[1]))
    return results


def assert_equal(
    found: Binarization, expected: list[tuple[NDArray[np.bool_], float, list[int], int]]
) -> None:
    for i, (mask, threshold, counts, length) in enumerate(expected):
        np.testing.assert_array_equal(found.counts[i], counts)
        np.testing.assert_array_equal(found.masks[i], mask)
        np.testing.assert_equal(found.threshold[i], threshold)
        assert found.run_length[i] == length
        assert found.n_regions[i] == naive_count(mask)


eight_bit_maps = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14)),
    elements=st.one_of(st.sampled_from([0, 3, 100, 101, 254, 255]), st.integers(0, 255)),
)
float_maps = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14)),
    elements=st.one_of(
        st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        st.floats(0, 1, width=32),
        st.integers(0, 255).map(lambda level: float(np.float32(level / 255))),
    ),
)
falling_counts = hnp.arrays(np.int32, st.integers(1, 40), elements=st.integers(0, 3))


@COMMON
@given(
    values=hnp.arrays(
        np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(0, 9)
    ),
)
def test_betti_curve_equals_a_component_pass_per_level(values: NDArray[np.int32]) -> None:
    expected = [naive_count(values <= j) for j in range(8)]
    assert betti_curve(values, 8).tolist() == expected


def test_betti_curve_of_every_three_by_three_neighbourhood() -> None:
    # All 256 sets of neighbours present when the centre joins last.
    for present in range(256):
        ring = [(present >> k) & 1 for k in range(8)]
        bins = np.array([*ring[:4], 0, *ring[4:]], np.int32).reshape(3, 3)
        bins = np.where(bins == 1, 0, 2).astype(np.int32)
        bins[1, 1] = 1
        assert betti_curve(bins, 2).tolist() == [naive_count(bins <= 0), naive_count(bins <= 1)]


@COMMON
@given(
    values=hnp.arrays(np.float32, (4, 4), elements=st.floats(0, 1, width=32)),
    falling=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9),
)
def test_first_exceeded_of_any_grid(values: NDArray[np.float32], falling: list[float]) -> None:
    falling = sorted([*falling, float(values[0, 0])], reverse=True)
    found = first_exceeded(values, np.array(falling))
    for value, index in zip(values.ravel(), found.ravel(), strict=True):
        exceeded = [j for j, t in enumerate(falling) if value > t]
        assert index == (exceeded[0] if exceeded else len(falling))


@COMMON
@given(
    image=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
    erode_px=st.integers(0, 9),
)
def test_erosion_window_and_border(image: NDArray[np.uint8], erode_px: int) -> None:
    k = max(erode_px, 1)
    # scipy's origin shifts the window: for 6 it spans -3..+2 at origin 0.
    expected = ndimage.minimum_filter(image, size=k, mode="constant", cval=255)
    np.testing.assert_array_equal(erode(image, erode_px), expected)
    scaled = (image / 255).astype(np.float32)
    np.testing.assert_array_equal(erode(scaled, erode_px), (expected / 255).astype(np.float32))
    np.testing.assert_array_equal(erode(image, erode_px) > 99, naive_erode(image > 99, erode_px))


def test_a_single_bright_square_erodes_to_its_anchor() -> None:
    image = np.zeros((20, 20), np.uint8)
    image[5:11, 7:13] = 1
    assert np.argwhere(erode(image, 6)).tolist() == [[8, 10]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("thresholds", "tau", "erode_px"), [(64, 4, 6), (64, 4, 0), (10, 2, 3), (33, 1, 1)]
)
def test_paper_rule_equals_the_plain_sweep(
    seed: int, thresholds: int, tau: int, erode_px: int
) -> None:
    maps = blobs(seed)
    found = binarize(maps, thresholds=thresholds, tau=tau, erode_px=erode_px)
    s_min = float(maps.max(axis=(1, 2)).min())
    assert (found.s_min, found.s_max) == (s_min, 1)
    expected = sweep_paper(maps, s_min, thresholds=thresholds, tau=tau, erode_px=erode_px)
    assert_equal(found, expected)
    if (thresholds, erode_px) == (64, 0):
        assert np.isfinite(found.threshold).any()
    elif erode_px:
        options = {"thresholds": thresholds, "tau": tau, "erode_px": erode_px}
        for i, amap in enumerate(maps):
            mask, count = plain.binarize_map(amap, s_min, 1, **options)
            np.testing.assert_array_equal(found.masks[i], mask)
            assert found.n_regions[i] == count


@COMMON
@given(maps=float_maps, erode_px=st.sampled_from([0, 1, 2, 6]), tau=st.integers(1, 6))
def test_paper_rule_on_any_float_maps(maps: NDArray[np.float32], erode_px: int, tau: int) -> None:
    s_min = float(maps.max(axis=(1, 2)).min())
    found = binarize(maps, thresholds=16, tau=tau, erode_px=erode_px)
    expected = sweep_paper(maps, s_min, thresholds=16, tau=tau, erode_px=erode_px)
    assert_equal(found, expected)


def test_paper_rule_on_8_bit_maps_is_the_float_sweep_in_other_units() -> None:
    maps = np.round(blobs(7) * 255).astype(np.uint8)
    found = binarize(maps, erode_px=2)
    s_min = int(maps.max(axis=(1, 2)).min())
    assert (found.s_min, found.s_max) == (s_min, 255)
    for i, amap in enumerate(maps):
        grid = [s_min + level * (255 - s_min) / 255 for level in range(255, 0, -4)]
        counts = [naive_count(naive_erode(amap > eps, 2)) for eps in grid]
        assert found.counts[i].tolist() == counts
        run = plain_paper(counts, 4)
        if run:
            assert found.threshold[i] == grid[run[0]]
            np.testing.assert_array_equal(found.masks[i], naive_erode(amap > grid[run[0]], 2))
    assert np.isfinite(found.threshold).any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("thresholds", "tau", "erode_px"), [(64, 4, 6), (64, 4, 0), (16, 2, 3), (256, 9, 1), (1, 1, 6)]
)
def test_reference_rule_equals_the_published_sweep(
    seed: int, thresholds: int, tau: int, erode_px: int
) -> None:
    maps = np.floor(blobs(seed, n=6) * 255).astype(np.uint8)
    options = {"thresholds": thresholds, "tau": tau, "erode_px": erode_px}
    found = binarize(maps, rule="reference", **options)
    assert_equal(found, sweep_reference(maps, **options))
    if (thresholds, erode_px) == (64, 0):
        assert np.isfinite(found.threshold).any()


@COMMON
@given(maps=eight_bit_maps, erode_px=st.sampled_from([0, 1, 6]), tau=st.integers(1, 6))
def test_reference_rule_on_any_8_bit_maps(maps: NDArray[np.uint8], erode_px: int, tau: int) -> None:
    found = binarize(maps, rule="reference", tau=tau, erode_px=erode_px)
    assert_equal(found, sweep_reference(maps, tau=tau, erode_px=erode_px))


@pytest.mark.parametrize(("low", "high"), [(0, 255), (17, 200), (100, 103), (254, 255)])
def test_reference_rule_at_every_grey_level(low: int, high: int) -> None:
    # One isolated pixel of each grey level, so that each count tells which levels are exceeded.
    ramp = np.zeros((2 * 16, 2 * 16), np.uint8)
    ramp[::2, ::2] = np.minimum(np.arange(256), high).reshape(16, 16)
    dark = np.full_like(ramp, 0)
    dark[0, 0] = low
    maps = np.stack([ramp, dark])
    found = binarize(maps, rule="reference", erode_px=0, tau=1)
    assert_equal(found, sweep_reference(maps, erode_px=0, tau=1))


@pytest.mark.parametrize("erode_px", [0, 3])
def test_reference_rule_takes_floats_as_floor_of_255(erode_px: int) -> None:
    maps = blobs(3, n=6)
    found = binarize(maps, rule="reference", erode_px=erode_px)
    expected = sweep_reference(np.floor(maps * 255).astype(np.uint8), erode_px=erode_px)
    some = False
    for i, (mask, cut, counts, length) in enumerate(expected):
        np.testing.assert_array_equal(found.masks[i], mask)
        assert (found.counts[i].tolist(), found.run_length[i]) == (counts, length)
        if np.isnan(cut):
            assert np.isnan(found.threshold[i])
        else:
            some = True
            assert np.floor(255 * np.float32(found.threshold[i])) == cut
            # The threshold is in the units of the map: it gives the mask before erosion.
            np.testing.assert_array_equal(naive_erode(maps[i] > found.threshold[i], erode_px), mask)
    assert some


def test_reference_rule_is_the_same_for_grey_levels_as_floats() -> None:
    maps = np.floor(blobs(11) * 255).astype(np.uint8)
    whole = binarize(maps, rule="reference", erode_px=1)
    scaled = binarize((maps / 255).astype(np.float32), rule="reference", erode_px=1)
    np.testing.assert_array_equal(scaled.masks, whole.masks)
    np.testing.assert_array_equal(scaled.counts, whole.counts)


def counts_of(*pairs: tuple[int, int]) -> NDArray[np.int32]:
    """Counts from (count, how often) pairs, highest threshold first."""
    return np.repeat([c for c, _ in pairs], [n for _, n in pairs]).astype(np.int32)


def test_reference_tie_goes_to_the_first_kept_run() -> None:
    first_long = counts_of((0, 1), (1, 4), (2, 6), (1, 6), (0, 1))
    run = stable_run(first_long, tau=4, rule="reference")
    assert (run.count, run.index, run.length) == (1, 16, 6)
    # A first run of two is not kept, so 2 is met first.
    first_short = counts_of((0, 1), (1, 2), (2, 6), (1, 6), (0, 1))
    run = stable_run(first_short, tau=4, rule="reference")
    assert (run.count, run.index, run.length) == (2, 8, 6)


def test_of_equally_long_runs_the_lowest_is_taken() -> None:
    counts = counts_of((0, 3), (2, 5), (3, 1), (2, 5), (3, 1))
    for rule in ("paper", "reference"):
        assert stable_run(counts, tau=4, rule=rule).index == 13


def test_paper_takes_the_most_frequent_count_even_in_shorter_runs() -> None:
    counts = counts_of((0, 2), (1, 4), (2, 1), (1, 4), (3, 6))
    assert stable_run(counts, tau=4, rule="paper").count == 1
    assert stable_run(counts, tau=4, rule="reference").count == 3
    # The most frequent count decides: without a stable run of it there is nothing.
    assert stable_run(counts, tau=5, rule="paper").length == 0
    assert stable_run(counts, tau=5, rule="reference").count == 3


def test_paper_tie_goes_to_the_count_met_first() -> None:
    run = stable_run(counts_of((0, 2), (4, 5), (1, 5)), tau=4, rule="paper")
    assert (run.count, run.index, run.length) == (4, 6, 5)


@settings(max_examples=300)
@given(counts=falling_counts, tau=st.integers(1, 6))
def test_both_rules_on_any_counts(counts: NDArray[np.int32], tau: int) -> None:
    for rule, naive in (("paper", plain_paper), ("reference", naive_reference)):
        run = stable_run(counts, tau=tau, rule=rule)
        expected = naive(counts.tolist(), tau)
        assert (run.index, run.length) == (expected or (-1, 0))
        assert run.count == (counts[run.index] if expected else 0)


def test_levels() -> None:
    assert sample_levels(64, rule="paper").tolist() == list(range(255, 0, -4))
    assert sample_levels(256, rule="reference").tolist() == list(range(255, 0, -1))
    assert sample_levels(3, rule="paper").tolist() == [255, 255 - 256 / 3, 255 - 512 / 3]
    for thresholds, rule in ((0, "paper"), (48, "reference"), (512, "reference"), (64, "mine")):
        with pytest.raises(ValueError, match=r"thresholds is|rule is"):
            sample_levels(thresholds, rule=rule)


@pytest.mark.parametrize("rule", ["paper", "reference"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_constant_sets_have_empty_masks(rule: str, dtype: type, value: float) -> None:
    scale = 255 if dtype is np.uint8 else 1
    maps = np.full((3, 16, 16), value * scale).astype(dtype)
    found = binarize(maps, rule=rule)
    assert not found.masks.any()
    assert np.isnan(found.threshold).all()
    assert not found.counts.any()
    assert found.counts.shape == (3, 64)


@COMMON
@given(maps=eight_bit_maps, seed=st.integers(0, 99), rule=st.sampled_from(["paper", "reference"]))
def test_order_of_the_maps_does_not_matter(maps: NDArray[np.uint8], seed: int, rule: str) -> None:
    order = np.random.default_rng(seed).permutation(len(maps))
    one = binarize(maps, rule=rule, erode_px=1, tau=1)
    other = binarize(maps[order], rule=rule, erode_px=1, tau=1)
    np.testing.assert_array_equal(other.masks, one.masks[order])
    np.testing.assert_array_equal(other.threshold, one.threshold[order])
    np.testing.assert_array_equal(other.counts, one.counts[order])


@pytest.mark.parametrize("rule", ["paper", "reference"])
def test_floor_replaces_the_lowest_score(rule: str) -> None:
    maps = blobs(2)
    lower = binarize(maps, rule=rule, floor=0.1, erode_px=0)
    assert lower.s_min == 0.1
    assert not np.array_equal(lower.counts, binarize(maps, rule=rule, erode_px=0).counts)
    with_normal = np.concatenate([maps, np.full((1, 48, 48), 0.1, np.float32)])
    np.testing.assert_array_equal(
        lower.masks, binarize(with_normal, rule=rule, erode_px=0).masks[:-1]
    )


def test_a_floor_above_every_score_finds_nothing() -> None:
    dark = blobs(2) * np.float32(0.5)
    for rule in ("paper", "reference"):
        assert not binarize(dark, rule=rule, floor=0.9, erode_px=0).masks.any()


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan")])
def test_an_impossible_floor_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="floor is"):
        binarize(blobs(0), floor=floor)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.2])
def test_bad_values_are_refused(value: float) -> None:
    amap = blobs(0)[2]
    amap[5, 5] = value
    with pytest.raises(ValueError, match="the map has"):
        binarized(amap, ScoreRange(0, 1))
    scores = np.array([0.5, value])
    with pytest.raises(ValueError, match="score of map 1"):
        score_range(scores, rule="paper", floor=None)


def test_bad_shapes_types_and_options_are_refused() -> None:
    maps = blobs(0)
    for bad in (maps, maps[0, :0], maps[0].astype(np.int64)):
        with pytest.raises(ValueError, match="must"):
            binarized(bad, ScoreRange(0, 1))
    for options in ({"tau": 0}, {"erode_px": -1}, {"rule": "other"}, {"thresholds": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            binarize(maps, **options)
    with pytest.raises(ValueError, match="at least one"):
        score_range(np.array([]), rule="paper", floor=None)


def test_fixed_threshold_is_in_the_units_of_the_map() -> None:
    amap = blobs(1)[0]
    found = binarize_fixed(amap, threshold=0.3, erode_px=2)
    np.testing.assert_array_equal(found.mask, naive_erode(amap > 0.3, 2))
    assert (found.threshold, found.run_length, len(found.counts)) == (0.3, 0, 0)
    assert found.n_regions == naive_count(found.mask)
    eight_bit = np.round(amap * 255).astype(np.uint8)
    whole = binarize_fixed(eight_bit, threshold=80, erode_px=0)
    np.testing.assert_array_equal(whole.mask, eight_bit > 80)
    with pytest.raises(ValueError, match="threshold is"):
        binarize_fixed(amap, threshold=float("nan"), erode_px=0)


@pytest.mark.parametrize("seed", range(5))
def test_otsu_equals_opencv(seed: int) -> None:
    amap = np.round(blobs(seed)[0] * 255).astype(np.uint8)
    _, mask = cv2.threshold(amap, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    found = binarize_otsu(amap, erode_px=0)
    np.testing.assert_array_equal(found.mask, mask > 0)
    np.testing.assert_array_equal(binarize_otsu(amap, erode_px=3).mask, naive_erode(mask > 0, 3))
    # The scale of a float map does not matter: the histogram spans its own values.
    stretched = ((amap - amap.min()) / (int(amap.max()) - int(amap.min()))).astype(np.float32)
    for scale in (1, 0.125):
        floats = binarize_otsu(stretched * np.float32(scale), erode_px=0)
        np.testing.assert_array_equal(floats.mask, stretched * scale > floats.threshold)
        assert abs(floats.mask.mean() - found.mask.mean()) < 0.05


def test_otsu_of_a_constant_map_is_empty() -> None:
    for amap in (np.full((9, 9), 0.7, np.float32), np.full((9, 9), 200, np.uint8)):
        found = binarize_otsu(amap, erode_px=OPTIONS.erode_px)
        assert not found.mask.any()
        assert np.isnan(found.threshold)


def test_references_give_the_floor_where_no_image_is_normal() -> None:
    references = np.linspace(0.2, 0.4, 8)
    assert reference_floor(np.array([0.5, 0.9]), references) == 0.2
    assert reference_floor(np.array([0.3, 0.9]), references) is None
    assert reference_floor(np.array([0.5, 0.9]), references[:7]) is None
