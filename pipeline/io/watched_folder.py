"""New images of a folder, once they are wholly there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.io.images import is_image_name
from pipeline.io.paths import ArtifactError

_BILLION = 10**9


@dataclass(frozen=True, order=True)
class FileState:
    """A file of a folder as it lies there: time of its last change, path below it, and size."""

    modified_ns: int
    path: str
    size: int

    @property
    def modified(self) -> str:
        """Return the time of the last change in UTC, to the nanosecond.

        >>> FileState(1_700_000_000_000_000_001, "a.png", 3).modified
        '2023-11-14T22:13:20.000000001Z'
        """
        whole = datetime.fromtimestamp(self.modified_ns // _BILLION, UTC)
        return f"{whole:%Y-%m-%dT%H:%M:%S}.{self.modified_ns % _BILLION:09d}Z"


class WatchedFolder:
    """A folder that images are written into, flat or nested.

    Images are files with the ending of one; names that begin with a dot, and what lies in such
    folders, are left out: other programs write there what they rename later.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._last: set[FileState] = set()
        self.growing = False
        """Whether the last call found an image that was new or had changed."""

    def settled(self) -> list[FileState]:
        """Return the images that are as they were at the call before, the oldest first.

        Raises `ArtifactError` if the folder is not there.
        """
        there = self._scan()
        settled = sorted(there & self._last)
        self.growing = len(settled) < len(there)
        self._last = there
        return settled

    def state(self, path: str) -> FileState | None:
        """Return how a file lies there now; None where there is none."""
        try:
            found = (self.root / path).stat()
        except OSError:
            return None
        return FileState(found.st_mtime_ns, path, found.st_size)

    def _scan(self) -> set[FileState]:
        if not self.root.is_dir():
            raise ArtifactError(f"{self.root} is no folder: give one that images are written into")
        there = set()
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if name.startswith(".") or not is_image_name(Path(name)):
                    continue
                state = self.state((Path(folder) / name).relative_to(self.root).as_posix())
                if state is not None:
                    there.add(state)
        return there
