"""A folder per class with its crops as PNG files, and a table of them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from pipeline.exports.discovered import Discovered
from pipeline.exports.files import refuse_existing
from pipeline.io.files import replacing_folder
from pipeline.io.images import write_png
from pipeline.io.networks import crop_arrays
from pipeline.io.paths import ArtifactPaths

_UNSAFE = re.compile(r"[^\w.-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 60
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = ("file", "class", "name", "confidence", "anomaly_score", "image", "x0", "y0", "side")


def folder_names(classes: dict[int, str]) -> dict[int, str]:
    """Return a folder for each class: its name with characters that file systems refuse as "_".

    Folders of different classes differ by more than upper and lower case.
    """
    folders: dict[int, str] = {}
    for number, name in classes.items():
        folder = _UNSAFE.sub("_", name).strip("._-")[:_LONGEST].strip("._-") or f"class_{number}"
        if _RESERVED.fullmatch(folder):
            folder = f"{folder}_{number}"
        taken = {other.casefold() for other in folders.values()} | {"regions.csv"}
        while folder.casefold() in taken:
            folder = f"{folder}_{number}"
        folders[number] = folder
    return folders


def _cell(value: object) -> object:
    """Return a cell; a ``'`` is put before text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_folders(discovered: Discovered, out: Path, paths: ArtifactPaths) -> str:
    """Write `<class>/<crop_id>.png` and `regions.csv` to a new folder; return a summary."""
    refuse_existing(out)
    images, _ = crop_arrays(paths.crops(discovered.category))
    folders = folder_names(discovered.classes())
    rows = []
    with replacing_folder(out) as folder:
        folder.mkdir()
        for name in folders.values():
            (folder / name).mkdir()
        for image in discovered.images:
            for region in image.regions:
                file = f"{folders[discovered.class_of(region.number)]}/{region.crop_id}.png"
                write_png(folder / file, np.asarray(images[region.row]))
                rows.append(
                    (
                        file,
                        region.number,
                        discovered.names[region.number],
                        round(region.confidence, 6),
                        round(region.score, 6),
                        f"{discovered.category}/{image.path}",
                        *region.square,
                    )
                )
        with (folder / "regions.csv").open("w", newline="", encoding="utf-8") as table:
            cells = ([_cell(value) for value in row] for row in rows)
            csv.writer(table).writerows([COLUMNS, *cells])
    return f"{len(rows)} crops in {len(folders)} folders"
