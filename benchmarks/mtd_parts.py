"""Write the tiles of MTD for `manifest.part`: python -m benchmarks.mtd_parts FOLDER tiles.csv

Images are frames of a film: `exp<k>_num_<n>` is frame n at exposure k, and a tile was filmed at
exposures 1 to 6 (or 0 to 6) one after the other. So neighbouring frames are one tile as long as
the exposure rises and frames are at most 300 apart. No expression on names can say that. Where two
tiles were filmed in turn (a handful) their frames become several tiles.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import AnomalyNCDError
from pipeline.io.files import replacing
from pipeline.io.parts import COLUMNS

_NAME = re.compile(r"exp(\d+)_num_(\d+)\.jpg$")
_GAP = 300


def tiles(paths: Iterable[str]) -> dict[str, str]:
    """Return the tile of each image, named by its first frame; paths of other names are left out.

    >>> tiles(["a/exp1_num_10.jpg", "b/exp2_num_40.jpg", "a/exp1_num_70.jpg"])
    {'a/exp1_num_10.jpg': '10', 'b/exp2_num_40.jpg': '10', 'a/exp1_num_70.jpg': '70'}
    """
    matches = [(match, path) for path in paths if (match := _NAME.search(path))]
    frames = sorted((int(match[2]), int(match[1]), path) for match, path in matches)
    found: dict[str, str] = {}
    tile, last, exposure = "", -_GAP - 1, -1
    for number, exposed, path in frames:
        if number - last > _GAP or exposed <= exposure:
            tile = str(number)
        found[path] = tile
        last, exposure = number, exposed
    return found


def main(
    folder: Annotated[Path, typer.Argument(help="The product's folder, with MT_Free and others.")],
    output: Annotated[Path, typer.Argument(help="The CSV file to write.")],
) -> None:
    """Write one line for each image: its path below the folder, and its tile."""
    paths = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    found = tiles(paths)
    if not found:
        raise AnomalyNCDError(f"{folder} holds no image of MTD (exp<k>_num_<n>.jpg)")
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((path, found[path]) for path in paths if path in found)
    typer.echo(f"{len(found)} images of {len(set(found.values()))} tiles in {output}")


if __name__ == "__main__":
    typer.run(main)
