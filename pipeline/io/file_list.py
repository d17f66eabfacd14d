"""The files below a folder: which are images by their names, and why the others are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath

from pipeline.io.images import is_image_name
from pipeline.io.storage import Place


def image_files(
    root: Place, names: Sequence[str] | None = None
) -> tuple[list[str], list[tuple[str, str]]]:
    """List the files under `root`, links followed; or judge `names`, if they are known.

    Returns
    -------
    Sorted image paths (relative, posix), and (path, reason) of all other files. Files are judged by
    their names and not opened.
    """
    images: list[str] = []
    rejected: list[tuple[str, str]] = []
    found: Iterable[PurePath] = (
        (path.relative_to(root) for path in walk(root))
        if names is None and isinstance(root, Path)
        else map(PurePosixPath, names or ())
    )
    for path in found:
        reason = _name_problem(path)
        if reason is None:
            images.append(path.as_posix())
        else:
            shown = os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
            rejected.append((shown, reason))
    return sorted(images), rejected


def walk(root: Path) -> Iterator[Path]:
    """Yield every file below `root`, links followed."""
    for folder, names in _folders(root):
        for name in names:
            yield Path(folder, name)


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below `root` once, with its files: by its own name before that of a link.

    So a link to a folder of another label does not rename it, and links back end.
    """
    seen: set[str] = set()
    starts = [str(root)]
    for start in starts:  # grows by the links that are met
        for folder, folders, names in os.walk(start):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            paths = (os.path.join(folder, name) for name in folders)
            starts += [path for path in paths if os.path.islink(path)]
            yield folder, sorted(names)


def _name_problem(path: PurePath) -> str | None:
    if any(part.startswith(".") for part in path.parts):
        return "a hidden file"
    if not is_image_name(path):
        return f"not an image file name (it ends in {path.suffix!r})"
    try:
        path.as_posix().encode("utf-8")
    except UnicodeEncodeError:
        return "the file name is not valid UTF-8; rename it"
    return None
