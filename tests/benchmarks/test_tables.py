"""The ablation tables: what is run for each row, what DVC keeps of it, and what is printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.tables import Run, runs_of
from pipeline.config.params import ConfigError, load_params
from pipeline.config.presets import read_preset, with_overrides
from tests.graph import ROOT

CONTENT = tables.load_tables()
TABLES, DATA = CONTENT["tables"], CONTENT["data"]
PARAMS = load_params(ROOT / "params.yaml")
HEADS_ONLY = {4, 5, 7, 9, 15}
MIXTURE = {"predict.classifier": "mixture", "predict.normal": "scores"}


@pytest.fixture(autouse=True)
def _data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALYNCD_DATA", "/data")


def runs(
    number: int, data: str = "metal", seeds: Sequence[int] = (0,), **extra: object
) -> list[Run]:
    settings = {key.replace("__", "."): value for key, value in extra.items()}
    return runs_of(TABLES[number], DATA[data], PARAMS, seeds=seeds, extra=settings)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("number", TABLES)
def test_every_row_has_valid_parameters_of_its_own(number: int, data: str) -> None:
    found = runs(number, data)
    assert len({run.name for run in found}) == len(found)
    assert [run.row for run in found] == [r["name"] for r in TABLES[number]["rows"] if "set" in r]
    assert {run.category for run in found} == {data}


def test_the_tables_are_the_papers() -> None:
    assert set(TABLES) == {2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 16}
    assert {n for n, table in TABLES.items() if table.get("heads_only")} == HEADS_ONLY
    for table in TABLES.values():
        n = len(table.get("metrics", ["nmi", "ari", "f1"]))
        for row in table["rows"]:
            assert row.keys() <= {"name", "set", "mvtec", "mtd"}
            assert all(len(row[paper]) == n for paper in ("mvtec", "mtd") if paper in row)


@pytest.mark.parametrize("number", set(TABLES) - {14})
def test_each_table_has_the_papers_own_setting_once(number: int) -> None:
    """.613/.526/.712 (MTD .268/.228/.509) is AnomalyNCD with MuSc in all of them."""
    rows = TABLES[number]["rows"]
    own = [row for row in rows if row["mvtec"][-3:] == [0.613, 0.526, 0.712]]
    assert len(own) == 1
    assert own[0].get("mtd", [0.268, 0.228, 0.509]) == [0.268, 0.228, 0.509]
    if number != 9:  # the paper has a base set, we have none
        paper = with_overrides(PARAMS, read_preset(ROOT / "params" / "paper.yaml"))
        assert with_overrides(paper, own[0]["set"]) == paper
        (run,) = (run for run in runs(number) if run.row == own[0]["name"])
        assert run.name == runs(6)[-1].name  # the same experiment in all tables


def test_the_command_of_a_run() -> None:
    run = runs(3, "bottle", [7])[0]
    command = run.command()
    assert command[:4] == ["dvc", "exp", "run", "-n"]
    assert command[4].startswith("bottle-seed7-")
    assert command[-1] == "evaluate@bottle"
    assert command[5:-1:2] == ["-S"] * len(run.options)
    assert {"dataset.root=/data/mvtec", "maps.resolution=448", "maps.neighbourhoods=[1,3,5]"} < set(
        command
    )
    assert {"mebin.method=fixed", "predict.normal=none", "train.seed=7", "predict.seed=7"} < set(
        command
    )


def test_seeds_are_innermost_and_a_row_wins_over_what_is_set_for_all() -> None:
    found = runs(16, seeds=[3, 1], mebin__tau=9, train__epochs=2)
    assert [(run.row, run.seed) for run in found[:3]] == [("2", 3), ("2", 1), ("3", 3)]
    assert {"mebin.tau=2", "train.epochs=2"} < set(found[0].options)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"mebin__tua": 3}, "mebin.tua: unknown key"),
        ({"mebin__tau": 0}, "mebin.tau"),
        ({"dataset__root": "$NOT_SET/x"}, "set NOT_SET to a folder"),
    ],
)
def test_impossible_settings_are_refused(extra: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runs(6, **extra)


@pytest.mark.parametrize("number", TABLES)
def test_the_mixture_is_refused_where_only_the_heads_differ(number: int) -> None:
    extra = {key.replace(".", "__"): value for key, value in MIXTURE.items()}
    if number in HEADS_ONLY:
        with pytest.raises(ConfigError, match=r"needs predict\.classifier=heads"):
            runs(number, **extra)
    else:
        wanted = {"predict.classifier=mixture", "predict.normal=scores"}
        assert all(wanted <= set(run.options) for run in runs(number, **extra))


def test_the_markdown_of_a_table() -> None:
    table = {
        "rows": [
            {"name": "x", "set": {}, "mvtec": [0.6, 0.5, 0.7], "mtd": [0.1, 0.2, 0.3]},
            {"name": "y", "set": {}, "mvtec": [0.6, 0.5, 0.75]},
            {"name": "theirs", "mvtec": [0.5, 0.4, 0.6]},
        ]
    }
    found = [Run("x", 0, "a", "x0", ()), Run("x", 1, "a", "x1", ()), Run("y", 0, "a", "y0", ())]
    known: dict[str, dict[str, Any]] = {
        name: {"a": {"nmi": nmi, "ari": -0.0134, "f1": 1.0}}
        for name, nmi in (("x0", 0.4), ("x1", 0.6))
    }
    known["x1"]["a"]["intervals"] = {"nmi": {"low": 0.25, "high": 0.75}}
    assert tables.markdown("Table 99", table, found, known).splitlines() == [
        "### Table 99",
        "",
        "nmi/ari/f1.",
        "",
        "| row | seeds | ours | paper, MVTec AD | paper, MTD |",
        "|---|---|---|---|---|",
        "| x | 0, 1 | .500/-.013/1.000 (.141) [.250, .750] | .600/.500/.700 | .100/.200/.300 |",
        "| y | - | - | .600/.500/.750 | - |",
        "| theirs | - | - | .500/.400/.600 | - |",
    ]


STUB = {
    "dvc.yaml": """\
stages:
  evaluate:
    matrix:
      category: ${dataset.categories}
    cmd: python stub.py ${item.category}
    params: [merge.weights, train.seed]
    metrics:
      - data/evaluate/${item.category}/metrics.json
""",
    "stub.py": """\
import json, pathlib, sys
from ruamel.yaml import YAML
params = YAML().load(open("params.yaml"))
if params["merge"]["weights"] == "score":
    sys.exit("no region found")
folder = pathlib.Path("data/evaluate", sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
nmi = 0.5 + params["train"]["seed"] / 10
(folder / "metrics.json").write_text(json.dumps({"nmi": nmi, "ari": None, "f1": 1.0}))
open("log", "a").write("x")
""",
    ".gitignore": "/data\n/log\n",
}


@pytest.mark.slow
def test_dvc_runs_a_table_once_and_keeps_its_metrics(tmp_path: Path) -> None:
    """With DVC itself, in a project whose only stage is a stub of `evaluate`."""
    for name, text in STUB.items():
        (tmp_path / name).write_text(text)
    committed = (ROOT / "params.yaml").read_bytes()
    (tmp_path / "params.yaml").write_bytes(committed)
    who = {f"GIT_{w}_{k}": "t@t" for w in ("AUTHOR", "COMMITTER") for k in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **who, "PATH": path, "PYTHONPATH": str(ROOT)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    def table(*options: str) -> subprocess.CompletedProcess[str]:
        return run(sys.executable, "-m", "benchmarks.tables", "6", *options)

    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -q -m start"):
        assert run(*command.split()).returncode == 0
    rows = table("--seeds", "0", "1").stdout
    assert "| mean | 0, 1 | .550/-/1.000 (.071) | .610/.521/.709 | .257/.223/.501 |" in rows
    assert "| score | - | - |" in rows  # it failed, the rest went on
    assert (tmp_path / "params.yaml").read_bytes() == committed
    assert (tmp_path / "log").read_text() == "xxxx"
    assert table("--seeds", "0", "1").stdout == rows
    assert table("--render", "--seeds", "0", "1").stdout == rows
    assert (tmp_path / "log").read_text() == "xxxx"
    (tmp_path / "params.yaml").write_bytes(committed + b"\n")
    assert "commit or undo your changes" in table().stderr


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    tables.main(tables.parse_arguments(arguments))
    return "".join(capsys.readouterr())


def test_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert "16  shortest stable run" in command(capsys, "--list")
    text = command(
        capsys, "6", "--dry-run", "--seeds", "0", "1", "--set", "maps.layers=[1, 2]", "train.lr=1"
    )
    assert text.count("dvc exp run -n metal-seed") == 6
    assert "-S 'maps.layers=[1,2]'" in text
    monkeypatch.delenv("ANOMALYNCD_DATA")
    text = command(capsys, "all", "--dry-run")
    assert text.count("left out: table 9: set ANOMALYNCD_DATA") == 1
    assert text.count("left out:") == 1
    for arguments in (("five",), ("6", "--data", "wood")):
        with pytest.raises(ConfigError, match="--list lists them"):
            command(capsys, *arguments)
