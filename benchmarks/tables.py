"""Redo the paper's ablation tables: python -m benchmarks.tables 6 --data metal --seeds 0 1 2

Each row and seed of tables.yaml is one `dvc exp run` of what `evaluate` needs: DVC reruns only what
the row changes, and keeps the metrics. An experiment that exists at this commit is not run again.
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

from pipeline.config.params import ConfigError, Params, load_params
from pipeline.config.presets import as_override, read_preset, with_overrides
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


def load_tables(path: Path = ROOT / "benchmarks" / "tables.yaml") -> dict[str, Any]:
    """Read tables.yaml."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return content


def runs_of(
    table: Mapping[str, Any],
    data: Mapping[str, Any],
    params: Params,
    *,
    seeds: Sequence[int] = (0,),
    extra: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Return the runs of a table, seeds innermost; a row wins over `extra`, and that over `data`.

    Raises ConfigError for impossible parameters and for environment variables that are not set.
    """
    common = {**read_preset(ROOT / "params" / "paper.yaml"), **data, **(extra or {})}
    runs = []
    for row in table["rows"]:
        for seed in seeds if "set" in row else ():
            settings = {**common, **row["set"], "train.seed": seed, "predict.seed": seed}
            settings = {key: _expand(value) for key, value in settings.items()}
            merged = with_overrides(params, settings)
            if table.get("heads_only") and merged.predict.classifier != "heads":
                raise ConfigError(f"{table['title']}: needs predict.classifier=heads")
            (category,) = merged.dataset.categories
            content = json.dumps(merged.model_dump(mode="json", by_alias=True), sort_keys=True)
            digest = hashlib.sha256(content.encode()).hexdigest()[:10]
            options = tuple(as_override(key, value) for key, value in settings.items())
            name = f"{category}-seed{seed}-{digest}"
            runs.append(Run(row["name"], seed, category, name, options))
    return runs


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
        print(f"[{k}/{len(runs)}] {run.row}, seed {run.seed}", file=sys.stderr, flush=True)
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
    """Return a table: means over the seeds, the standard deviation of NMI, and its interval."""
    names = table.get("metrics", ["nmi", "ari", "f1"])
    papers = [key for key in PAPERS if any(key in row for row in table["rows"])]
    heads = ["row", "seeds", "ours", *(PAPERS[key] for key in papers)]
    lines = [f"### {title}", "", f"{'/'.join(names)}.", "", _line(heads), "|---" * len(heads) + "|"]
    for row in table["rows"]:
        own = [run for run in runs if run.row == row["name"]]
        found = {r.seed: m for r in own if (m := known.get(r.name, {}).get(r.category))}
        columns = {name: [m[name] for m in found.values() if name in m] for name in names}
        means = [statistics.fmean(column) if column else None for column in columns.values()]
        ours = _joined(means) if found else "-"
        ours += f" ({_number(statistics.stdev(nmi))})" if len(nmi := columns["nmi"]) > 1 else ""
        ours += _interval(names[0], list(found.values()))
        seeds = ", ".join(str(seed) for seed in found) or "-"
        lines.append(_line([row["name"], seeds, ours, *(_joined(row.get(key)) for key in papers)]))
    return "\n".join(lines)


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
    parser.add_argument("table", nargs="?", help="number of a table, or all")
    parser.add_argument("--data", default="metal", help="data set of tables.yaml (default: metal)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all rows")
    parser.add_argument("--render", action="store_true", help="print what is known, run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--list", action="store_true", help="list tables and data sets")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    """Run and print one table, or all that can be run."""
    content = load_tables()
    tables, data = content["tables"], content["data"]
    if options.list or options.table is None:
        print(*(f"{number:3d}  {table['title']}" for number, table in tables.items()), sep="\n")
        print("data:", ", ".join(data))
        return
    if options.table not in ("all", *map(str, tables)) or options.data not in data:
        raise ConfigError("there is no such table or data set: --list lists them")
    yaml = YAML(typ="safe", pure=True)
    extra = {key: yaml.load(value) for key, _, value in (s.partition("=") for s in options.set)}
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
        title = f"Table {number}, {table['title']}: {options.data}"
        print(markdown(title, table, runs, known_metrics()), end="\n\n")


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except AnomalyNCDError as problem:
        sys.exit(f"benchmarks.tables: {problem}")
