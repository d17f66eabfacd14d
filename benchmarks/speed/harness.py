"""Measuring: interleaved repeats, peak memory, and the JSON that a benchmark leaves behind."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.io.provenance import environment
from pipeline.io.tables import read_json, write_json

Call = Callable[[], object]


class NotEqualError(AssertionError):
    """The plain and the fast way disagree; the message says where."""


@dataclass(frozen=True)
class Row:
    """One line of docs/performance.md.

    Seconds are medians over the repeats, each for a `unit`, and `ratio` that of plain / ours, pair
    by pair; memory is in MiB. `metrics` are other numbers, `notes` what a reader must know.
    """

    what: str
    target: str = ""
    unit: str = ""
    plain_s: float | None = None
    ours_s: float | None = None
    ratio: float | None = None
    plain_mb: float | None = None
    ours_mb: float | None = None
    equal: str = ""
    notes: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, in the order they were measured."""

    plain: tuple[float, ...]
    ours: tuple[float, ...]

    def row(self, what: str, target: str, unit: str = "", **rest: Any) -> Row:
        """Return a row with the medians."""
        ratio = statistics.median(p / o for p, o in zip(self.plain, self.ours, strict=True))
        plain_s, ours_s = statistics.median(self.plain), statistics.median(self.ours)
        return Row(what, target, unit, plain_s, ours_s, ratio, **rest)


def seconds(call: Call) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(plain: Call, ours: Call, *, repeats: int, per: int = 1) -> Timing:
    """Measure the two in turn, `repeats` times, after a first call of ours (caches, compiled code).

    Times are divided by `per`, the number of units that one call works on.
    """
    ours()
    pairs = [(seconds(plain) / per, seconds(ours) / per) for _ in range(repeats)]
    return Timing(tuple(p for p, _ in pairs), tuple(o for _, o in pairs))


def compare(
    what: str,
    target: str,
    unit: str,
    plain: Call,
    ours: Call,
    *,
    repeats: int,
    per: int,
    equal: str,
) -> Row:
    """Measure time and peak memory of the two ways; `equal` says how far their results agree."""
    timing = interleaved(plain, ours, repeats=repeats, per=per)
    memory = {"plain_mb": peak_mb(plain), "ours_mb": peak_mb(ours)}
    return timing.row(what, target, unit, equal=equal, **memory)


def peak_mb(call: Call) -> float | None:
    """Return by how many MiB the resident memory rose at most during a call.

    Needs Linux with glibc and a writable /proc/self/clear_refs; elsewhere None.
    """
    try:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or free memory of earlier calls would serve
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _peak()
    except OSError:
        return None
    call()
    return round(_peak() - before, 1)


def _peak() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM")


def check(condition: bool, message: str) -> None:
    """Raise NotEqualError unless `condition` holds."""
    if not condition:
        raise NotEqualError(message)


def save(folder: Path, name: str, category: str, rows: Sequence[Row]) -> None:
    """Write <folder>/<name>.json: the rows, and what they were measured with."""
    content = {
        "name": name,
        "command": f"python -m benchmarks.speed {name} --category {category}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": _cpu_name(),
        "load": round(os.getloadavg()[0], 1),
        **environment(),
        "rows": [asdict(row) for row in rows],
    }
    write_json(folder / f"{name}.json", content)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def load(folder: Path) -> list[dict[str, Any]]:
    """Return what `save` wrote, all of a folder."""
    return [read_json(path) for path in sorted(folder.glob("*.json"))]
