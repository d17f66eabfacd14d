"""A few kills; `python -m benchmarks.kills` has more (docs/reliability.md)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kills
from tests.graph import ROOT


def test_a_few_kills_change_nothing() -> None:
    """In a process of its own, which forks before it has started a thread."""
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "3", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^3 kills .* 0 faults$", done.stdout, re.M)


@pytest.mark.parametrize("change", ["less", "more", "other", "left"])
def test_half_an_artifact_would_be_found(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "maps" / "metal"
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / name).write_text(name)
    whole = [[kills.written(tmp_path, stage)] for stage in kills.STAGES]
    sound = kills.Outcome()
    kills.check(tmp_path, whole, "before", sound)
    assert not sound.faults
    if change == "less":
        (folder / "a").unlink()
    elif change == "left":
        (tmp_path / "maps" / ".metal.abcd-1-abcdef.tmp").mkdir()
        assert kills.leftovers(tmp_path) == ["maps/.metal.abcd-1-abcdef.tmp"]
        return
    else:
        (folder / ("c" if change == "more" else "a")).write_text("x")
    found = kills.Outcome()
    kills.check(tmp_path, whole, "kill 1", found)
    assert found.faults == ["kill 1: maps holds what no unbroken run has"]
