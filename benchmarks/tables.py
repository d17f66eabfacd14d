"""The paper's tables on one data set, a `dvc exp run` for each row and seed.

    python -m benchmarks.tables 4 5 --data bottle --seed 0 --seed 1

Rows are in tables.yaml. Figures are appended to data/tables/<table>-<data>-<classifier>.csv, and
what is there for the same commit is not run again. The rows run in the paper's configuration
(params/paper.yaml), in this working copy; params.yaml is put back at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from ruamel.yaml import YAML

from pipeline.config import Params
from pipeline.presets import as_override, flatten, read_preset, with_overrides

HERE = Path(__file__).resolve().parent
HEADS_ONLY = {4, 5, 7, 9, 15}
"""Tables about the training of the heads; the mixture does not see it."""

Runner = Callable[[Sequence[str]], None]
"""Runs a command; raises `subprocess.CalledProcessError`."""


@dataclass(frozen=True)
class Row:
    """One row of a table: its overrides, and the paper's figures where it has them."""

    name: str
    overrides: dict[str, Any]
    mvtec: list[float] = field(default_factory=list)
    mtd: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """One table of the paper."""

    number: int
    title: str
    figures: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Book:
    """tables.yaml, with environment variables filled in."""

    data: dict[str, dict[str, Any]]
    common: dict[str, Any]
    tables: dict[int, Table]


def read_book(path: Path = HERE / "tables.yaml") -> Book:
    """Read tables.yaml; an environment variable that is not set stays as it is."""
    content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    tables = {}
    for number, table in content["tables"].items():
        rows = [
            Row(row["name"], _expand(row["set"]), row.get("mvtec", []), row.get("mtd", []))
            for row in table["rows"]
        ]
        figures = table.get("figures", ["nmi", "ari", "f1"])
        tables[int(number)] = Table(int(number), table["title"], figures, rows)
    data = {name: _expand(overrides) for name, overrides in content["data"].items()}
    return Book(data, _expand(content["common"]), tables)


def _expand(overrides: dict[str, Any]) -> dict[str, Any]:
    return {
        key: os.path.expandvars(value) if isinstance(value, str) else value
        for key, value in overrides.items()
    }


def overrides_of(
    book: Book, row: Row, data: str, classifier: str, seed: int, preset: Path
) -> dict[str, Any]:
    """Return all overrides of a run; what is named later wins."""
    return {
        **dict(flatten(read_preset(preset))),
        **book.common,
        **book.data[data],
        **row.overrides,
        "predict.classifier": classifier,
        "train.seed": seed,
        "predict.seed": seed,
    }


def run_row(overrides: dict[str, Any], category: str, runner: Runner) -> dict[str, Any]:
    """Run the pipeline with `overrides`; return metrics.json, or what went wrong as `error`."""
    with_overrides(Params(), overrides)
    options = [part for key, value in overrides.items() for part in ("-S", as_override(key, value))]
    written = Path("data/evaluate") / category / "metrics.json"
    written.unlink(missing_ok=True)
    try:
        runner(["dvc", "exp", "run", *options])
        return dict(json.loads(written.read_text(encoding="utf-8")))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        return {"error": str(error)}


@contextmanager
def params_kept(path: Path = Path("params.yaml")) -> Iterator[None]:
    """Put params.yaml back as it was, whatever happens."""
    before = path.read_bytes()
    try:
        yield
    finally:
        aside = path.with_suffix(".yaml.tmp")
        aside.write_bytes(before)
        aside.replace(path)


def record(file: Path, entry: dict[str, Any]) -> None:
    """Append a row to a CSV file, written aside and renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([entry])
    if file.exists():
        frame = pd.concat([pd.read_csv(file, dtype={"row": str}), frame], ignore_index=True)
    aside = file.with_suffix(".csv.tmp")
    frame.to_csv(aside, index=False)
    aside.replace(file)


def is_done(file: Path, row: str, seed: int, commit: str) -> bool:
    """Say whether the file has figures of this row and seed at this commit."""
    if not file.exists():
        return False
    frame = pd.read_csv(file, dtype={"row": str})
    same = (frame["row"] == row) & (frame["seed"] == seed) & (frame["commit"] == commit)
    good = frame["nmi"].notna() if "nmi" in frame else same & False
    return bool((same & good).any())


def markdown(table: Table, file: Path) -> str:
    """Return the table: mean over seeds of the newest commit, beside the paper's columns."""
    frame = pd.read_csv(file, dtype={"row": str})
    frame = frame[frame["commit"] == frame["commit"].iloc[-1]]
    name = "/".join(figure.replace("_", " ") for figure in table.figures)
    lines = [
        f"| {table.title} ({name}) | {file.stem.split('-', 1)[1]} | paper, MVTec AD | paper, MTD |",
        "|---|---|---|---|",
    ]
    for row in table.rows:
        mine = frame[frame["row"] == row.name]
        text = "-"
        if len(mine) and set(table.figures) <= set(mine.columns):
            means = [_figure(mine[figure].mean()) for figure in table.figures]
            spread = f" ± {mine['nmi'].std(ddof=0):.3f}" if len(mine) > 1 else ""
            text = "/".join(means) + spread
        theirs = ["/".join(map(_figure, column)) or "-" for column in (row.mvtec, row.mtd)]
        lines.append(f"| {row.name} | {text} | {theirs[0]} | {theirs[1]} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _shell(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    if git("status", "--porcelain", "--untracked-files=no"):
        raise typer.BadParameter("the working copy differs from its commit: commit or stash first")
    return git("rev-parse", "--short", "HEAD")


def main(
    tables: Annotated[list[int], typer.Argument(help="2 to 9, 14 to 16.")],
    data: Annotated[str, typer.Option(help="bottle, mtd or metal.")] = "bottle",
    seed: Annotated[list[int], typer.Option(help="Seeds; may be given several times.")] = [0],  # noqa: B006
    classifier: Annotated[str, typer.Option(help="heads, as in the paper, or mixture.")] = "heads",
    preset: Annotated[Path, typer.Option(help="Parameters of all rows.")] = Path(
        "params/paper.yaml"
    ),
    render: Annotated[bool, typer.Option(help="Only print what was measured before.")] = False,
) -> None:
    """Redo tables of the paper, each row and seed by a `dvc exp run`."""
    book = read_book()
    unknown = [number for number in tables if number not in book.tables]
    if unknown or data not in book.data:
        raise typer.BadParameter(f"there are tables {list(book.tables)} and data {list(book.data)}")
    if data != "metal" and "ANOMALYNCD_DATA" not in os.environ:
        raise typer.BadParameter(f"set ANOMALYNCD_DATA to the folder that holds {data}")
    if classifier == "mixture" and HEADS_ONLY & {*tables}:
        raise typer.BadParameter(f"tables {sorted(HEADS_ONLY)} are about training the heads")
    if not render:
        commit = _commit()
        with params_kept():
            for number in tables:
                measure(book, number, data, seed, classifier, preset, commit, _shell)
    for number in tables:
        file = csv_file(number, data, classifier)
        if not file.exists():
            raise typer.BadParameter(f"{file} does not exist: run table {number} without --render")
        typer.echo(f"\nTable {number}\n\n{markdown(book.tables[number], file)}")


def csv_file(number: int, data: str, classifier: str) -> Path:
    """Where the figures of a table are kept."""
    return Path("data/tables") / f"{number}-{data}-{classifier}.csv"


def measure(
    book: Book,
    number: int,
    data: str,
    seeds: Sequence[int],
    classifier: str,
    preset: Path,
    commit: str,
    runner: Runner,
) -> None:
    """Run what is missing of a table. Seeds are innermost: they share the cached views."""
    file = csv_file(number, data, classifier)
    for row in book.tables[number].rows:
        for seed in seeds:
            if is_done(file, row.name, seed, commit):
                continue
            typer.echo(f"table {number}, {row.name}, seed {seed}", err=True)
            overrides = overrides_of(book, row, data, classifier, seed, preset)
            category = with_overrides(Params(), overrides).dataset.categories[0]
            figures = run_row(overrides, category, runner)
            record(file, {"row": row.name, "seed": seed, "commit": commit, **figures})


if __name__ == "__main__":
    typer.run(main)
