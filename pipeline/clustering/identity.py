"""Which class of a run is which class of an earlier one, by the regions that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

Fate = Literal["kept", "split", "merged", "new", "gone"]

CARRIED = 0.5
"""A number passes on if so much of either class is in both."""

KEPT = 0.6
"""A class is kept if so much of both is in both."""


@dataclass(frozen=True)
class ClassFate:
    """What became of a class, or where it came from.

    `number` is that of the class; `other` the one that it was split from or merged into, if its
    number did not pass on. `before` and `now` count its regions in the two runs, `shared` those in
    both.
    """

    number: int
    fate: Fate
    other: int | None
    before: int
    now: int
    shared: int


@dataclass(frozen=True)
class Identity:
    """`numbers` of the classes of a run, out of `n_numbers`, and the fates of defect classes."""

    numbers: tuple[int, ...]
    n_numbers: int
    fates: tuple[ClassFate, ...]


def match_classes(
    shared: ArrayLike, old_sizes: Sequence[int], new_sizes: Sequence[int]
) -> Identity:
    """Give the classes of a run the numbers of those of an earlier run.

    The pairs of classes that share most regions are found by the Hungarian method (Kuhn, 1955);
    class 0 is normal in both. A class without a partner gets a number that was never used.

    Parameters
    ----------
    shared
        (S, 2) old and new class of each region that both runs have.
    old_sizes, new_sizes
        Regions of each class of the runs; 0 for a number without a class.

    Examples
    --------
    >>> pairs = [[1, 2]] * 8 + [[2, 1]] * 5 + [[2, 2]]
    >>> match_classes(pairs, [0, 8, 6], [0, 5, 9]).numbers
    (0, 2, 1)
    """
    pairs = np.asarray(shared, np.int64).reshape(-1, 2)
    counts = np.zeros((len(old_sizes), len(new_sizes)), np.int64)
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    of_old = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    of_new = counts / np.maximum(counts.sum(0, keepdims=True), 1)
    rows, columns = linear_sum_assignment(counts[1:, 1:], maximize=True)
    partner = {
        int(j) + 1: int(i) + 1
        for i, j in zip(rows, columns, strict=True)
        if max(of_old[i + 1, j + 1], of_new[i + 1, j + 1]) >= CARRIED
    }
    numbers, n = [partner.get(j, 0) for j in range(len(new_sizes))], len(old_sizes)
    for j in sorted(range(1, len(new_sizes)), key=lambda j: new_sizes[j] == 0):  # empty ones last
        if j not in partner:
            numbers[j], n = n, n + 1
    fates = [
        *_old_fates(counts, of_old, of_new, partner, numbers, old_sizes, new_sizes),
        *_new_fates(counts, of_new, partner, numbers, new_sizes),
    ]
    return Identity(tuple(numbers), n, tuple(sorted(fates, key=lambda fate: fate.number)))


def _old_fates(
    counts: NDArray[np.int64],
    of_old: NDArray[np.float64],
    of_new: NDArray[np.float64],
    partner: dict[int, int],
    numbers: Sequence[int],
    old_sizes: Sequence[int],
    new_sizes: Sequence[int],
) -> list[ClassFate]:
    fates: list[ClassFate] = []
    heir = {i: j for j, i in partner.items()}
    for i in range(1, len(old_sizes)):
        if old_sizes[i] == 0:
            continue
        if i in heir:
            j = heir[i]
            fate: Fate = "split" if of_old[i, j] < KEPT else "merged"
            if min(of_old[i, j], of_new[i, j]) >= KEPT:
                fate = "kept"
            fates.append(ClassFate(i, fate, None, old_sizes[i], new_sizes[j], int(counts[i, j])))
            continue
        j = int(counts[i].argmax())
        into = numbers[j] if of_old[i, j] >= CARRIED else None
        fate = "gone" if into is None else "merged"
        fates.append(ClassFate(i, fate, into, old_sizes[i], 0, int(counts[i, j])))
    return fates


def _new_fates(
    counts: NDArray[np.int64],
    of_new: NDArray[np.float64],
    partner: dict[int, int],
    numbers: Sequence[int],
    new_sizes: Sequence[int],
) -> list[ClassFate]:
    fates: list[ClassFate] = []
    for j in range(1, len(new_sizes)):
        if j in partner or new_sizes[j] == 0:
            continue
        i = int(counts[:, j].argmax())
        source = i if of_new[i, j] >= CARRIED else None
        fate: Fate = "new" if source is None else "split"
        shared = 0 if source is None else int(counts[i, j])
        fates.append(ClassFate(numbers[j], fate, source, 0, new_sizes[j], shared))
    return fates
