"""An inventory stands for a large set of images: one small file that DVC hashes instead of them.

`anomalyncd inventory` writes `<folder>/<category>/inventory.parquet`: the place of the images in
its metadata, and path, size and version of each file (on a disk the time of its last change, in a
bucket the ETag). Where `dataset.root` is such a folder, the stages read the images at their place;
which they are, the inventory says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.io.file_list import walk
from pipeline.io.paths import damaged
from pipeline.io.schemas import INVENTORY as COLUMNS
from pipeline.io.storage import BucketPath, Listed, Place, list_bucket, place_of
from pipeline.io.tables import read_metadata, read_parquet, write_parquet

INVENTORY = "inventory.parquet"
"""Name of the file, alone in the folder that stands for the images of a category."""


class Located(NamedTuple):
    """Where images lie; `names` are the files below it (relative, posix), None: look there."""

    place: Place
    names: tuple[str, ...] | None


def images_at(root: str, category: str) -> Place:
    """Return where the images of a category lie: below `dataset.root`, or as its inventory says."""
    return source_of(place_of(root) / category)


def source_of(given: Place) -> Place:
    """Return the place that an inventory in a folder names; without one, the folder itself."""
    if isinstance(given, BucketPath):
        return given
    path = given / INVENTORY
    if not path.is_file():
        return given
    source = read_metadata(path).get("source")
    if not isinstance(source, str):
        raise damaged(path, "not an inventory: it names no source")
    return place_of(source)


def locate(given: Place) -> Located:
    """Return where the images of a folder lie, and their names where they need not be looked for.

    Raises ArtifactError for a damaged inventory, StorageError where a bucket cannot be read.
    """
    place = source_of(given)
    if isinstance(given, Path) and (given / INVENTORY).is_file():
        table = read_parquet(given / INVENTORY, COLUMNS)
        return Located(place, tuple(table["path"]))
    if isinstance(place, BucketPath):
        return Located(place, tuple(file.path for file in list_bucket(place)))
    return Located(place, None)


def holds_files(place: Place) -> bool:
    """Tell whether there is a folder, or anything below a prefix."""
    return place.is_dir() if isinstance(place, Path) else bool(list_bucket(place))


def files_at(place: Place) -> list[Listed]:
    """List all files below a folder or prefix, sorted by path."""
    if isinstance(place, BucketPath):
        return list_bucket(place)
    found = []
    for path in walk(place):
        name = os.fsencode(path.relative_to(place).as_posix()).decode("utf-8", "backslashreplace")
        try:
            status = path.stat()
            found.append(Listed(name, status.st_size, str(status.st_mtime_ns)))
        except OSError:  # a link to nothing: `manifest` rejects it
            found.append(Listed(name, 0, "missing"))
    return sorted(found)


def write_inventory(folder: Path, place: Place, files: Sequence[Listed]) -> bool:
    """Write the inventory of a category, unless it is there already; return whether it changed."""
    path = folder / INVENTORY
    frame = pd.DataFrame(files, columns=COLUMNS.names)
    source = str(place.absolute())
    same = path.is_file() and read_metadata(path).get("source") == source
    if same and read_parquet(path, COLUMNS).equals(frame):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(path, frame, COLUMNS, {"source": source})
    return True


class Difference(NamedTuple):
    """How many files are new, gone and changed since an inventory was made."""

    new: int
    gone: int
    changed: int


def difference(folder: Path) -> Difference:
    """Compare the inventory of a category with the files at its place."""
    table = read_parquet(folder / INVENTORY, COLUMNS)
    then = dict(zip(table["path"], zip(table["size"], table["version"], strict=True), strict=True))
    now = {file.path: (file.size, file.version) for file in files_at(source_of(folder))}
    both = then.keys() & now.keys()
    changed = sum(then[path] != now[path] for path in both)
    return Difference(len(now) - len(both), len(then) - len(both), changed)
