"""Squares around regions against explicit formulas, and cut-outs against plain padding."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.config.params import Crops
from pipeline.regions.crops import (
    area_px,
    crop_scores,
    cut,
    find_regions,
    region_squares,
    resize_mask,
    whole_image,
)

COMMON = settings(max_examples=60)
OPTIONS = Crops()
squares_of = partial(
    region_squares,
    padding=OPTIONS.padding,
    smallest_side=OPTIONS.smallest_side,
    merge_distance=OPTIONS.merge_distance,
)
masks_of_any_kind = hnp.arrays(
    np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.booleans()
)


@st.composite
def masks_of_rectangles(draw: st.DrawFn) -> NDArray[np.bool_]:
    mask = np.zeros((draw(st.integers(1, 90)), draw(st.integers(1, 90))), np.bool_)
    for _ in range(draw(st.integers(0, 5))):
        y, x = (draw(st.integers(0, n - 1)) for n in mask.shape)
        mask[y : y + draw(st.integers(1, 20)), x : x + draw(st.integers(1, 20))] = True
    return mask


def flood(free: NDArray[np.bool_], start: tuple[int, int], steps: list[tuple[int, int]]) -> set:
    """Pixels of `free` that can be reached from `start`."""
    found, waiting = {start}, [start]
    while waiting:
        y, x = waiting.pop()
        for dy, dx in steps:
            q = (y + dy, x + dx)
            inside = 0 <= q[0] < free.shape[0] and 0 <= q[1] < free.shape[1]
            if inside and free[q] and q not in found:
                found.add(q)
                waiting.append(q)
    return found


FOUR = [(0, 1), (1, 0), (0, -1), (-1, 0)]
EIGHT = [*FOUR, (1, 1), (1, -1), (-1, 1), (-1, -1)]


def naive_regions(mask: NDArray[np.bool_]) -> dict[tuple[int, int, int, int], int]:
    """Box -> area of every outermost component, by flooding; what it encloses is its own."""
    padded = np.pad(mask, 1)
    outside = flood(~padded, (0, 0), FOUR)
    filled = np.ones_like(padded)
    for pixel in outside:
        filled[pixel] = False
    result, seen = {}, set()
    for start in map(tuple, np.argwhere(filled).tolist()):
        if start in seen:
            continue
        pixels = flood(filled, start, EIGHT)
        seen |= pixels
        ys, xs = [p[0] - 1 for p in pixels], [p[1] - 1 for p in pixels]
        area = sum(int(padded[p]) for p in pixels)
        result[(min(xs), min(ys), max(xs) + 1, max(ys) + 1)] = area
    return result


def naive_square(
    box: tuple[int, int, int, int], shape: tuple[int, int], padding: float, smallest: float
) -> tuple[int, int, int]:
    """The reference's arithmetic for one box."""
    height, width = shape
    longest = max(height, width)
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0)
    r = min(max(int((1 + padding) / 2 * longer), int(smallest / 2 * longest)), int(0.5 * longest))
    r = max(r, 1)
    return naive_shift(int((x0 + x1) / 2) - r, int((y0 + y1) / 2) - r, 2 * r, shape)


def naive_shift(x0: int, y0: int, side: int, shape: tuple[int, int]) -> tuple[int, int, int]:
    height, width = shape
    if x0 < 0:
        x0 = 0
    elif x0 + side > width:
        x0 = width - side
    if y0 < 0:
        y0 = 0
    elif y0 + side > height:
        y0 = height - side
    return x0, y0, side


def naive_squares(
    mask: NDArray[np.bool_], padding: float, smallest: float, distance: float
) -> list[tuple[int, tuple[int, int, int]]]:
    """(area, square) of every connected group, in the order of `region_squares`."""
    regions = naive_regions(mask)
    items = [
        ([naive_square(box, mask.shape, padding, smallest)], area) for box, area in regions.items()
    ]
    limit = distance * max(mask.shape)
    merged = True
    while merged:
        merged = False
        for a in range(len(items)):
            for b in range(a + 1, len(items)):
                if any(gap(p, q) < limit for p in items[a][0] for q in items[b][0]):
                    items[a] = (items[a][0] + items[b][0], items[a][1] + items[b][1])
                    del items[b]
                    merged = True
                    break
            if merged:
                break
    result = []
    for squares, area in items:
        square = squares[0]
        if len(squares) > 1:
            x0, y0 = min(s[0] for s in squares), min(s[1] for s in squares)
            x1, y1 = max(s[0] + s[2] for s in squares), max(s[1] + s[2] for s in squares)
            side = max(x1 - x0, y1 - y0)
            x0 += (x1 - x0 - side) // 2
            y0 += (y1 - y0 - side) // 2
            square = naive_shift(x0, y0, side, mask.shape)
        result.append((area, square))
    return sorted(result, key=lambda item: (-item[0], item[1][1], item[1][0]))


def gap(p: tuple[int, int, int], q: tuple[int, int, int]) -> float:
    dx = max(p[0] - q[0] - q[2], q[0] - p[0] - p[2], 0)
    dy = max(p[1] - q[1] - q[2], q[1] - p[1] - p[2], 0)
    return float(np.sqrt(dx * dx + dy * dy))


@COMMON
@given(mask=st.one_of(masks_of_any_kind, masks_of_rectangles()))
def test_regions_equal_flooding_and_outer_contours(mask: NDArray[np.bool_]) -> None:
    found = find_regions(mask)
    expected = naive_regions(mask)
    boxes = [tuple(box) for box in found.boxes.tolist()]
    assert dict(zip(boxes, found.areas.tolist(), strict=True)) == expected
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))
    assert found.areas.sum() == mask.sum()
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    outlines = [cv2.boundingRect(contour) for contour in contours]
    assert sorted(boxes) == sorted((x, y, x + w, y + h) for x, y, w, h in outlines)


def test_a_region_in_the_hole_of_another_is_not_separate() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[2:15, 3:17] = True
    mask[4:13, 5:15] = False
    mask[8, 9] = True
    found = find_regions(mask)
    assert found.boxes.tolist() == [[3, 2, 17, 15]]
    assert found.areas.tolist() == [mask.sum()]
    # A ring that only touches at corners is closed too.
    y, x = np.mgrid[:11, :11]
    ring = np.abs(y - 5) + np.abs(x - 5) == 4
    ring[5, 5] = True
    assert find_regions(ring).boxes.tolist() == [[1, 1, 10, 10]]
    assert find_regions(ring).areas.tolist() == [17]


@COMMON
@given(
    mask=masks_of_rectangles(),
    padding=st.sampled_from([0.0, 0.1, 0.5]),
    smallest=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    distance=st.sampled_from([0.0, 0.01, 0.1, 0.4]),
)
def test_squares_equal_the_formula(
    mask: NDArray[np.bool_], padding: float, smallest: float, distance: float
) -> None:
    found = squares_of(mask, padding=padding, smallest_side=smallest, merge_distance=distance)
    expected = naive_squares(mask, padding, smallest, distance)
    if not mask.any():
        height, width = mask.shape
        side = max(height, width)
        expected = [(0, ((width - side) // 2, (height - side) // 2, side))]
    assert [tuple(square) for square in found.tolist()] == [square for _, square in expected]
    assert found.dtype == np.int64
    for keep in (1, 2):
        kept = squares_of(
            mask, padding=padding, smallest_side=smallest, merge_distance=distance, keep=keep
        )
        np.testing.assert_array_equal(kept, found[:keep])


@COMMON
@given(mask=masks_of_rectangles(), distance=st.sampled_from([0.0, 0.01, 0.3]))
def test_squares_hold_the_mask_and_lie_inside(mask: NDArray[np.bool_], distance: float) -> None:
    # With a padding of 0.2 rounding down never costs a pixel of regions of 5 pixels or more.
    padded = np.pad(mask, 10)
    squares = squares_of(padded, padding=0.2, merge_distance=distance, smallest_side=0.3)
    seen = np.zeros_like(padded)
    for x0, y0, side in squares.tolist():
        if side <= min(padded.shape):
            assert min(x0, y0) >= 0
            assert x0 + side <= padded.shape[1]
            assert y0 + side <= padded.shape[0]
        seen[max(y0, 0) : y0 + side, max(x0, 0) : x0 + side] = True
    assert seen[padded].all()


def test_a_square_by_hand() -> None:
    mask = np.zeros((100, 200), np.bool_)
    mask[40:60, 90:140] = True
    # Longer side 50: r = int(0.55 * 50) = 27; centre (115, 50).
    assert squares_of(mask).tolist() == [[88, 23, 54]]
    assert squares_of(mask, padding=0.2).tolist() == [[85, 20, 60]]
    # The floor: half of 0.4 * 200.
    assert squares_of(mask, smallest_side=0.4).tolist() == [[75, 10, 80]]
    # Nothing is larger than the longer image side; what is too high starts at the top.
    assert squares_of(mask, smallest_side=1.0).tolist() == [[0, 0, 200]]
    long = np.zeros((100, 200), np.bool_)
    long[50, 5:195] = True
    assert squares_of(long).tolist() == [[0, 0, 200]]
    corner = np.zeros((100, 200), np.bool_)
    corner[97:, 198:] = True
    assert squares_of(corner).tolist() == [[160, 60, 40]]


def test_merging_is_transitive_squared_and_shifted() -> None:
    mask = np.zeros((300, 300), np.bool_)
    for x in (15, 46, 77):
        mask[5:7, x : x + 2] = True
    apart = squares_of(mask, smallest_side=0.1, merge_distance=0.0)
    # Squares of side 30 at x = 1, 32, 63: gaps of 1.
    assert apart.tolist() == [[1, 0, 30], [32, 0, 30], [63, 0, 30]]
    one = squares_of(mask, smallest_side=0.1, merge_distance=0.01)
    assert one.tolist() == [[1, 0, 92]]
    assert len(squares_of(mask, smallest_side=0.1, merge_distance=1 / 300)) == 3


def test_gaps_are_measured_along_the_diagonal() -> None:
    mask = np.zeros((300, 300), np.bool_)
    mask[100:102, 100:102] = mask[134:136, 133:135] = True  # squares of side 30: gaps of 3 and 4
    assert len(squares_of(mask, smallest_side=0.1, merge_distance=4.9 / 300)) == 2
    assert len(squares_of(mask, smallest_side=0.1, merge_distance=5.1 / 300)) == 1


def test_keep_takes_the_largest_area_not_the_largest_square() -> None:
    mask = np.zeros((400, 400), np.bool_)
    mask[10, 10:150] = True
    mask[200:220, 200:220] = True
    squares = squares_of(mask, keep=1)
    assert squares.tolist() == [[170, 170, 80]]
    # Equal areas: from top to bottom, then from left to right.
    even = np.zeros((400, 400), np.bool_)
    for y, x in ((300, 100), (100, 300), (100, 100)):
        even[y, x] = True
    assert squares_of(even)[:, :2].tolist() == [[60, 60], [260, 60], [60, 260]]


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (31, 50), (40, 40)])
def test_without_a_region_the_square_holds_the_whole_image(shape: tuple[int, int]) -> None:
    squares = squares_of(np.zeros(shape, np.bool_))
    assert squares.tolist() == [whole_image(shape).tolist()]
    x0, y0, side = squares[0].tolist()
    assert side == max(shape)
    assert min(x0, y0) <= 0 <= max(x0, y0)
    assert x0 + side >= shape[1]
    assert y0 + side >= shape[0]
    image = np.ones((*shape, 3), np.uint8)
    full, none = cut(image, np.zeros(shape, np.bool_), squares[0], size=side)
    assert full.sum() == image.sum()
    assert not none.any()


@COMMON
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    x0=st.integers(-30, 30),
    y0=st.integers(-30, 30),
    side=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_cut_equals_plain_padding(
    shape: tuple[int, int], x0: int, y0: int, side: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mask = rng.random(shape) > 0.5
    square = np.array([x0, y0, side])
    wide, wide_mask = np.pad(image, ((80, 80), (80, 80), (0, 0))), np.pad(mask, 80)
    expected = wide[80 + y0 : 80 + y0 + side, 80 + x0 : 80 + x0 + side]
    expected_mask = wide_mask[80 + y0 : 80 + y0 + side, 80 + x0 : 80 + x0 + side]
    same, same_mask = cut(image, mask, square, size=side)
    np.testing.assert_array_equal(same, expected)
    np.testing.assert_array_equal(same_mask, expected_mask)
    assert (same.dtype, same_mask.dtype) == (np.uint8, np.uint8)
    assert area_px(mask, square) == expected_mask.sum()
    # Twice as large: every mask pixel becomes four.
    large, large_mask = cut(image, mask, square, size=2 * side)
    np.testing.assert_array_equal(large_mask, expected_mask.repeat(2, 0).repeat(2, 1))
    assert large.shape == (2 * side, 2 * side, 3)


def test_cut_averages_when_it_shrinks() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[::4] = 200
    mask = np.zeros((16, 16), np.bool_)
    mask[:, 8:] = True
    small, small_mask = cut(image, mask, np.array([0, 0, 16]), size=4)
    assert (small == 50).all()
    assert small_mask.tolist() == [[0, 0, 1, 1]] * 4


def test_cut_refuses_what_does_not_fit() -> None:
    image, mask = np.zeros((8, 9, 3), np.uint8), np.zeros((8, 8), np.bool_)
    with pytest.raises(ValueError, match="same height"):
        cut(image, mask, np.array([0, 0, 8]), size=4)
    with pytest.raises(ValueError, match="at least 1"):
        cut(image[:, :8], mask, np.array([0, 0, 0]), size=4)


def test_mask_is_brought_to_image_size_by_nearest_neighbour() -> None:
    mask = np.array([[True, False, False], [False, False, True]])
    found = resize_mask(mask, (6, 12))
    np.testing.assert_array_equal(found, mask.repeat(3, 0).repeat(4, 1))
    rng = np.random.default_rng(0)
    mask = rng.random((7, 11)) > 0.5
    rows = ((np.arange(16) + 0.5) * 7 / 16).astype(int)
    columns = ((np.arange(5) + 0.5) * 11 / 5).astype(int)
    np.testing.assert_array_equal(resize_mask(mask, (16, 5)), mask[rows][:, columns])


@COMMON
@given(
    seed=st.integers(0, 99),
    square=st.tuples(st.integers(-10, 25), st.integers(-10, 25), st.integers(1, 20)),
)
def test_crop_score_is_the_rescaled_maximum(seed: int, square: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    amap = rng.random((5, 7)).astype(np.float32)
    height, width = 13, 22
    x0, y0, side = square
    values = [0.25]
    for y in range(max(y0, 0), min(y0 + side, height)):
        for x in range(max(x0, 0), min(x0 + side, width)):
            v, u = (y + 0.5) * 5 / height - 0.5, (x + 0.5) * 7 / width - 0.5
            v, u = min(max(v, 0), 4), min(max(u, 0), 6)
            i, j = min(int(v), 3), min(int(u), 5)
            top = amap[i, j] * (1 - u + j) + amap[i, j + 1] * (u - j)
            bottom = amap[i + 1, j] * (1 - u + j) + amap[i + 1, j + 1] * (u - j)
            values.append(top * (1 - v + i) + bottom * (v - i))
    expected = (max(values) - 0.25) / (0.9 - 0.25)
    (found,) = crop_scores(amap, np.array([square]), (height, width), s_min=0.25, s_max=0.9)
    assert found == pytest.approx(min(expected, 1), abs=1e-5)


def test_crop_score_without_a_range_is_zero() -> None:
    amap, square = np.ones((4, 4), np.float32), np.array([[0, 0, 4]])
    for s_min, s_max in ((1.0, 1.0), (0.9, 0.5)):
        assert crop_scores(amap, square, (4, 4), s_min=s_min, s_max=s_max).tolist() == [0]
    assert crop_scores(amap, square, (4, 4), s_min=0.0, s_max=1.0).tolist() == [1]


@pytest.mark.parametrize(
    "options",
    [{"padding": -0.1}, {"smallest_side": -1}, {"merge_distance": float("nan")}, {"keep": 0}],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        squares_of(np.ones((4, 4), np.bool_), **options)


def test_masks_of_other_kinds_are_refused() -> None:
    for mask in (np.zeros((4, 4), np.uint8), np.zeros((2, 4, 4), np.bool_)):
        with pytest.raises(ValueError, match="a mask must be bool"):
            squares_of(mask)
