"""Pixel and region figures against every threshold tried in turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.config.params import Evaluate
from pipeline.evaluation.localization import ProCurve, ProPieces, box_iou, region_rates

OPTIONS = Evaluate()


def collect(maps: Iterable[np.ndarray], masks: Iterable[np.ndarray]) -> ProCurve:
    curve = ProCurve()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        curve.add(anomaly_map, mask)
    return curve


def aupro(
    maps: Iterable[np.ndarray], masks: Iterable[np.ndarray], max_fpr: float = OPTIONS.max_fpr
) -> float | None:
    return collect(maps, masks).aupro(max_fpr=max_fpr)


def pixel_auroc(maps: Iterable[np.ndarray], masks: Iterable[np.ndarray]) -> float | None:
    return collect(maps, masks).auroc()


def naive_regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected components by flood fill."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))
    regions = []
    while left:
        stack = [left.pop()]
        region = set(stack)
        while stack:
            r, c = stack.pop()
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            region |= near
            stack += near
        regions.append(region)
    return regions


def naive_aupro(maps: list[np.ndarray], masks: list[np.ndarray], max_fpr: float) -> float:
    """Every unique value as threshold; trapezoids up to the limit, where the curve is cut."""
    regions = [(n, region) for n, mask in enumerate(masks) for region in naive_regions(mask)]
    normal = np.concatenate([m[mask == 0] for m, mask in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        overlaps = [
            sum(maps[n][pixel] >= threshold for pixel in region) / len(region)
            for n, region in regions
        ]
        points.append((float(np.mean(normal >= threshold)), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            y1 = y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
            x1 = max_fpr
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def sample(
    seed: int, *, levels: int | None = None, n: int = 3, size: int = 24
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Noise raised inside square defects (some touching at a corner), of unequal sizes."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i in range(n):
        mask = np.zeros((size, size + i), bool)
        for _ in range(i + 1):
            r, c, side = rng.integers(0, size - 6), rng.integers(0, size - 6), rng.integers(2, 7)
            mask[r : r + side, c : c + side] = True
        mask[0, 0] = mask[1, 1] = True  # one region only by its corner
        values = np.clip(rng.random(mask.shape) * 0.7 + mask * rng.random() * 0.6, 0, 1)
        if levels:
            values = np.floor(values * levels) / levels
        maps.append(values.astype(np.float32))
        masks.append(mask)
    return maps, masks


@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [4, 255])
def test_aupro_of_quantised_maps_is_exact(levels: int, max_fpr: float) -> None:
    for seed in range(4):
        maps, masks = sample(seed, levels=levels)
        assert aupro(maps, masks, max_fpr=max_fpr) == pytest.approx(
            naive_aupro(maps, masks, max_fpr), abs=1e-12
        )


@pytest.mark.parametrize("power", [1, 8])
def test_aupro_of_continuous_maps_is_exact_but_for_the_bins(power: int) -> None:
    # The eighth power crowds most values near 0, where bins of equal width would fail.
    maps, masks = sample(5, size=32)
    maps = [m**power for m in maps]
    assert aupro(maps, masks) == pytest.approx(naive_aupro(maps, masks, 0.3), abs=1e-4)


@settings(max_examples=40)
@given(st.data())
def test_aupro_and_auroc_of_any_small_maps(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    pixels = shape[0] * shape[1]
    n = data.draw(st.integers(1, 2))
    values = st.lists(st.integers(0, 6), min_size=pixels, max_size=pixels)
    flags = st.lists(st.booleans(), min_size=pixels, max_size=pixels)
    maps = [np.reshape(data.draw(values), shape) / np.float32(6) for _ in range(n)]
    masks = [np.reshape(data.draw(flags), shape) for _ in range(n)]
    limit = data.draw(st.floats(0.01, 1))
    flat_mask = np.concatenate([m.ravel() for m in masks])
    if flat_mask.all() or not flat_mask.any():
        assert aupro(maps, masks, max_fpr=limit) is None
        assert pixel_auroc(maps, masks) is None
        return
    got = aupro(maps, masks, max_fpr=limit)
    assert got == pytest.approx(naive_aupro(maps, masks, limit), abs=1e-9)
    flat = np.concatenate([m.ravel() for m in maps])
    assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(flat_mask, flat), abs=1e-12)


def test_pixel_auroc_of_continuous_maps_equals_sklearn() -> None:
    maps, masks = sample(6, size=64)
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (masks, maps)]
    assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(*flat), abs=1e-5)


@pytest.mark.parametrize("low", np.geomspace(1e-12, 0.999, 12))
def test_values_one_part_in_4096_apart_are_told_apart_at_any_size(low: float) -> None:
    assert pixel_auroc([np.array([[low, low * (1 + 1 / 4096)]])], [np.array([[0, 1]])]) == 1.0


def test_perfect_inverted_and_constant_maps() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    perfect, inverted = mask.astype(np.float32), (~mask).astype(np.float32)
    assert aupro([perfect], [mask]) == 1.0
    assert pixel_auroc([perfect], [mask]) == 1.0
    assert aupro([inverted], [mask]) == 0.0
    constant = np.full((8, 8), 0.4)
    assert aupro([constant], [mask]) == pytest.approx(0.15)  # the diagonal up to 0.3
    assert pixel_auroc([constant], [mask]) == 0.5


def test_small_regions_weigh_as_much_as_large_ones() -> None:
    mask = np.zeros((10, 20), bool)
    mask[:, :9] = True
    mask[5, 15] = True
    found = np.where(mask, 1.0, 0.0)
    found[5, 15] = 0.0
    # The large region alone is found at FPR 0; the curve then climbs from 0.5 to 1 at FPR 1.
    assert aupro([found], [mask], max_fpr=1.0) == pytest.approx(0.75)


def test_corner_touching_pixels_are_one_region() -> None:
    mask = np.zeros((4, 4), int)
    mask[0, 0] = mask[1, 1] = mask[3, 3] = 255
    found = np.zeros((4, 4))
    found[3, 3] = 1
    assert aupro([found], [mask], max_fpr=1.0) == pytest.approx(0.75)


def test_maps_are_read_one_at_a_time() -> None:
    alive = 0
    most = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[np.ndarray]:
        nonlocal alive, most
        for seed in range(5):
            values = np.random.default_rng(seed).random((6, 6)).view(Counted)
            alive += 1
            most = max(most, alive)
            yield values
            del values

    mask = np.eye(6, dtype=bool)
    assert aupro(stream(), [mask] * 5) is not None
    assert most <= 2


def test_order_of_maps_does_not_matter_and_both_figures_come_from_one_pass() -> None:
    maps, masks = sample(7)
    curve = ProCurve()
    for i in (2, 0, 1):
        curve.add(maps[i], masks[i])
    assert curve.aupro(max_fpr=OPTIONS.max_fpr) == pytest.approx(aupro(maps, masks), abs=1e-12)
    assert curve.auroc() == pixel_auroc(maps, masks)


def test_images_without_defects_add_normal_pixels() -> None:
    maps, masks = sample(8, levels=255)
    maps.append(np.full((9, 9), 0.99, np.float32))
    masks.append(np.zeros((9, 9), bool))
    assert aupro(maps, masks) == pytest.approx(naive_aupro(maps, masks, 0.3), abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01, 1.01])
def test_values_outside_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite in"):
        aupro([np.array([[0.5, bad]])], [np.array([[0, 1]])])


def test_minus_zero_is_zero_and_one_has_a_bin() -> None:
    assert pixel_auroc([np.array([[-0.0, 0.0, 1.0]])], [np.array([[1, 0, 1]])]) == 0.75


def test_other_shapes_lengths_and_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one"):
        aupro([np.zeros((2, 3))], [np.zeros((3, 2))])
    with pytest.raises(ValueError, match="zip"):
        aupro([np.zeros((2, 3))], [])
    with pytest.raises(ValueError, match="max_fpr"):
        aupro([np.zeros((1, 2))], [np.array([[0, 1]])], max_fpr=0.0)


# Boxes


BOXES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=4,
)


def naive_iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    first, second = (
        {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)
    )
    return len(first & second) / len(first | second)


@settings(max_examples=60)
@given(st.lists(st.tuples(BOXES, BOXES), max_size=3), st.sampled_from([0.0, 0.1, 0.5]))
def test_region_rates_equal_counting_pixels(
    images: list[tuple[list[tuple[int, ...]], list[tuple[int, ...]]]], iou: float
) -> None:
    missed, false = [], []
    for true, predicted in images:
        missed += [not any(naive_iou(t, p) > iou for p in predicted) for t in true]
        false += [not any(naive_iou(t, p) > iou for t in true) for p in predicted]
    fpr, fnr = region_rates([t for t, _ in images], [p for _, p in images], iou=iou)
    assert fpr == (pytest.approx(np.mean(false)) if false else None)
    assert fnr == (pytest.approx(np.mean(missed)) if missed else None)


def test_iou_must_exceed_the_limit() -> None:
    true, predicted = [(0, 0, 10, 1)], [(0, 0, 1, 1)]  # IoU exactly 0.1
    assert box_iou(true, predicted).tolist() == [[0.1]]
    assert region_rates([true], [predicted], iou=OPTIONS.region_iou) == (1.0, 1.0)
    assert region_rates([true], [predicted], iou=0.09) == (0.0, 0.0)


def test_boxes_of_different_images_never_meet() -> None:
    box = [(0, 0, 4, 4)]
    assert region_rates([box, []], [[], box], iou=OPTIONS.region_iou) == (1.0, 1.0)


def test_bad_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="boxes must be"):
        region_rates([[(0, 0, 0, 4)]], [[]], iou=OPTIONS.region_iou)
    with pytest.raises(ValueError, match="images of true boxes"):
        region_rates([[]], [[], []], iou=OPTIONS.region_iou)


def test_pieces_of_all_maps_give_the_aupro_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    curve, pieces = ProCurve(), ProPieces()
    chosen = [0, 0, 3, 5, 6, 6, 6]
    maps, masks = [], []
    for _ in range(8):
        mask = np.zeros((60, 60), bool)
        y, x = rng.integers(0, 40, 2)
        mask[y : y + 15, x : x + 10] = rng.random() < 0.7
        amap = np.clip(rng.gamma(2, 0.06, (60, 60)) + 0.15 * mask, 0, 1)
        maps.append(amap)
        masks.append(mask)
        pieces.add(amap, mask)
    for i in chosen:
        curve.add(maps[i], masks[i])
    weights = np.array([np.bincount(chosen, minlength=8), np.zeros(8, int)])
    found = pieces.aupro(weights, max_fpr=0.3)
    assert found[0] == pytest.approx(curve.aupro(max_fpr=0.3), abs=2e-3)
    assert np.isnan(found[1])


def test_no_pieces_have_no_aupro() -> None:
    assert np.isnan(ProPieces().aupro(np.zeros((3, 0), np.int64), max_fpr=0.3)).all()
