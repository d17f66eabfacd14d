"""`anomalyncd drift`: whether new images are still like those of the run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import pandas as pd
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
from pipeline.curation.names import NAMES, names_or_numbers
from pipeline.io.files import write_text
from pipeline.io.paths import ArtifactPaths
from pipeline.io.results import read_results
from pipeline.io.tables import write_json
from pipeline.terminal import say

_OURS = {"--html": b'content="anomalyncd drift"', "--json": b'"anomalyncd": "drift"'}
"""What the files hold that this command may write again."""
_HEAD = 1024


def drift(
    category: CategoryArgument,
    results: Annotated[
        Path, typer.Argument(help="The CSV file of `classify --watch` or `--once`.")
    ],
    since: Annotated[
        datetime | None,
        typer.Option("--since", help="Take images of that time (UTC) on.", show_default=False),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the numbers as JSON.")] = None,
    fail_at: Annotated[
        float | None,
        typer.Option(
            "--fail-at", help="Status 1 if a distribution moved this far (KS, 0 to 1), or farther."
        ),
    ] = None,
    names: NamesOption = NAMES,
    params: ParamsOption = PARAMS,
    data: DataOption = DATA,
) -> None:
    """Compare new images with the run: scores, brightness, unknown ones, classes by day.

    Status 0; 1 if something moved as far as --fail-at says; 2 for errors.
    """
    with reported("drift", status=2):
        if fail_at is not None and not 0 < fail_at <= 1:
            raise ConfigError(f"--fail-at: {fail_at} is not a distance within 0 to 1")
        for option, path in (("--html", html), ("--json", json)):
            _check_ours(option, path)
        paths = ArtifactPaths(data)
        check_run(category, paths)
        class_names, notes = names_or_numbers(names, category, paths)
        for note in notes:
            say(note, err=True, colour=typer.colors.YELLOW)
        rows = _rows(results, since)
        root = (load_params(params) if params.exists() else Params()).dataset.root
        # Imported here: jinja2 and scipy would make every command start more slowly.
        from pipeline.monitoring.drift import drift_of
        from pipeline.monitoring.page import drift_lines, render_drift

        found = drift_of(
            category, rows, paths, class_names, images=Path(root) / category, shown=results.name
        )
        for line in drift_lines(found):
            say(line)
        if html is not None:
            write_text(html, render_drift(found))
        if json is not None:
            write_json(json, found.to_json())
        moved = [] if fail_at is None else found.moved(fail_at)
    if moved:
        say(f"moved: {'; '.join(moved)}", err=True, colour=typer.colors.RED)
        raise typer.Exit(1)


def _rows(results: Path, since: datetime | None) -> pd.DataFrame:
    rows = read_results(results)
    if since is not None:
        rows = rows[rows["modified"] >= pd.Timestamp(since).tz_localize("UTC")]
    if rows.empty:
        when = "" if since is None else f" since {since:%Y-%m-%d %H:%M} UTC"
        raise ConfigError(f"{results} has no images{when}")
    return rows


def _check_ours(option: str, path: Path | None) -> None:
    """Raise `ConfigError` where `path` is anything but free, or of an earlier `drift`."""
    if path is None or not (path.exists() or path.is_symlink()):
        return
    if path.is_file():
        with path.open("rb") as file:
            if _OURS[option] in file.read(_HEAD):
                return
    raise ConfigError(f"{option}: {path} exists and is no file of `drift`: give another path")
