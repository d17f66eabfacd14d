"""Redo the paper's tables: python -m benchmarks.tables 6 --data metal --seeds 0 1 2

Each row, seed and category of tables.yaml is one `dvc exp run` of what `evaluate` needs: DVC reruns
only what the row changes, and keeps the metrics. An experiment that exists at this commit is not
run again. With several categories their means are printed.
Run it in the root of a checkout; docs/ablations.md has the details.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from ruamel.yaml import YAML

from benchmarks.paper_rows import expand
from pipeline.config.params import Params
from pipeline.config.presets import as_override, read_preset, with_overrides
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.errors import AnomalyNCDError

ROOT = Path(__file__).resolve().parent.parent
TRACKED = ("params.yaml", "dvc.yaml", "pipeline", "stages")
PAPERS = {"mvtec": "paper, MVTec AD", "mtd": "paper, MTD"}
Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One row with one seed; `name` is that of the DVC experiment."""

    row: str
    seed: int
    category: str
    name: str
    options: tuple[str, ...]  # key=value, as `dvc exp run -S` takes them

    def command(self) -> list[str]:
        """Return the DVC command."""
        options = [part for option in self.options for part in ("-S", option)]
        return ["dvc", "exp", "run", "-n", self.name, *options, f"evaluate@{self.category}"]

    def missing_base(self) -> str | None:
        """Return the folder of the labelled base set if it is set and not there."""
        roots = [o.partition("=")[2] for o in self.options if o.startswith("base.root=")]
        return next((root for root in roots if not Path(root).is_dir()), None)


def load_tables(path: Path = ROOT / "benchmarks" / "tables.yaml") -> dict[str, Any]:
    """Read tables.yaml."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    tables = {key: expand(table, path.parent) for key, table in content["tables"].items()}
    return {**content, "tables": tables}


def runs_of(
    table: Mapping[str, Any],
    data: Mapping[str, Any],
    params: Params,
    *,
    seeds: Sequence[int] = (0,),
    extra: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Return the runs of a table: rows, then seeds, then categories, which change fastest.

    A row wins over `extra`, and that over `data`. Raises ConfigError for impossible parameters, for
    environment variables that are not set, and for tables without a row of these categories.
    """
    common = {**read_preset(ROOT / "params" / "paper.yaml"), **data, **(extra or {})}
    runs = []
    for row in table["rows"]:
        for seed in seeds if "set" in row else ():
            settings = {**common, **row["set"], "train.seed": seed, "predict.seed": seed}
            settings = {key: _expand(value) for key, value in settings.items()}
            if table.get("heads_only") and settings["predict.classifier"] != "heads":
                raise ConfigError(f"{table['title']}: needs predict.classifier=heads")
            for category in _categories(row, settings["dataset.categories"]):
                runs.append(_run(row["name"], seed, category, settings, params))
    if not runs:
        raise ConfigError(f"{table['title']}: no row is of {common['dataset.categories']}")
    return runs


def _categories(row: Mapping[str, Any], categories: list[str]) -> list[str]:
    own = row.get("category")
    return categories if own is None else [own] if own in categories else []


def _run(row: str, seed: int, category: str, settings: Mapping[str, Any], params: Params) -> Run:
    """Return the run of one category: its own number of classes, and a name by its parameters."""
    own = {**settings, "dataset.categories": [category]}
    if isinstance(count := own.get("classes.count"), dict) and category in count:
        own["classes.count"] = count[category]
    merged = with_overrides(params, own)
    content = json.dumps(merged.model_dump(mode="json", by_alias=True), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    options = tuple(as_override(key, value) for key, value in own.items())
    return Run(row, seed, category, f"{category}-seed{seed}-{digest}", options)


def _expand(value: Any) -> Any:
    """Put environment variables into a string."""
    try:
        return Template(value).substitute(os.environ) if isinstance(value, str) else value
    except KeyError as error:
        raise ConfigError(
            f"set {error.args[0]} to a folder with mvtec/, mtd/ and neu_seg_base/"
        ) from None


def known_metrics() -> dict[str, dict[str, Metrics]]:
    """Return the metrics of each experiment at HEAD by category; empty where they are missing."""
    text = subprocess.run(
        ["dvc", "exp", "show", "--json"], capture_output=True, text=True, check=True
    ).stdout
    known: dict[str, dict[str, Metrics]] = {}
    for baseline in json.loads(text):
        for experiment in baseline["experiments"] or []:
            files = (experiment["revs"][0]["data"] or {}).get("metrics", {})
            known[experiment["name"]] = {
                Path(path).parent.name: file["data"]
                for path, file in files.items()
                if Path(path).name == "metrics.json" and "data" in file
            }
    return known


def execute(runs: Sequence[Run]) -> None:
    """Run what DVC does not know; leave params.yaml as it was. A failing run is tried next time."""
    if subprocess.run(
        ["git", "status", "--porcelain", "--", *TRACKED], capture_output=True, check=True
    ).stdout:
        raise ConfigError(f"commit or undo your changes of {', '.join(TRACKED)} first")
    known, path = known_metrics(), Path("params.yaml")
    committed = path.read_bytes()
    for k, run in enumerate({run.name: run for run in runs}.values(), 1):
        if run.name in known:
            continue
        if missing := run.missing_base():
            print(f"left out: {run.row}: there is no folder {missing}", file=sys.stderr)
            continue
        print(
            f"[{k}/{len(runs)}] {run.row}, {run.category}, seed {run.seed}",
            file=sys.stderr,
            flush=True,
        )
        try:
            subprocess.run(run.command(), stdout=sys.stderr.fileno(), check=False)
        finally:
            path.write_bytes(committed)  # DVC leaves its overrides there


def markdown(
    title: str,
    table: Mapping[str, Any],
    runs: Sequence[Run],
    known: Mapping[str, Mapping[str, Metrics]],
) -> str:
    """Return a table: means over the seeds, the standard deviation of NMI, and an interval.

    The metrics of a seed, and the ends of its interval, are means over the categories that are
    known. Rows of other categories than those of `runs` are left out.
    """
    names = table.get("metrics", ["nmi", "ari", "f1"])
    categories = sorted({run.category for run in runs})
    rows = [row for row in table["rows"] if row.get("category") in (None, *categories)]
    papers = [key for key in PAPERS if any(key in row for row in rows)]
    heads = ["row", "seeds", "ours", *(PAPERS[key] for key in papers)]
    notes = [table["note"]] if "note" in table else []
    if len(categories) > 1 and not any("category" in row for row in rows):
        heads.insert(2, "products")
        notes.insert(0, f"Ours are means over {', '.join(categories)}; the paper's over all 15.")
    lines = [f"### {title}", "", f"{'/'.join(names)}.", "", _line(heads), "|---" * len(heads) + "|"]
    for row in rows:
        found = _by_seed([run for run in runs if run.row == row["name"]], known)
        cells = [row["name"], ", ".join(map(str, found)) or "-", _ours(names, list(found.values()))]
        if "products" in heads:
            counts = {len(of_seed) for of_seed in found.values()}
            cells.insert(2, f"{min(counts, default=0)} of {len(categories)}")
        lines.append(_line([*cells, *(_joined(row.get(key)) for key in papers)]))
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def _by_seed(
    runs: Sequence[Run], known: Mapping[str, Mapping[str, Metrics]]
) -> dict[int, list[Metrics]]:
    """Return the metrics of the categories that are known, for each seed that has any."""
    found: dict[int, list[Metrics]] = {}
    for run in runs:
        if metrics := known.get(run.name, {}).get(run.category):
            found.setdefault(run.seed, []).append(metrics)
    return found


def _ours(names: Sequence[str], seeds: Sequence[Sequence[Metrics]]) -> str:
    """Return the means over seeds of the means over categories, and the deviation of NMI."""
    if not seeds:
        return "-"
    columns = {
        name: [
            statistics.fmean(values)
            for of_seed in seeds
            if (values := [m[name] for m in of_seed if m.get(name) is not None])
        ]
        for name in names
    }
    ours = _joined([statistics.fmean(column) if column else None for column in columns.values()])
    ours += f" ({_number(statistics.stdev(nmi))})" if len(nmi := columns["nmi"]) > 1 else ""
    return ours + _interval(names[0], [metrics for of_seed in seeds for metrics in of_seed])


def _interval(name: str, runs: Sequence[Metrics]) -> str:
    """Return the interval of a metric in brackets, its ends as means over seeds; maybe nothing."""
    ends = [run["intervals"][name] for run in runs if name in run.get("intervals", {})]
    if not ends:
        return ""
    low, high = (statistics.fmean(end[side] for end in ends) for side in ("low", "high"))
    return f" [{_number(low)}, {_number(high)}]"


def _joined(values: Sequence[float | None] | None) -> str:
    return "-" if values is None else "/".join(_number(value) for value in values)


def _number(value: float | None) -> str:
    """Return .613, -.013 or 1.000; a dash for None."""
    text = "-" if value is None else f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.tables", description="Redo ablation tables.")
    parser.add_argument("table", nargs="?", help="number of a table, figure6, figure9, or all")
    parser.add_argument("--data", default="metal", help="data set of tables.yaml (default: metal)")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="some of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all rows")
    parser.add_argument("--render", action="store_true", help="print what is known, run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--list", action="store_true", help="list tables and data sets")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Run and print one table, or all that can be run."""
    content = load_tables()
    tables = content["tables"]
    data = {name: {**content["common"], **own} for name, own in content["data"].items()}
    if options.list or options.table is None:
        print(*(f"{number!s:>7}  {table['title']}" for number, table in tables.items()), sep="\n")
        print("data:", ", ".join(data))
        return
    if options.table not in ("all", *map(str, tables)) or options.data not in data:
        raise ConfigError("there is no such table or data set: --list lists them")
    yaml = YAML(typ="safe", pure=True)
    extra = {key: yaml.load(value) for key, _, value in (s.partition("=") for s in options.set)}
    if options.categories:
        if not set(options.categories) <= set(data[options.data]["dataset.categories"]):
            raise ConfigError(f"{options.data} has no such category: see benchmarks/tables.yaml")
        extra["dataset.categories"] = options.categories
    for number, table in tables.items():
        if options.table not in ("all", str(number)):
            continue
        try:
            runs = runs_of(
                table, data[options.data], load_params(), seeds=options.seeds, extra=extra
            )
        except ConfigError as error:
            if options.table != "all":
                raise
            print(f"left out: table {number}: {error}", file=sys.stderr)
            continue
        if options.dry_run:
            print(*(shlex.join(run.command()) for run in runs), sep="\n")
            continue
        if not options.render:
            execute(runs)
        label = f"Table {number}" if isinstance(number, int) else f"Figure {number[6:]}"
        title = f"{label}, {table['title']}: {options.data}"
        print(markdown(title, table, runs, known_metrics()), end="\n\n")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except AnomalyNCDError as problem:
        sys.exit(f"benchmarks.tables: {problem}")
