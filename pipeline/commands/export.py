"""`anomalyncd export`: what was discovered, for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.errors import check_run, reported
from pipeline.config.params import ConfigError, load_params
from pipeline.curation.names import NAMES
from pipeline.io.paths import ArtifactPaths
from pipeline.terminal import say


class Format(StrEnum):
    """What `export` can write."""

    COCO = "coco"
    LABEL_STUDIO = "label-studio"
    FOLDERS = "folders"
    FIFTYONE = "fiftyone"
    MODEL = "model"


class Shape(StrEnum):
    """How a region's mask is written."""

    POLYGON = "polygon"
    RLE = "rle"


def export(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    format: Annotated[Format, typer.Argument(help="What to write.", metavar="FORMAT")],
    out: Annotated[Path, typer.Option("--out", help="File or folder that does not exist yet.")],
    shape: Annotated[
        Shape, typer.Option("--shape", help="Masks as polygons or run lengths.")
    ] = Shape.POLYGON,
    images: Annotated[
        str | None,
        typer.Option("--images", help="label-studio: what stands before the paths of images."),
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="fiftyone: link the images.")] = False,
    names: Annotated[Path, typer.Option("--names", help="The file of names.")] = NAMES,
    params: Annotated[
        Path, typer.Option("--params", help="The parameter file (fiftyone: dataset.root).")
    ] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
) -> None:
    """Write the discovered classes as coco, label-studio, folders, fiftyone or model.

    Nothing is overwritten. docs/exports.md says what each format holds and how to open it.
    """
    with reported("export"):
        _check_options(format, images, link)
        paths, kind = ArtifactPaths(data), _literal(shape)
        check_run(category, paths)
        # Imported here: torch, which `model` needs, takes seconds to load.
        from pipeline.exports import classifier as network
        from pipeline.exports import coco, discovered, folders, label_studio

        if format is Format.MODEL:
            say(f"{out}: {network.write_network(category, out, paths, names)}")
            return
        found = discovered.read_discovered(category, paths, names)
        if format is Format.COCO:
            said = coco.write_coco(found, out, shape=kind)
        elif format is Format.FIFTYONE:
            root = Path(load_params(params).dataset.root) / category
            said = coco.write_fiftyone(found, out, shape=kind, images=root, link=link)
        elif format is Format.LABEL_STUDIO:
            address = label_studio.LOCAL_FILES if images is None else images
            said = label_studio.write_label_studio(found, out, shape=kind, address=address)
        else:
            said = folders.write_folders(found, out, paths)
        say(f"{out}: {said}")


def _literal(shape: Shape) -> Literal["polygon", "rle"]:
    return "rle" if shape is Shape.RLE else "polygon"


def _check_options(format: Format, images: str | None, link: bool) -> None:
    if images is not None and format is not Format.LABEL_STUDIO:
        raise ConfigError(f"--images is for label-studio, not for {format.value}: leave it out")
    if link and format is not Format.FIFTYONE:
        raise ConfigError(f"--link is for fiftyone, not for {format.value}: leave it out")
