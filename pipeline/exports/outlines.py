"""Masks as other programs store them: outlines of pixels, runs, and packed runs.

Points are corners of pixels: pixel (row y, column x) is the square from (x, y) to (x + 1, y + 1).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.int64]

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # east, south, west, north, as (dx, dy)
_RUN_BITS = (4, 8, 12, 16)
"""Lengths of the four kinds of counters in packed runs."""


def outlines(mask: Mask) -> list[Points]:
    """Return polygons (P, 2) of (x, y) corners that cover exactly the pixels of a mask (H, W) bool.

    One polygon for each 4-connected part, ordered by its first pixel, row by row. A hole is joined
    to it by a bridge that is walked there and back, so the polygon has the right pixels under the
    even-odd and under the non-zero rule.
    """
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    padded = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    _, labels = cv2.connectedComponents(padded.view(np.uint8), connectivity=4)
    outer: dict[int, Points] = {}
    holes: list[tuple[int, Points]] = []
    for loop, (y, x) in _loops(padded):
        part = int(labels[y, x])
        if _signed_area(loop) > 0:
            outer[part] = loop
        else:
            holes.append((part, loop))
    for part, hole in holes:
        outer[part] = _bridged(outer[part], hole)
    shift = np.array([columns[0] - 1, rows[0] - 1])
    return [polygon + shift for polygon in outer.values()]


def _loops(mask: Mask) -> list[tuple[Points, tuple[int, int]]]:
    """Walk along the edges of a padded mask, pixels at the right hand; (corners, first pixel)."""
    above, below = mask & ~np.roll(mask, 1, 0), mask & ~np.roll(mask, -1, 0)
    left, right = mask & ~np.roll(mask, 1, 1), mask & ~np.roll(mask, -1, 1)
    # Where the walk along an edge starts, relative to its pixel: heading east, south, west, north.
    starts = ((above, 0, 0), (right, 1, 0), (below, 1, 1), (left, 0, 1))
    edges = {
        (x + dx, y + dy, heading)
        for heading, (where, dx, dy) in enumerate(starts)
        for y, x in np.argwhere(where).tolist()
    }
    loops, walked = [], set[tuple[int, int, int]]()
    for y, x in np.argwhere(above).tolist():
        if (x, y, 0) not in walked:
            loops.append((_walk(edges, walked, (x, y, 0)), (y, x)))
    return loops


def _walk(
    edges: set[tuple[int, int, int]],
    walked: set[tuple[int, int, int]],
    start: tuple[int, int, int],
) -> Points:
    """Follow the loop of an edge back to it, adding its edges to `walked`; return its corners."""
    corners, edge = [], start
    while edge not in walked:
        walked.add(edge)
        x, y, heading = edge
        x, y = x + _STEPS[heading][0], y + _STEPS[heading][1]
        # Turn right first: where two pixels touch at a corner only, the walk stays at its own.
        turns = ((x, y, (heading + turn) % 4) for turn in (1, 0, 3))
        edge = next(turned for turned in turns if turned in edges)
        if edge[2] != heading:
            corners.append((x, y))
    return np.array(corners, np.int64)


def _signed_area(loop: Points) -> int:
    """Return twice the area, positive for a loop that is clockwise as shown (y points down)."""
    x, y = loop.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


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
