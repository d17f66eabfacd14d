"""`anomalyncd promote`: named classes become the labelled base set of the next run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.errors import check_run, reported
from pipeline.config.params import load_params
from pipeline.curation.names import NAMES, names_for
from pipeline.curation.promotion import promote as promote_classes
from pipeline.io.paths import ArtifactPaths
from pipeline.terminal import say


def promote(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Where to; without: base.root of params.yaml.")
    ] = None,
    names: Annotated[Path, typer.Option("--names", help="The file of names.")] = NAMES,
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
) -> None:
    """Turn named classes into labelled base data (D_l) for the next run."""
    with reported("promote"):
        params, paths = load_params(params_path), ArtifactPaths(data)
        check_run(category, paths)
        target = to or Path(params.base.root)
        root = Path(params.dataset.root) / category
        done = promote_classes(category, root, paths, names_for(names, category, paths), target)
        for name, count in done.images.items():
            say(f"{target}: {count} images of {name!r}")
        if done.left_out:
            say(f"left out: {done.left_out} regions of images that have a larger named one")
        if target != Path(params.base.root):
            say(f"to use them: set base.root to {target} in params.yaml")
        say("next: dvc repro")
