"""Classes that people merged and split: unions of the fine clusters of a `ClassTree`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.clustering.class_tree import ClassTree, Ints


@dataclass(frozen=True)
class Merge:
    """Classes that become one, under the first of their numbers; class 0 keeps its own."""

    classes: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """A class that is divided at its highest node of the tree."""

    number: int


Choice = Merge | Split


@dataclass(frozen=True)
class ShapedClasses:
    """A tree and the class `members[f]` of each of its fine clusters, of `n_classes` numbers.

    A number whose class was merged into another has no fine cluster: numbers are never given to
    something else.
    """

    tree: ClassTree
    members: Ints
    n_classes: int
    moved: Mapping[int, int] = field(default_factory=dict)
    """Numbers without a fine cluster: the class that holds most of what they stood for."""
    founders: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """The fine clusters that each number stood for at first, if the choices are known."""

    @property
    def is_unchanged(self) -> bool:
        """Tell whether the classes are those of the run."""
        same = np.array_equal(self.members, self.tree.owners)
        return same and self.n_classes == self.tree.n_classes

    def sums(self) -> NDArray[np.float64] | None:
        """Return which class each class of the run is part of, (C, n_classes) of 0 and 1.

        None if one of them was split, as its parts are no sums.
        """
        pairs = set(zip(self.tree.owners.tolist(), self.members.tolist(), strict=True))
        if len(pairs) > self.tree.n_classes:
            return None
        matrix = np.zeros((self.tree.n_classes, self.n_classes))
        for owner, number in pairs:
            matrix[owner, number] = 1
        return matrix

    def probabilities(self, probabilities: ArrayLike, embeddings: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities (M, n_classes) of the shaped classes.

        What a class of the run has of a region goes to the shaped class that holds the class's fine
        cluster nearest to the region: merged classes add up, and of a split class one part has all.

        Parameters
        ----------
        probabilities
            (M, C) of the classes of the run.
        embeddings
            (M, E) of the regions, in the space of the tree.
        """
        p = np.asarray(probabilities, np.float64)
        if self.is_unchanged:
            return p
        into = self.members[self.tree.nearest(embeddings)]  # (M, C)
        shaped = np.zeros((len(p), self.n_classes))
        np.add.at(shaped, (np.arange(len(p))[:, None], into), p)
        return shaped


def apply_choices(
    tree: ClassTree,
    choices: Sequence[Choice],
    numbers: Sequence[int] | None = None,
    n_numbers: int | None = None,
) -> ShapedClasses:
    """Apply choices one after the other; numbers in each are those that the ones before left.

    Of a split class the part with most of the regions that the number stood for at first keeps it.
    The other part gets the number of a merged class, if it holds all of that, or else a new one.

    Parameters
    ----------
    tree, choices
        The tree, and what people chose.
    numbers, n_numbers
        The numbers of the classes of the run (None: as in the run), of so many that were used.

    Returns
    -------
    The shaped classes; without choices those of the run.

    Raises
    ------
    ValueError
        A choice that is not possible; the message says which class and why.
    """
    start = np.arange(tree.n_classes) if numbers is None else np.asarray(numbers, np.int64)
    members = start[tree.owners]
    founders = {int(k): set(np.flatnonzero(members == k).tolist()) for k in start}
    for unused in range(n_numbers or 0):
        founders.setdefault(unused, set())
    for choice in choices:
        if isinstance(choice, Merge):
            _merge(members, choice.classes)
        else:
            _split(tree, members, founders, choice.number)
    moved = _moved(tree, members, founders)
    stood_for = {number: frozenset(leaves) for number, leaves in founders.items()}
    return ShapedClasses(tree, members, len(founders), moved, stood_for)


def _moved(tree: ClassTree, members: Ints, founders: Mapping[int, set[int]]) -> dict[int, int]:
    """Return, for every number without a fine cluster, the class with most of its founders."""
    moved = {}
    for number in sorted(set(founders) - set(members.tolist())):
        own = sorted(founders[number])
        if not own:
            continue
        moved[number] = int(np.bincount(members[own], tree.sizes[own] + 1e-6).argmax())
    return moved


def _merge(members: Ints, classes: Sequence[int]) -> None:
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"merge two or more different classes, not {list(classes)}")
    for number in classes:
        _check_there(members, number)
    members[np.isin(members, classes)] = 0 if 0 in classes else classes[0]


def _split(tree: ClassTree, members: Ints, founders: dict[int, set[int]], number: int) -> None:
    _check_there(members, number)
    own = set(np.flatnonzero(members == number).tolist())
    if len(own) < 2:
        raise ValueError(f"class {number} is one fine cluster, and cannot be split")
    parts = _divide(tree, own)

    def regions(leaves: set[int]) -> int:
        return int(tree.sizes[sorted(leaves)].sum())

    founded = founders[number]
    kept = max(parts, key=lambda part: (regions(part & founded), len(part & founded)))
    other = parts[1] if kept is parts[0] else parts[0]
    gone = [k for k in sorted(founders) if founders[k] and k not in members]
    free = [k for k in gone if founders[k] <= other]
    new = max(free, key=lambda k: regions(founders[k]), default=len(founders))
    founders.setdefault(new, other)
    members[sorted(other)] = new


def _divide(tree: ClassTree, leaves: set[int]) -> tuple[set[int], set[int]]:
    """Return the two parts of two or more fine clusters at the lowest node above all of them."""
    node = len(tree.owners) + len(tree.nodes) - 1
    while True:
        left, right = tree.nodes[node - len(tree.owners)]
        parts = leaves & tree.leaves(left), leaves & tree.leaves(right)
        if all(parts):
            return parts
        node = left if parts[0] else right


def _check_there(members: Ints, number: int) -> None:
    if number not in members:
        there = ", ".join(str(k) for k in np.unique(members))
        raise ValueError(f"there is no class {number}: the classes are {there}")
