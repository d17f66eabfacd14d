"""Samples by hashes of names: those of parts merge, and hardly change as a set grows."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clustering.sampling import bottom_k

NAMES = st.lists(st.text(max_size=4), unique=True, max_size=40)


def chosen(names: list[str], k: int, seed: int = 0) -> set[str]:
    return {names[row] for row in bottom_k(names, k, seed)}


@given(names=NAMES, cut=st.integers(0, 40), k=st.integers(1, 20), seed=st.integers(0, 3))
def test_the_sample_of_a_set_is_that_of_the_samples_of_its_parts(
    names: list[str], cut: int, k: int, seed: int
) -> None:
    parts = chosen(names[:cut], k, seed) | chosen(names[cut:], k, seed)
    assert chosen(sorted(parts), k, seed) == chosen(names, k, seed)
    rows = bottom_k(names, k, seed)
    assert len(rows) == min(k, len(names))
    assert (np.diff(rows) > 0).all()


def test_the_smallest_hashes_win() -> None:
    names = [f"region {i}" for i in range(200)]
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).digest())
    assert chosen(names, 20, seed=7) == set(ranked[:20])
    assert chosen(names, 20, seed=7) != chosen(names, 20, seed=8)
    assert len(chosen(names, 20, 7) & chosen([*names, *"abcdefghij"], 20, 7)) >= 17


def test_all_of_a_small_set_are_taken() -> None:
    assert bottom_k(["b", "a"], 2, 0).tolist() == [0, 1]
    assert bottom_k([], 2, 0).tolist() == []
