"""The results of images as they come, a line of CSV each: what `classify --watch` writes.

A line is written in one step and flushed to disk, and a file of images is done once its line is
there: a process that is killed loses no line and writes none twice. What a power cut tore off at
the end is removed when the file is opened again, and its image is done again.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from pipeline.io.paths import ArtifactError
from pipeline.terminal import printable

COLUMNS = (
    "modified", "path", "sample_id", "verdict", "class", "name", "confidence", "nearest_class",
    "score", "image_score", "brightness", "region_classes", "part", "part_verdict", "seconds",
    "reason",
)  # fmt: skip
VERDICTS = ("good", "unreadable", "unknown", "defect")
"""From the best to the worst: that of a part is the worst of its images so far."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def text_cell(text: str) -> str:
    """Return text as a cell of one line that no spreadsheet takes for a formula.

    >>> text_cell("=1+1")
    "'=1+1"
    """
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def worst(verdicts: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """Return the worst of one or more verdicts, as `VERDICTS` orders them."""
    return max(verdicts, key=VERDICTS.index)


class ResultLog:
    """A CSV file of results, open for appending by one process.

    Raises `ArtifactError` for a file that is no such table, and if another process has it open.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise ArtifactError(f"{path} is a folder: give a file, as {path / 'results.csv'}")
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path} is no regular file: give another path")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            rows = self._recover()
        except BaseException:
            self.close()
            raise
        self.rows = rows

    def append(self, row: Mapping[str, object]) -> None:
        """Write a row of `COLUMNS` to the end of the file, and to disk."""
        self._write([row[name] for name in COLUMNS])
        self.rows.append({name: _as_read(row[name]) for name in COLUMNS})

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtifactError(
                f"{self.path} is being written by another process: end that, or give another file"
            ) from None

    def _recover(self) -> list[dict[str, str]]:
        """Cut off a line without an end; return the rows. A new file gets the head."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        head = _line(COLUMNS)
        if not whole and not head.startswith(data):
            raise ArtifactError(_no_table(self.path))
        rows = parse_results(self.path, whole) if whole else []
        if len(whole) < len(data):
            os.ftruncate(self._handle, len(whole))
        if not whole:
            self._write(COLUMNS)
        return rows

    def _write(self, cells: object) -> None:
        data = _line(cells)  # type: ignore[arg-type]
        start = os.fstat(self._handle).st_size
        try:
            while data:
                data = data[os.write(self._handle, data) :]
            os.fsync(self._handle)
        except OSError:  # a full disk: no half line stays
            os.ftruncate(self._handle, start)
            raise


def read_results(path: Path) -> pd.DataFrame:
    """Return the table of a `ResultLog`: numbers as float64 (NaN where empty), times as UTC.

    Raises `ArtifactError` for a file that cannot be read, or is no such table.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})") from error
    rows = parse_results(path, data[: data.rfind(b"\n") + 1])
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    try:
        for name in ("confidence", "score", "image_score", "brightness", "seconds", "class"):
            frame[name] = pd.to_numeric(frame[name].replace("", None))
        frame["modified"] = pd.to_datetime(frame["modified"], utc=True, format="ISO8601")
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: {error}: was it edited?") from error
    return frame


def parse_results(path: Path, data: bytes) -> list[dict[str, str]]:
    """Return the rows of a table, as text; `path` is for messages."""
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error):
        raise ArtifactError(_no_table(path)) from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise ArtifactError(_no_table(path))
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(COLUMNS):
            raise ArtifactError(f"{path}, line {number}: {len(line)} cells, not {len(COLUMNS)}")
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines[1:]]


def _no_table(path: Path) -> str:
    return f"{path} exists and is no table of `classify --watch`: give another path or remove it"


def _line(cells: tuple[object, ...] | list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_as_read(cell) for cell in cells])
    return text.getvalue().encode()


def _as_read(cell: object) -> str:
    return text_cell(cell) if isinstance(cell, str) else "" if cell is None else str(cell)
