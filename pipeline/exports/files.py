"""How exports are written: never over something, and JSON without the blanks."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config.params import ConfigError
from pipeline.io.files import replacing


def refuse_existing(out: Path) -> None:
    """Raise `ConfigError` if there is something at `out`: an export never overwrites."""
    if out.exists() or out.is_symlink():
        raise ConfigError(f"--out: {out} exists already; give another path or remove it first")


def write_compact(path: Path, content: object) -> None:
    """Write JSON in one line: runs and points are many, and nobody reads them."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
