"""Functions in processes of their own: what they cost, and what stops them."""

from __future__ import annotations

import os
import time

import pytest

from pipeline.inference.fresh_process import NotComputedError, in_fresh_process
from pipeline.io.paths import ArtifactError

MIB = 2**20


def take(mib: int) -> int:
    block = bytearray(mib * MIB)
    return len(block) // MIB


def refuse() -> None:
    raise ValueError("there are no normal references")


def lack() -> None:
    raise ArtifactError("no network was trained")


def test_value_and_peak_memory() -> None:
    """Also under a parent that took more than the process itself."""
    assert take(1500) == 1500
    small, large = (in_fresh_process(take, (mib,), limit_s=60) for mib in (1, 300))
    assert (small.value, large.value) == (1, 300)
    assert large.host_mib - small.host_mib > 250
    assert small.gpu_mib is None


def test_what_takes_too_long_is_stopped() -> None:
    start = time.monotonic()
    with pytest.raises(NotComputedError, match="took more than"):
        in_fresh_process(time.sleep, (60,), limit_s=0.2)
    assert time.monotonic() - start < 30


def test_a_refusal_and_a_death_are_named() -> None:
    with pytest.raises(NotComputedError, match="no normal references"):
        in_fresh_process(refuse, (), limit_s=60)
    with pytest.raises(NotComputedError, match="no network was trained"):
        in_fresh_process(lack, (), limit_s=60)
    with pytest.raises(NotComputedError, match="status 3"):
        in_fresh_process(os._exit, (3,), limit_s=60)
