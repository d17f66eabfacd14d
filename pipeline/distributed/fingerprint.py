"""What has to be equal on all machines of a run, so that the same code gives the same bits."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    *("torch", "timm", "numpy", "scipy", "scikit-learn", "opencv-python-headless", "zarr"),
    *("numba", "pillow", "pyarrow"),
)
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets by which torch and OpenCV choose their kernels."""


@cache
def fingerprint() -> dict[str, str]:
    """Return versions, a digest of the project's code, and the kind of processor and GPU."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "code": _code(Path(__file__).parent.parent),
        "processor": _processor(),
        "gpu": _gpu(),
    }


def differences(own: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return ``name here-value, there-value`` of what differs."""
    return [
        f"{name} {own.get(name)} here, {other.get(name)} there"
        for name in own.keys() | other.keys()
        if own.get(name) != other.get(name)
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _code(folder: Path) -> str:
    """Return 12 hex digits of the SHA-256 of the modules below `folder`."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    flags = set(next(lines, "").split())
    return " ".join((platform.machine(), *(flag for flag in _FLAGS if flag in flags)))


def _gpu() -> str:
    """Return the models of the GPUs, by their driver: torch need not be imported."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    models = {line.split(":", 1)[1].strip() for text in texts for line in text.splitlines()
              if line.startswith("Model:")}  # fmt: skip
    return ", ".join(sorted(models)) or "none"
