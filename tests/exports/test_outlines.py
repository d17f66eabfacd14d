"""Outlines and runs give back exactly the mask, through readers that know nothing of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.exports.outlines import brush_runs, column_runs, outlines, run_lengths

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def filled(polygons: list[NDArray[np.int64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell by the even-odd rule which pixel centres lie inside, one edge and one ray at a time."""
    inside = np.zeros(shape, np.bool_)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            for y in range(shape[0]):
                if (y0 > y + 0.5) != (y1 > y + 0.5):
                    crossing = x0 + (y + 0.5 - y0) / (y1 - y0) * (x1 - x0)
                    inside[y] ^= np.arange(shape[1]) + 0.5 > crossing
    return inside


def unpacked(data: list[int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Read packed runs bit by bit, as their format says, literal values included."""
    bits = "".join(f"{byte:08b}" for byte in data)
    position = 0

    def take(n: int) -> int:
        nonlocal position
        position += n
        return int(bits[position - n : position], 2)

    total, word = take(32), take(5) + 1
    counters = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        repeated, kind = take(1), take(2)
        count = take(counters[kind]) + 1
        values += [take(word)] * count if repeated else [take(word) for _ in range(count)]
    assert len(bits) - position < 8
    return np.array(values, np.uint8).reshape(*shape, 4)


@given(MASKS)
def test_outlines_cover_exactly_the_mask(mask: NDArray[np.bool_]) -> None:
    polygons = outlines(mask)
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
    assert len(polygons) == parts
    assert all(len(polygon) >= 4 for polygon in polygons)


@given(MASKS)
def test_pycocotools_reads_outlines_and_column_runs(mask: NDArray[np.bool_]) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    height, width = mask.shape
    runs = coco.frPyObjects({"size": [height, width], "counts": column_runs(mask)}, height, width)
    np.testing.assert_array_equal(coco.decode(runs), mask)
    if mask.any():
        flat = [polygon.ravel().astype(float).tolist() for polygon in outlines(mask)]
        merged = coco.merge(coco.frPyObjects(flat, height, width))
        np.testing.assert_array_equal(coco.decode(merged), mask)


@given(MASKS)
def test_brush_runs_are_the_mask_in_four_channels(mask: NDArray[np.bool_]) -> None:
    expected = np.repeat(mask[:, :, None], 4, axis=2) * 255
    np.testing.assert_array_equal(unpacked(brush_runs(mask), mask.shape), expected)


def test_brush_runs_longer_than_a_counter() -> None:
    mask = np.zeros((300, 200), np.bool_)
    mask[100:290] = True
    np.testing.assert_array_equal(unpacked(brush_runs(mask), mask.shape)[:, :, 3] > 0, mask)


def test_run_lengths_begin_with_what_is_not() -> None:
    assert run_lengths(np.array([True, True, False])) == [0, 2, 1]
    assert run_lengths(np.array([False, True])) == [1, 1]


def test_a_rectangle_is_its_four_corners() -> None:
    mask = np.zeros((5, 6), np.bool_)
    mask[1:3, 2:6] = True
    (polygon,) = outlines(mask)
    assert {tuple(point) for point in polygon.tolist()} == {(2, 1), (6, 1), (6, 3), (2, 3)}
    assert outlines(np.zeros((2, 2), np.bool_)) == []
