"""Redo the paper's ablation tables: `python -m benchmarks.tables 5 --data bottle --seeds 0 1 2`.

Every row and seed is one `dvc exp run`; DVC redoes only what the row changes. Figures are kept in
data/tables/<table>-<data>.csv, so an interrupted table goes on where it was.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from benchmarks.plan import Classifier, Job, Tables, TablesError, load_tables, plan
from benchmarks.records import markdown, read_records
from benchmarks.runs import Workspace, command_of, run_jobs
from pipeline.config.params import load_params
from pipeline.errors import AnomalyNCDError

WORKSPACE = Workspace()


def spread(arguments: Sequence[str], option: str = "--seeds") -> list[str]:
    """Turn `--seeds 0 1 2` into `--seeds 0 --seeds 1 --seeds 2`."""
    result: list[str] = []
    for argument in arguments:
        if argument.isdigit() and option in result[-2:-1]:  # one more after `--seeds 0`
            result.append(option)
        result.append(argument)
    return result


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read `key=value`, the value as YAML."""
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign:
            raise TablesError(f"--set {text}: write key=value")
        try:
            found[key] = YAML(typ="safe", pure=True).load(value)
        except YAMLError as error:
            raise TablesError(f"--set {text}: {error}") from error
    return found


def jobs_of(
    tables: Tables,
    name: str,
    data: str,
    seeds: Sequence[int],
    classifier: Classifier | None,
    extra: Mapping[str, Any],
) -> list[Job]:
    """Return the runs of a table, or of `all` but those that cannot be run."""
    if name != "all" and not name.isdigit():
        raise TablesError("name a table by its number, or all; --list lists them")
    params = load_params(WORKSPACE.root / "params.yaml")
    jobs: list[Job] = []
    for number in tables.tables if name == "all" else [int(name)]:
        try:
            jobs += plan(
                tables,
                number,
                data,
                seeds=seeds,
                params=params,
                environment=os.environ,
                classifier=classifier,
                extra=extra,
            )
        except TablesError as error:
            if name != "all":
                raise
            typer.secho(f"left out: {error}", err=True)
    if not jobs:
        raise TablesError("there is nothing to run")
    return jobs


def listed(tables: Tables) -> str:
    """Return tables and data sets, one a line."""
    lines = [f"{number:3d}  {table.title}" for number, table in tables.tables.items()]
    return "\n".join([*lines, f"data: {', '.join(tables.data)}"])


def rendered(tables: Tables, jobs: Sequence[Job] | None = None) -> str:
    """Return the tables that have figures as Markdown, or only those of some runs."""
    texts = []
    for number, table in tables.tables.items():
        for data in tables.data:
            wanted = {j.settings for j in jobs or () if (j.table, j.data) == (number, data)}
            records = [
                record
                for record in read_records(WORKSPACE.csv(number, data))
                if jobs is None or record.settings in wanted
            ]
            if records:
                texts.append(markdown(number, table, data, records))
    return "\n\n".join(texts) or "There are no figures yet."


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    table: Annotated[str, typer.Argument(help="A table by its number, or all.")] = "",
    data: Annotated[str, typer.Option(help="A data set of tables.yaml.")] = "metal",
    seeds: Annotated[list[int] | None, typer.Option(help="--seeds 0 1 2; without: 0.")] = None,
    classifier: Annotated[Classifier | None, typer.Option(help="Without: heads.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for all rows; repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Ask DVC for what is known too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List tables and data sets.")] = False,
    render: Annotated[bool, typer.Option("--render", help="Print what is known.")] = False,
) -> None:
    """Redo an ablation table of the paper on a data set."""
    stamp = f"{int(time.time()):x}"
    try:
        tables = load_tables()
        if listing or render:
            typer.echo(listed(tables) if listing else rendered(tables))
            return
        extra = parse_settings(settings or [])
        jobs = jobs_of(tables, table, data, seeds or [0], classifier, extra)
        if dry_run:
            for job in jobs:
                typer.echo(shlex.join(command_of(job, stamp)))
            return
        run_jobs(jobs, WORKSPACE, stamp=stamp, force=force)
        typer.echo(rendered(tables, jobs))
    except AnomalyNCDError as error:
        typer.secho(f"benchmarks.tables: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app(args=spread(sys.argv[1:]))
