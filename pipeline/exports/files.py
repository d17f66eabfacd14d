"""What all exports share: shapes of masks, files that are never overwritten, compact JSON."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from pipeline.config.section import ConfigError
from pipeline.io.files import replacing


class Shape(StrEnum):
    """How the mask of a region is written: polygons with whole-pixel corners, or run lengths."""

    POLYGON = "polygon"
    RLE = "rle"


def refuse_existing(out: Path) -> None:
    """Raise `ConfigError` if `out` exists: an export never overwrites."""
    if out.exists() or out.is_symlink():
        raise ConfigError(f"--out: {out} exists already; give another path or remove it first")


def write_compact(path: Path, content: object) -> None:
    """Write JSON on one line without blanks."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
