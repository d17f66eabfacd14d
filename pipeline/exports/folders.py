"""A folder per class, with the sub-images as PNG files and a table of them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.exports.discovered import Discovered
from pipeline.exports.files import refuse_existing
from pipeline.io.files import replacing_folder
from pipeline.io.networks import crop_arrays
from pipeline.io.paths import ArtifactPaths

_UNSAFE = re.compile(r"[^\w.-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 60
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = ("file", "class", "name", "confidence", "anomaly_score", "image", "x0", "y0", "side")


def folder_names(classes: dict[int, str]) -> dict[int, str]:
    """Return the folder of each class: its name with what file systems refuse replaced by "_".

    Different classes have folders that differ by more than upper and lower case.
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
    """Return a cell, text that a spreadsheet would take for a formula with ``'`` in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_folders(found: Discovered, out: Path, paths: ArtifactPaths) -> str:
    """Write `<class>/<crop_id>.png` and `regions.csv` to a new folder; say what was written."""
    refuse_existing(out)
    images, _ = crop_arrays(paths.crops(found.category))
    folders = folder_names(found.classes())
    rows = []
    with replacing_folder(out) as folder:
        folder.mkdir()
        for name in folders.values():
            (folder / name).mkdir()
        for picture in found.pictures:
            for region in picture.regions:
                file = f"{folders[found.class_of(region.number)]}/{region.crop_id}.png"
                Image.fromarray(np.asarray(images[region.row])).save(folder / file)
                scores = (round(region.confidence, 6), round(region.score, 6))
                name = found.names[region.number]
                image = f"{found.category}/{picture.path}"
                rows.append((file, region.number, name, *scores, image, *region.square))
        with (folder / "regions.csv").open("w", newline="", encoding="utf-8") as table:
            cells = ([_cell(value) for value in row] for row in rows)
            csv.writer(table).writerows([COLUMNS, *cells])
    return f"{len(rows)} sub-images in {len(folders)} folders"
