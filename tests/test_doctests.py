"""The examples of docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PIPELINE = Path(__file__).parents[1] / "pipeline"
MODULES = [
    ".".join(path.relative_to(PIPELINE.parent).with_suffix("").parts)
    for path in sorted(PIPELINE.rglob("*.py"))
    if any(
        ">>> " in line and "+SKIP" not in line
        for line in path.read_text(encoding="utf-8").splitlines()
    )
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert results.attempted > 0
    assert results.failed == 0


def test_entry_points_have_examples() -> None:
    assert len(MODULES) >= 15
