"""Measuring: interleaved repeats, peak memory, and the JSON that a benchmark leaves behind."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.io.provenance import git_commit
from pipeline.io.tables import read_json, write_json

_PACKAGES = ("torch", "torchvision", "timm", "opencv-python-headless", "numba", "numpy", "dvc")


class NotEqualError(AssertionError):
    """The plain and the fast way disagree; the message says where."""


@dataclass(frozen=True)
class Row:
    """One line of the table in docs/performance.md; None: there is no such figure.

    `ratio` is the median over the repeats of plain_s / ours_s, both in seconds a `unit`.
    `ours_cpu_s` is the processor time of ours, which others on the machine do not change.
    `figures` are other numbers, `note` what a reader must know.
    """

    what: str
    reach: str
    unit: str = ""
    ratio: float | None = None
    plain_s: float | None = None
    ours_s: float | None = None
    repeats: int = 0
    plain_mb: float | None = None
    ours_mb: float | None = None
    equal: str = ""
    note: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    ours_cpu_s: float | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat, pairs in the order they were measured."""

    plain: tuple[float, ...]
    ours: tuple[float, ...]
    ours_cpu_s: float | None = None
    """Median processor time of ours."""

    @property
    def ratio(self) -> float:
        """Median of plain over ours, pair by pair."""
        return statistics.median(p / o for p, o in zip(self.plain, self.ours, strict=True))

    @property
    def plain_s(self) -> float:
        """Median of the plain way."""
        return statistics.median(self.plain)

    @property
    def ours_s(self) -> float:
        """Median of ours."""
        return statistics.median(self.ours)


def seconds(call: Callable[[], object]) -> float:
    """Return the wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    plain: Callable[[], object], ours: Callable[[], object], *, repeats: int, per: int = 1
) -> Timing:
    """Measure the two in turn, `repeats` times after a first ours (caches, compiled code).

    Times are divided by `per`, the number of units that one call works on.
    """
    ours()
    plains, all_ours, cpu = [], [], []
    for _ in range(repeats):
        plains.append(seconds(plain) / per)
        start = time.process_time()
        all_ours.append(seconds(ours) / per)
        cpu.append((time.process_time() - start) / per)
    return Timing(tuple(plains), tuple(all_ours), statistics.median(cpu))


def peak_mb(call: Callable[[], object]) -> float | None:
    """Return by how many MiB the resident memory rose at most during a call.

    Needs Linux with glibc and a writable /proc/self/clear_refs; elsewhere None.
    """
    try:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or free memory of earlier calls would serve
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status_mb("VmHWM")
    except OSError:
        return None
    call()
    return round(_status_mb("VmHWM") - before, 1)


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")


def check(condition: bool, message: str) -> None:
    """Raise NotEqualError unless `condition` holds."""
    if not condition:
        raise NotEqualError(message)


def machine() -> dict[str, Any]:
    """Return CPU, its cores, threads of torch, and versions."""
    return {
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def save(folder: Path, name: str, rows: Sequence[Row], arguments: Sequence[str]) -> None:
    """Write <folder>/<name>.json."""
    content = {
        "name": name,
        "command": f"python -m benchmarks.speed {shlex.join(arguments)}",
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load": round(os.getloadavg()[0], 1),
        **machine(),
        "rows": [asdict(row) for row in rows],
    }
    write_json(folder / f"{name}.json", content)


def load(folder: Path) -> list[dict[str, Any]]:
    """Return what `save` wrote, all of a folder."""
    return [read_json(path) for path in sorted(folder.glob("*.json"))]
