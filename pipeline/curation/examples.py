"""Regions that people have classified, in data/examples/<category>.csv: the next fit keeps them.

    path,class,x,y
    test/003.png,scratch,120,64
    test/007.png,dent,,
    test/011.png,normal,,

A line says what the region at a pixel of an image is, or without x and y what all regions of the
image are. Paths are relative to the product's folder. Unlike corrections, examples belong to no
run: the stage `predict` finds their regions anew.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.taught import FREE
from pipeline.config.section import ConfigError
from pipeline.file_checks import file_problem
from pipeline.io.files import write_text
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES
from pipeline.io.tables import read_parquet

log = logging.getLogger("anomalyncd")

COLUMNS = ["path", "class", "x", "y"]
NORMAL = "normal"
LARGEST_FILE = 64 * 2**20
_LONGEST_NAME = 100


class Example(NamedTuple):
    """What the region at a pixel of an image is, or, without one, all regions of the image."""

    path: str
    name: str
    pixel: tuple[int, int] | None = None

    @property
    def key(self) -> tuple[str, tuple[int, int] | None]:
        """Return what the example is about."""
        return self.path, self.pixel


@dataclass(frozen=True)
class Taught:
    """`classes` (M,) of regions, or `FREE`; `names` of the classes by number, 0 is normal."""

    classes: NDArray[np.int64]
    names: tuple[str, ...] = (NORMAL,)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Return which regions (M,) people have classified."""
        return np.asarray(self.classes != FREE)

    def none(self) -> Taught:
        """Return the same regions without any class."""
        return Taught(np.full_like(self.classes, FREE))


def examples_path(paths: ArtifactPaths, category: str) -> Path:
    """Return the file of a category's examples, which need not exist."""
    return paths.root / "examples" / f"{category}.csv"


def read_examples(path: Path) -> list[Example]:
    """Read a file of examples; raise `ConfigError`, with the line, if it is not valid."""
    try:
        problem = file_problem(path, LARGEST_FILE)
        if problem is not None:
            raise ConfigError(f"{path}: {problem}")
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as CSV ({error})") from error
    if not rows or rows[0] not in (COLUMNS, COLUMNS[:2]):
        raise ConfigError(f"{path}: the first line must be path,class,x,y or path,class")
    found: dict[tuple[str, tuple[int, int] | None], Example] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        example = _example(f"{path}, line {number}", row, len(rows[0]))
        if example.key in found:
            raise ConfigError(f"{path}, line {number}: {example.path!r} is there twice")
        found[example.key] = example
    return list(found.values())


def _example(where: str, row: list[str], width: int) -> Example:
    cells = [cell.strip() for cell in row]
    if len(cells) != width or not cells[0]:
        raise ConfigError(f"{where}: give {', '.join(COLUMNS[:width])}, not {','.join(row)!r}")
    name = cells[1]
    if not name or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ConfigError(f"{where}: {name!r} is not a name: give 1 to {_LONGEST_NAME} characters")
    path = str(PurePosixPath(cells[0].replace("\\", "/")))
    if not any(cells[2:]):
        return Example(path, name)
    if not all(cell.isascii() and cell.isdigit() for cell in cells[2:]):
        raise ConfigError(f"{where}: x and y must be pixels of the image, or both be empty")
    return Example(path, name, (int(cells[2]), int(cells[3])))


def add_examples(path: Path, new: Iterable[Example]) -> int:
    """Add examples to a file, in place of those about the same; return how many it has then."""
    stored = {e.key: e for e in read_examples(path)} if path.exists() else {}
    stored |= {e.key: e for e in new}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for example in sorted(stored.values(), key=lambda e: (e.path, e.pixel or (-1, -1))):
        writer.writerow([example.path, example.name, *(example.pixel or ("", ""))])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
    return len(stored)


def taught_classes(paths: ArtifactPaths, category: str, crops: pd.DataFrame) -> Taught:
    """Return the classes of the regions that people have classified.

    Names have numbers from 1 on, in alphabetical order. An example with a pixel counts for the
    region with the nearest centre of those whose square holds it, and more than one of the whole
    image. Examples without a region are named in a warning.

    Parameters
    ----------
    crops
        Columns of `CROPS`, M rows.

    Raises
    ------
    ConfigError
        The file is not valid, names an image that there is not, or says two things of a region.
    """
    classes = np.full(len(crops), FREE, np.int64)
    path = examples_path(paths, category)
    if not path.exists():
        return Taught(classes)
    examples = read_examples(path)
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    ids = dict(zip(images["path"], images["sample_id"], strict=True))
    rows = _rows(crops)
    names = (NORMAL, *sorted({e.name for e in examples} - {NORMAL}))
    lost: list[str] = []
    exact: set[int] = set()
    for example in sorted(examples, key=lambda e: e.pixel is not None):  # whole images first
        if example.path not in ids:
            raise ConfigError(
                f"{path}: {category} has no image {example.path!r} (or it was rejected): give "
                "paths relative to the product's folder, or remove the line"
            )
        there = rows.get(ids[example.path], np.zeros(0, np.int64))
        number = names.index(example.name)
        if example.pixel is None:
            classes[there] = number
        else:
            there = _at(crops, there, example.pixel)
            if exact & set(there.tolist()) and (classes[there] != number).any():
                raise ConfigError(
                    f"{path}: {example.path} {example.pixel}: another line says that this region "
                    f"is {names[classes[there[0]]]!r}: keep one of them"
                )
            classes[there] = number
            exact |= set(there.tolist())
        if not len(there):
            lost.append(example.path)
    if lost:
        log.warning("%s: %d examples have no region, as %s", path, len(lost), lost[0])
    return Taught(classes, names)


def _rows(crops: pd.DataFrame) -> Mapping[str, NDArray[np.int64]]:
    """Return the rows of each image that has a region."""
    has = np.flatnonzero(crops["area_px"].to_numpy() > 0)
    groups = pd.Series(has).groupby(crops["sample_id"].to_numpy()[has])
    return {str(key): group.to_numpy() for key, group in groups}


def _at(crops: pd.DataFrame, rows: NDArray[np.int64], pixel: tuple[int, int]) -> NDArray[np.int64]:
    """Return the one row whose square holds the pixel, with the nearest centre; or none."""
    squares = crops[["x0", "y0", "side"]].to_numpy(np.int64)[rows]
    inside = np.asarray(pixel) - squares[:, :2]
    held = ((inside >= 0) & (inside < squares[:, 2:])).all(1)
    far = np.abs(2 * inside + 1 - squares[:, 2:]).sum(1)
    best = rows[held][far[held].argsort(kind="stable")[:1]]
    return np.asarray(best, np.int64)
