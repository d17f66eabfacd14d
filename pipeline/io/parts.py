"""Which images show one part (its exposures or views), by path or by a file: `manifest.part`.

An image that the rule says nothing of is a part of its own, named by its sample id.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.io.dataset_formats import DatasetError
from pipeline.io.storage import Place, read_bytes

COLUMNS = ["path", "part"]
LARGEST_FILE = 256 * 2**20
"""Bytes: a file of parts of more than a million images."""


def is_part_file(rule: str) -> bool:
    """Tell whether a `manifest.part` is the path of a file; otherwise it is an expression."""
    return rule.lower().endswith(".csv")


def parts_by_expression(paths: Iterable[str], expression: str) -> dict[str, str]:
    """Return the part of each path in which `expression` is found: its first group, or all of it.

    Paths without a match, or with an empty one, are left out. Raises `DatasetError` for an invalid
    expression.

    Examples
    --------
    >>> parts_by_expression(["a/7_top.png", "a/7_side.png", "b.png"], r"(\\d+)_")
    {'a/7_top.png': '7', 'a/7_side.png': '7'}
    """
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise DatasetError(f"manifest.part: {expression!r} is no expression ({error})") from None
    found: dict[str, str] = {}
    for path in paths:
        match = pattern.search(path)
        part = match.group(min(1, pattern.groups)) if match else None
        if part:
            found[path] = part
    return found


def parts_by_file(file: Place, known: Iterable[str]) -> dict[str, str]:
    """Return the part of each path that a CSV file lists, with columns `path` and `part`.

    `known` are the paths that it may list. Raises `DatasetError`, with the line, for a file that
    cannot be read or has other columns, and for a path that is unknown, listed twice or has no
    part.
    """
    try:
        text = read_bytes(file, LARGEST_FILE).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except OSError as error:
        reason = str(error.strerror or error)
        raise DatasetError(f"manifest.part: {file} cannot be read ({reason})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"manifest.part: {file} cannot be read as CSV ({error})") from error
    if not rows or rows[0] != COLUMNS:
        raise DatasetError(f"manifest.part: the first line of {file} must be: path,part")
    there = set(known)
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        where = f"manifest.part: {file}, line {number}"
        if len(row) != 2 or not row[1].strip():
            raise DatasetError(f"{where}: give a path and its part, not {','.join(row)!r}")
        path = str(PurePosixPath(row[0].strip().replace("\\", "/")))
        if path not in there:
            raise DatasetError(
                f"{where}: there is no file {path!r}: give paths relative to the product's folder"
            )
        if path in found:
            raise DatasetError(f"{where}: {path!r} is listed twice; keep one line")
        found[path] = row[1].strip()
    return found


def parts_of(root: Place, paths: Iterable[str], known: Iterable[str], rule: str) -> dict[str, str]:
    """Return the part of the `paths` of which `rule`, a `manifest.part`, says something.

    A file of parts is relative to `root`; it may list any of the `known` paths.
    """
    if is_part_file(rule):
        return parts_by_file(root / rule, known)
    return parts_by_expression(paths, rule)
