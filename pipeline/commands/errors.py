"""Errors of commands, as people see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pipeline.artifacts import Layout
from pipeline.config import ConfigError
from pipeline.terminal import say


@contextmanager
def reported(command: str) -> Iterator[None]:
    """Turn an error that the user can mend into one red line and exit status 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        say(f"anomalyncd {command}: {error}", err=True, colour=typer.colors.RED)
        raise typer.Exit(1) from error


def check_run(category: str, layout: Layout) -> None:
    """Raise `ConfigError` if there is no run of a category; it names those that there are."""
    folder = layout.predict(category)
    if (folder / "regions.parquet").exists():
        return
    others = sorted(path.parent.name for path in folder.parent.glob("*/regions.parquet"))
    known = f", only of {', '.join(others)}: give one of these, or" if others else ":"
    raise ConfigError(f"{folder.parent} has no run of {category!r}{known} run `dvc repro` first")
