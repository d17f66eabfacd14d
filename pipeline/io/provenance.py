"""Records of runs: versions, commit, device, and the time and memory of each stage."""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.io.files import DiskFullError
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import write_json

log = logging.getLogger("anomalyncd")

_PACKAGES = ("anomalyncd", "torch", "timm", "opencv-python-headless", "numpy", "zarr", "dvc")


def environment() -> dict[str, Any]:
    """Return versions, git commit (with ``-dirty``), CPU count and machine, all JSON values."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": git_commit(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "machine": platform.machine(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the abbreviated commit of the working folder, or None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@contextmanager
def recorded(stage: str, category: str | None, paths: ArtifactPaths) -> Iterator[None]:
    """Record wall seconds and peak memory of a stage in ``data/runs/<stage>/<category>.json``.

    The record is not an output of the pipeline, as it differs from run to run, and a stage whose
    artifact is complete does not fail if it cannot be written.
    """
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    record = {
        "stage": stage,
        "category": category,
        "wall_s": round(time.perf_counter() - start, 3),
        "peak_memory_mib": round(peak * unit / 2**20, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": _device(),
        **environment(),
    }
    try:
        write_json(runs_path(stage, category, paths), record)
    except (OSError, DiskFullError) as error:
        log.warning("%s: done, but its time and memory could not be recorded: %s", stage, error)


def _device() -> str:
    """Return the name of the CUDA device that this process used, or "cpu"; never imports torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return "cpu"
    return str(torch.cuda.get_device_name())


def last_run(stage: str, category: str | None, paths: ArtifactPaths) -> dict[str, Any] | None:
    """Return the last record of a stage, or None if there is none that can be read."""
    try:
        record = json.loads(runs_path(stage, category, paths).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def runs_path(stage: str, category: str | None, paths: ArtifactPaths) -> Path:
    """Return the file of a stage's record."""
    return paths.root / "runs" / stage / f"{category or 'all'}.json"
