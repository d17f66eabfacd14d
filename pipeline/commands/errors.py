"""Errors of commands, as people see them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import typer

from pipeline.config.params import ConfigError
from pipeline.errors import AnomalyNCDError
from pipeline.io.paths import ArtifactPaths
from pipeline.terminal import say

debug = ContextVar("debug", default=False)
"""Whether `reported` shows tracebacks: the option --debug of the command line."""


@contextmanager
def reported(command: str) -> Iterator[None]:
    """Turn an error that the user can mend into one red line and exit status 1.

    Under `debug` its traceback comes first. Anything else is a bug and goes through.
    """
    try:
        yield
    except (AnomalyNCDError, OSError) as error:
        if debug.get():
            typer.echo(traceback.format_exc(), err=True)
        say(f"anomalyncd {command}: {error}", err=True, colour=typer.colors.RED)
        raise typer.Exit(1) from error


def check_run(category: str, paths: ArtifactPaths) -> None:
    """Raise `ConfigError` if there is no run of a category; it names those that there are."""
    if category in {"", ".", ".."} or set(category) & {"/", "\\", "\0"}:
        raise ConfigError(f"{category!r} is not the name of a category")
    folder = paths.predict(category)
    if (folder / "regions.parquet").exists():
        return
    others = sorted(path.parent.name for path in folder.parent.glob("*/regions.parquet"))
    known = f", only of {', '.join(others)}: give one of these, or" if others else ":"
    raise ConfigError(f"{folder.parent} has no run of {category!r}{known} run `dvc repro` first")
