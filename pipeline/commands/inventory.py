"""`anomalyncd inventory`: list images in one file, on which `dvc repro` depends in their stead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.errors import reported
from pipeline.commands.options import PARAMS, ParamsOption
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.io.inventory import INVENTORY, files_at, holds_files, source_of, write_inventory
from pipeline.io.storage import BucketPath, Place, place_of
from pipeline.terminal import say


def inventory(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Where the images are: SOURCE/CATEGORY, a folder or s3://bucket/prefix. Default: "
            "where the inventories in dataset.root say.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder of the inventories (default: dataset.root)."),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option("--category", help="A category; may be repeated (default: all)."),
    ] = None,
    params: ParamsOption = PARAMS,
) -> None:
    """List images, for sets that DVC is slow to look through, or that lie in a bucket.

    Run it again after images came, went or changed (docs/scale.md).
    """
    with reported("inventory"):
        dataset = load_params(params).dataset
        folder = to or place_of(dataset.root)
        if isinstance(folder, BucketPath):
            raise ConfigError(f"dataset.root is {folder}: give a folder by --to")
        for name in category or dataset.categories:
            place = _place(source, folder, name)
            files = files_at(place)
            changed = write_inventory(folder / name, place, files)
            state = "written" if changed else "unchanged"
            say(f"{folder / name / INVENTORY}: {len(files)} files of {place}, {state}")
        if str(folder) != str(Path(dataset.root)):
            say(f"to use it, set dataset.root to {folder} in {params}")
        say("next: dvc repro")


def _place(source: str | None, folder: Path, category: str) -> Place:
    """Return the place of a category, which must exist and not be that of the inventory itself."""
    if source is None and not (folder / category / INVENTORY).is_file():
        raise ConfigError(
            f"{folder / category} has no inventory yet: anomalyncd inventory SOURCE --to FOLDER"
        )
    if source is None:
        return source_of(folder / category)
    place = place_of(source) / category
    if not holds_files(place):
        raise ConfigError(f"there is nothing at {place}: give the folder above the category")
    if isinstance(place, Path) and place.resolve() == (folder / category).resolve():
        raise ConfigError(f"{folder} holds the images themselves: give another folder by --to")
    return place
