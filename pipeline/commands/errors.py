"""Error messages and exit status of commands."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import typer

from pipeline.config.section import ConfigError
from pipeline.errors import AnomalyNCDError
from pipeline.io.paths import ArtifactPaths
from pipeline.terminal import say

debug = ContextVar("debug", default=False)
"""Whether `reported` prints tracebacks: the option --debug."""


@contextmanager
def reported(command: str, *, status: int = 1) -> Iterator[None]:
    """Turn `AnomalyNCDError` and OSError into one red line and exit status `status`.

    With --debug the traceback comes first. Other exceptions are bugs and pass through.
    """
    try:
        yield
    except (AnomalyNCDError, OSError) as error:
        if debug.get():
            typer.echo(traceback.format_exc(), err=True)
        say(f"anomalyncd {command}: {error}", err=True, colour=typer.colors.RED)
        raise typer.Exit(status) from error


def check_run(category: str, paths: ArtifactPaths) -> None:
    """Raise `ConfigError`, which names the runs there are, if a category has no run."""
    if category in {"", ".", ".."} or set(category) & {"/", "\\", "\0"}:
        raise ConfigError(f"{category!r} is not the name of a category")
    folder = paths.predict(category)
    if (folder / "regions.parquet").exists():
        return
    others = sorted(path.parent.name for path in folder.parent.glob("*/regions.parquet"))
    choice = f", only of {', '.join(others)}: give one of these, or" if others else ":"
    raise ConfigError(f"{folder.parent} has no run of {category!r}{choice} run `dvc repro` first")
