"""`anomalyncd preset`: print a preset as options of `dvc exp run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.errors import reported
from pipeline.config.presets import preset_options


def preset(
    file: Annotated[Path, typer.Argument(help="YAML file with keys of params.yaml.")],
) -> None:
    """Print a preset as options of DVC: dvc exp run $(anomalyncd preset params/paper.yaml)."""
    with reported("preset"):
        options = preset_options(file)
    typer.echo(options)
