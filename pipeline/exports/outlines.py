"""Masks as polygons, run lengths, and Label Studio's packed run lengths.

Points are corners of pixels: the pixel at row y, column x is the square (x, y) to (x + 1, y + 1).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.int64]

_RUN_BITS = (4, 8, 12, 16)
"""Bits of the four kinds of counters in packed run lengths."""


def outlines(mask: Mask) -> list[Points]:
    """Return polygons that cover exactly the pixels of a mask.

    Parameters
    ----------
    mask
        bool (H, W).

    Returns
    -------
    Polygons int64 (P, 2) of (x, y) corners, one for each 4-connected part. A hole is joined to its
    part by a bridge that is walked there and back, so the polygon has the right pixels under the
    even-odd and under the non-zero rule.
    """
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return [
        _outline(labels[y : y + height, x : x + width] == k) + np.array([x, y])
        for k, (x, y, width, height, _) in enumerate(boxes.tolist())
        if k > 0  # 0 is the background
    ]


def _outline(part: Mask) -> Points:
    """Return the polygon of one part, its holes bridged.

    OpenCV's contours run through pixel centres. With the mask doubled, pixel x becomes 2x and
    2x + 1: a contour at 2x is the left edge of the pixel, x, and one at 2x + 1 its right, x + 1.
    """
    doubled = part.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    loops = [_corners((contour[:, 0].astype(np.int64) + 1) // 2) for contour in contours]
    outer = int(np.flatnonzero(tree[0, :, 3] < 0)[0])  # the only one without a parent
    polygon = loops.pop(outer)
    for hole in loops:
        polygon = _bridged(polygon, hole)
    return polygon


def _corners(walk: Points) -> Points:
    """Return a closed walk (N, 2) without repeated points and points on a straight line."""
    steps = np.roll(walk, -1, 0) - walk
    walk = walk[steps.any(axis=1)]
    steps = np.roll(walk, -1, 0) - walk
    corners: Points = walk[(steps != np.roll(steps, 1, 0)).any(axis=1)]
    return corners


def _bridged(polygon: Points, hole: Points) -> Points:
    """Join a hole to a polygon between their nearest corners."""
    distances = np.abs(polygon[:, None] - hole[None]).sum(axis=2)
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    walk = np.concatenate([hole[j:], hole[: j + 1]])
    return np.concatenate([polygon[: i + 1], walk, polygon[i:]])


def run_lengths(values: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of the runs of a flat array: of False first, even if there is none."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [len(values)]])).tolist()
    return [0, *lengths] if len(values) and values[0] else lengths


def column_runs(mask: Mask) -> list[int]:
    """Return the counts of COCO's uncompressed run-length encoding: column after column."""
    return run_lengths(mask.ravel(order="F"))


def brush_runs(mask: Mask) -> list[int]:
    """Return the bytes of a mask (H, W) in Label Studio's brush format.

    The pixels, row after row, as four channels of 8 bits each, 255 in the mask and 0 elsewhere, in
    packed runs: 32 bits with the number of values, 5 with the bits of a value less one, four times
    4 with the bits of each kind of counter less one; then of each run a 1, 2 bits with the kind of
    its counter, the count less one, and the value. Filled up with zeros to whole bytes.
    """
    lengths = run_lengths(mask.ravel())
    bits = [f"{mask.size * 4:032b}", f"{8 - 1:05b}", *(f"{n - 1:04b}" for n in _RUN_BITS)]
    for i, length in enumerate(lengths):
        value = f"{255 * (i % 2):08b}"
        left = length * 4
        while left:
            count = min(left, 2 ** _RUN_BITS[-1])
            kind = next(k for k, n in enumerate(_RUN_BITS) if count <= 2**n)
            bits.append(f"1{kind:02b}{count - 1:0{_RUN_BITS[kind]}b}{value}")
            left -= count
    flat = np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")
    packed: list[int] = np.packbits(flat).tolist()
    return packed
