"""Arguments and options that several commands share: type, flag, help text and default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.curation.names import NAMES as NAMES

CategoryArgument = Annotated[str, typer.Argument(help="One of dataset.categories.")]
CategoryOption = Annotated[str, typer.Option("--category", help="One of dataset.categories.")]
ParamsOption = Annotated[Path, typer.Option("--params", help="Parameter file.")]
DataOption = Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")]
NamesOption = Annotated[Path, typer.Option("--names", help="File with the names of the classes.")]

PARAMS = Path("params.yaml")
DATA = Path("data")
