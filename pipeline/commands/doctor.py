"""`anomalyncd doctor`: check everything that a run needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from pipeline.commands.checks import (
    Line,
    check_backbone,
    check_device,
    check_python,
    check_tools,
    check_weights,
)
from pipeline.commands.data_checks import check_data, check_disk, check_params
from pipeline.commands.engine_checks import check_engine, check_ranks
from pipeline.commands.errors import reported
from pipeline.commands.options import DATA, PARAMS, DataOption, ParamsOption
from pipeline.io.paths import ArtifactPaths
from pipeline.terminal import printable, say

_COLOURS = {
    "ok": typer.colors.GREEN,
    "warning": typer.colors.YELLOW,
    "error": typer.colors.RED,
}


def doctor(
    params: ParamsOption = PARAMS,
    data: DataOption = DATA,
) -> None:
    """Check environment, device, weights, disk, params, images, DVC and git.

    It uses no network but to a cluster and a bucket that params.yaml names.

    The exit status is 1 if anything is wrong.
    """
    with reported("doctor"):
        counts = {"ok": 0, "warning": 0, "error": 0}
        for line in _lines(params, ArtifactPaths(data)):
            counts[line.state] += 1
            state = typer.style(f"{line.state:8}", fg=_COLOURS[line.state])
            typer.echo(f"{state} {printable(line.subject):16} {printable(line.finding)}")
            if line.todo:
                say(f"{'':25} -> {line.todo}")
        typer.echo(f"{counts['error']} errors, {counts['warning']} warnings")
    if counts["error"]:
        raise typer.Exit(1)


def _lines(path: Path, paths: ArtifactPaths) -> Iterator[Line]:
    project = path.parent
    yield from check_python()
    params, line = check_params(path)
    yield line
    if params is not None:
        yield from check_device(params)
        yield from check_engine(params)
        yield from check_ranks(params)
        yield from check_weights(params, paths, project)
        yield from check_backbone(params)
        n_images, lines = check_data(params, paths, project)
        yield from lines
        yield check_disk(params, paths, n_images)
    yield from check_tools(project)
