"""`anomalyncd export FORMAT`: write the discovered classes for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.errors import check_run, reported
from pipeline.commands.options import (
    DATA,
    PARAMS,
    CategoryArgument,
    DataOption,
    NamesOption,
    ParamsOption,
)
from pipeline.config.params import Params
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.curation.names import NAMES
from pipeline.exports.files import Shape
from pipeline.io.inventory import images_at
from pipeline.io.paths import ArtifactPaths
from pipeline.terminal import say

if TYPE_CHECKING:
    from pipeline.exports.discovered import Discovered

# The commands import what they need when they run: torch alone takes seconds to load.

_FileOption = Annotated[Path, typer.Option("--out", help="New file; must not exist.")]
_FolderOption = Annotated[Path, typer.Option("--out", help="New folder; must not exist.")]
_ShapeOption = Annotated[
    Shape, typer.Option("--shape", help="Write masks as polygons or run lengths.")
]

export = typer.Typer(
    no_args_is_help=True,
    help="Write the discovered classes for other programs (docs/exports.md). Never overwrites.",
)


@export.command("coco")
def export_coco(
    category: CategoryArgument,
    out: _FileOption,
    shape: _ShapeOption = Shape.POLYGON,
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Write COCO instance JSON."""
    with reported("export coco"):
        from pipeline.exports.coco import write_coco

        say(f"{out}: {write_coco(_discovered(category, names, data), out, shape=shape)}")


@export.command("fiftyone")
def export_fiftyone(
    category: CategoryArgument,
    out: _FolderOption,
    shape: _ShapeOption = Shape.POLYGON,
    link: Annotated[bool, typer.Option("--link", help="Link the images; do not copy.")] = False,
    names: NamesOption = NAMES,
    params: ParamsOption = PARAMS,
    data: DataOption = DATA,
) -> None:
    """Write a folder that FiftyOne reads as a COCODetectionDataset, with the images."""
    with reported("export fiftyone"):
        from pipeline.exports.coco import write_fiftyone

        discovered = _discovered(category, names, data)
        images = images_at(load_params(params).dataset.root, category)
        if not isinstance(images, Path):
            raise ConfigError(
                f"the images lie at {images}: fetch them, and set dataset.root to them"
            )
        say(f"{out}: {write_fiftyone(discovered, out, shape=shape, images=images, link=link)}")


@export.command("label-studio")
def export_label_studio(
    category: CategoryArgument,
    out: _FileOption,
    shape: _ShapeOption = Shape.POLYGON,
    images: Annotated[
        str | None,
        typer.Option("--images", help="URL prefix for image paths (default: local files)."),
    ] = None,
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Write Label Studio tasks and, beside them, the labelling configuration (.xml)."""
    with reported("export label-studio"):
        from pipeline.exports.label_studio import LOCAL_FILES, write_label_studio

        discovered = _discovered(category, names, data)
        address = LOCAL_FILES if images is None else images
        say(f"{out}: {write_label_studio(discovered, out, shape=shape, address=address)}")


@export.command("folders")
def export_folders(
    category: CategoryArgument,
    out: _FolderOption,
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Write a folder of PNG crops per class and a CSV table of the regions."""
    with reported("export folders"):
        from pipeline.exports.folders import write_folders

        discovered = _discovered(category, names, data)
        say(f"{out}: {write_folders(discovered, out, ArtifactPaths(data))}")


@export.command("model")
def export_model(
    category: CategoryArgument,
    out: Annotated[
        Path, typer.Option("--out", help="New file: .pt for TorchScript, .onnx for ONNX.")
    ],
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Write the classifier of the run as one file, from crop and mask to class probabilities."""
    with reported("export model"):
        paths = ArtifactPaths(data)
        check_run(category, paths)
        from pipeline.exports.classifier import write_network

        say(f"{out}: {write_network(category, out, paths, names)}")


@export.command("bundle")
def export_bundle(
    category: CategoryArgument,
    out: _FolderOption,
    names: NamesOption = NAMES,
    params: ParamsOption = PARAMS,
    data: DataOption = DATA,
) -> None:
    """Write maps, MEBin and classes of a run as a folder that runs without this project."""
    with reported("export bundle"):
        paths = ArtifactPaths(data)
        check_run(category, paths)
        from pipeline.exports.bundle import write_bundle

        used = load_params(params) if params.exists() else Params()
        say(f"{out}: {write_bundle(category, out, paths, names, used.merge)}")


def _discovered(category: str, names: Path, data: Path) -> Discovered:
    from pipeline.exports.discovered import read_discovered

    paths = ArtifactPaths(data)
    check_run(category, paths)
    return read_discovered(category, paths, names)
