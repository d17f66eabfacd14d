"""Errors of commands, as people see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def reported(command: str) -> Iterator[None]:
    """Turn an error that the user can mend into one red line and exit status 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.secho(f"anomalyncd {command}: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error
