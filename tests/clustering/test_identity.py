"""Numbers of classes that pass from run to run."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clustering.identity import Identity, match_classes


def matched(old: list[int], new: list[int]) -> Identity:
    """Both runs have the same regions."""
    return match_classes(
        np.stack([old, new], 1), np.bincount(old).tolist(), np.bincount(new).tolist()
    )


def fates(identity: Identity) -> dict[int, tuple[str, int | None]]:
    return {fate.number: (fate.fate, fate.other) for fate in identity.fates}


def test_a_permutation_keeps_every_number() -> None:
    old = [0] * 4 + [1] * 9 + [2] * 8 + [3] * 7
    new = [0] * 4 + [3] * 9 + [1] * 8 + [2] * 7
    found = matched(old, new)
    assert found.numbers == (0, 2, 3, 1)
    assert found.n_numbers == 4
    assert fates(found) == {k: ("kept", None) for k in (1, 2, 3)}


def test_a_split_class_keeps_its_number_for_the_larger_part() -> None:
    found = matched([1] * 20 + [2] * 9, [1] * 8 + [2] * 9 + [1] * 3 + [3] * 9)
    assert found.numbers == (0, 1, 3, 2)
    assert fates(found) == {1: ("split", None), 2: ("kept", None), 3: ("split", 1)}


def test_a_merged_class_says_where_it_went() -> None:
    found = matched([1] * 20 + [2] * 9 + [3] * 5, [1] * 29 + [2] * 5)
    assert found.numbers == (0, 1, 3)
    assert found.n_numbers == 4
    assert fates(found) == {1: ("kept", None), 2: ("merged", 1), 3: ("kept", None)}


def test_a_merge_of_equals_is_no_class_that_was_kept() -> None:
    found = matched([1] * 10 + [2] * 9, [1] * 19)
    assert fates(found) == {1: ("merged", None), 2: ("merged", 1)}


def test_without_shared_regions_all_is_new() -> None:
    found = match_classes(np.zeros((0, 2)), [3, 4, 0, 5], [2, 6, 7])
    assert found.numbers == (0, 4, 5)
    assert found.n_numbers == 6
    assert fates(found) == {k: ("gone", None) for k in (1, 3)} | {k: ("new", None) for k in (4, 5)}


def test_normal_is_never_a_partner() -> None:
    found = matched([0] * 9 + [1] * 5, [1] * 9 + [0] * 5)
    assert found.numbers == (0, 2)
    assert fates(found) == {1: ("merged", 0), 2: ("split", 0)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=40))
def test_no_number_is_given_twice_or_to_another_class(pairs: list[tuple[int, int]]) -> None:
    old, new = ([pair[i] for pair in pairs] for i in (0, 1))
    old_sizes, new_sizes = np.bincount(old, minlength=6), np.bincount(new, minlength=5)
    found = match_classes(np.array(pairs).reshape(-1, 2), old_sizes.tolist(), new_sizes.tolist())
    assert len(set(found.numbers)) == 5
    assert found.numbers[0] == 0
    assert max(found.numbers) < found.n_numbers
    for j, number in enumerate(found.numbers):
        if 0 < number < 6:  # an old one: half of either class is in both
            both = sum(pair == (number, j) for pair in pairs)
            assert both >= 0.5 * min(old_sizes[number], new_sizes[j])
            assert both > 0
