"""Where the number of regions stays the same: MEBin's choice of a threshold (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SelectionRule = Literal["paper", "reference"]


@dataclass(frozen=True)
class StableRun:
    """A run of thresholds with the same number of components; `length` 0 where there is none."""

    index: int
    """Index of the lowest threshold of the run, -1 without one."""
    length: int
    count: int
    """The stable number of components (delta* in the paper), 0 without a run."""


def stable_run(counts: NDArray[np.int32], *, tau: int, rule: SelectionRule) -> StableRun:
    """Choose the run of thresholds that decides an image, from its counts, highest threshold first.

    A run is a maximal stretch of one non-zero count. "paper": delta* is the most frequent non-zero
    count, of equally frequent ones that met first from the highest threshold; its longest run is
    taken, of equally long ones the lowest, and there is none if it is shorter than `tau`.
    "reference": only runs of at least `tau` are kept; the count with the longest kept run wins, of
    equals the one whose first kept run is met first, and of its longest runs the lowest is taken.

    Raises ValueError if `tau` is below 1.
    """
    if tau < 1:
        raise ValueError(f"tau is {tau}: the shortest stable run is at least 1")
    edges = np.flatnonzero(np.diff(counts)) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [len(counts)]]))
    runs = [
        StableRun(int(start + length - 1), int(length), int(counts[start]))
        for start, length in zip(starts, lengths, strict=True)
        if counts[start] > 0 and (rule == "paper" or length >= tau)
    ]
    # Dicts keep the order of first insertion, and max takes the first of equals.
    marks: dict[int, int] = {}
    for run in runs:
        mark = marks.get(run.count, 0)
        marks[run.count] = mark + run.length if rule == "paper" else max(mark, run.length)
    if not marks:
        return StableRun(-1, 0, 0)
    stable = max(marks, key=marks.__getitem__)
    chosen = max((r for r in runs if r.count == stable), key=lambda r: (r.length, r.index))
    return chosen if chosen.length >= tau else StableRun(-1, 0, 0)
