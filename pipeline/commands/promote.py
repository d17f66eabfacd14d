"""`anomalyncd promote`: named classes become the labelled base set of the next run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from pipeline.config.reading import load_params
from pipeline.curation.names import NAMES, names_for
from pipeline.curation.promotion import promote as promote_classes
from pipeline.io.inventory import images_at
from pipeline.io.paths import ArtifactPaths
from pipeline.terminal import say


def promote(
    category: CategoryArgument,
    to: Annotated[
        Path | None, typer.Option("--to", help="Target folder (default: base.root).")
    ] = None,
    names: NamesOption = NAMES,
    params_path: ParamsOption = PARAMS,
    data: DataOption = DATA,
) -> None:
    """Turn named classes into labelled base data (D_l) for the next run."""
    with reported("promote"):
        params, paths = load_params(params_path), ArtifactPaths(data)
        check_run(category, paths)
        target = to or Path(params.base.root)
        root = images_at(params.dataset.root, category)
        promoted = promote_classes(category, root, paths, names_for(names, category, paths), target)
        for name, count in promoted.images.items():
            say(f"{target}: {count} images of {name!r}")
        if promoted.left_out:
            say(f"left out {promoted.left_out} regions of images with a larger named region")
        if target != Path(params.base.root):
            say(f"to use them, set base.root to {target} in params.yaml")
        say("next: dvc repro")
