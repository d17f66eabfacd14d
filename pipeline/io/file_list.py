"""The files below a folder: which are images by their names, and why the others are not."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.io.images import is_image_name


def image_files(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """List the files under `root`, links followed.

    Returns
    -------
    Sorted image paths (relative, posix), and (path, reason) of all other files. Files are judged by
    their names and not opened.
    """
    images: list[str] = []
    rejected: list[tuple[str, str]] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back: everything below is listed already
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name).relative_to(root)
            reason = _name_problem(path)
            if reason is None:
                images.append(path.as_posix())
            else:
                shown = os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
                rejected.append((shown, reason))
    return sorted(images), rejected


def _name_problem(path: Path) -> str | None:
    if any(part.startswith(".") for part in path.parts):
        return "a hidden file"
    if not is_image_name(path):
        return f"not an image file name (it ends in {path.suffix!r})"
    try:
        path.as_posix().encode("utf-8")
    except UnicodeEncodeError:
        return "the file name is not valid UTF-8; rename it"
    return None
