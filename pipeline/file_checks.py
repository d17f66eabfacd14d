"""Checks before a file is opened: a pipe would block, a device would never end."""

from __future__ import annotations

import stat
from pathlib import Path


def file_problem(path: Path, largest: int) -> str | None:
    """Return why a file must not be read, or None for a regular file of at most `largest` bytes.

    Links are followed. Raises OSError for a missing file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file (but a folder, pipe, device or socket, or a link to one)"
    if status.st_size > largest:
        return (
            f"{status.st_size / 2**20:.0f} MiB large, over the limit of {largest / 2**20:.0f} MiB"
        )
    return None
