"""The ablation tables: what is run for each row, what DVC keeps of it, and what is printed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.tables import Run, runs_of
from pipeline.commands.fit import misfits
from pipeline.config.presets import read_preset, with_overrides
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from tests.graph import ROOT

CONTENT = tables.load_tables()
TABLES = CONTENT["tables"]
DATA = {name: {**CONTENT["common"], **own} for name, own in CONTENT["data"].items()}
PARAMS = load_params(ROOT / "params.yaml")
HEADS_ONLY = {4, 5, 7, 9, 10, 15}
OF_PRODUCTS = {10, 17}
"""Tables whose rows are of one product of MVTec AD each."""
PRODUCTS = {row["category"] for row in TABLES[17]["rows"]}
MIXTURE = {
    "predict.classifier": "mixture",
    "predict.normal": "scores",
    "maps.image_score": "contrast",
}


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
    categories = DATA[data]["dataset.categories"]
    if number in OF_PRODUCTS and not {*categories} <= PRODUCTS:
        with pytest.raises(ConfigError, match="no row is of"):
            runs(number, data)
        return
    found = runs(number, data)
    assert len({run.name for run in found}) == len(found)
    assert {run.category for run in found} == {*categories}
    rows = [row for row in TABLES[number]["rows"] if "set" in row]
    expected = [(row["name"], c) for row in rows for c in [row.get("category", categories)]]
    flat = [(n, c) for n, own in expected for c in (own if isinstance(own, list) else [own])]
    assert [(run.row, run.category) for run in found] == [
        (n, c) for n, c in flat if c in categories
    ]


def test_the_tables_are_the_papers() -> None:
    numbers = {2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17}
    assert set(TABLES) == {*numbers, "figure6", "figure9"}
    assert {n for n, table in TABLES.items() if table.get("heads_only")} == HEADS_ONLY
    for table in TABLES.values():
        n = len(table.get("metrics", ["nmi", "ari", "f1"]))
        for row in table["rows"]:
            assert row.keys() <= {"name", "set", "mvtec", "mtd", "category"}
            assert all(len(row[paper]) == n for paper in ("mvtec", "mtd") if paper in row)


def test_rows_of_products_have_the_papers_means() -> None:
    """Their means over products are what the paper prints below them, and in table 2."""
    by_detector: dict[str, list[list[float]]] = {}
    for row in TABLES[17]["rows"]:
        by_detector.setdefault(row["name"].partition(", ")[2], []).append(row["mvtec"])
    means = {
        detector: [statistics.fmean(column) for column in zip(*rows, strict=True)]
        for detector, rows in by_detector.items()
    }
    assert len(by_detector["CPR"]) == 15
    for row in TABLES[2]["rows"]:
        assert means[row["name"]] == pytest.approx(row["mvtec"], abs=6e-4)
    assert len(TABLES[10]["rows"]) == 14 * 14
    onto_pill = [row["mvtec"] for row in TABLES[10]["rows"] if row["category"] == "pill"]
    means_of_pill = [statistics.fmean(column) for column in zip(*onto_pill, strict=True)]
    assert means_of_pill == pytest.approx([0.426, 0.292, 0.485], abs=6e-4)


def test_a_product_has_its_own_number_of_classes_and_another_its_defects_as_base() -> None:
    (run,) = (run for run in runs(10, "mvtec") if run.row == "pill to bottle")
    wanted = {"dataset.categories=[bottle]", "classes.count=4", "base.layout=mvtec"}
    assert {*wanted, "base.root=/data/mvtec/pill"} < set(run.options)
    assert run.missing_base() == "/data/mvtec/pill"
    assert run.command()[-1] == "evaluate@bottle"
    assert runs(6, "mvtec")[0].missing_base() is None
    some = runs(6, "mvtec", dataset__categories=["pill", "zipper"])
    assert [run.category for run in some] == ["pill", "zipper"] * 3
    assert "classes.count=7" in some[0].options


@pytest.mark.parametrize("number", [n for n in TABLES if n not in {14, *OF_PRODUCTS}])
def test_each_table_has_the_papers_own_setting_once(number: int) -> None:
    """.613/.526/.712 (MTD .268/.228/.509) is AnomalyNCD with MuSc in all of them."""
    rows = TABLES[number]["rows"]
    own = [row for row in rows if row.get("mvtec", [])[-3:] == [0.613, 0.526, 0.712]]
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
            runs(number, "bottle", **extra)
    else:
        wanted = {"predict.classifier=mixture", "predict.normal=scores"}
        assert all(wanted <= set(run.options) for run in runs(number, "bottle", **extra))
        paper = read_preset(ROOT / "params" / "paper.yaml")
        params = with_overrides(PARAMS, {**paper, **DATA["bottle"], **MIXTURE})
        assert misfits(params, 14, 12) == []  # those of the default backbone


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


def test_means_over_products() -> None:
    table = {"note": "Mind.", "rows": [{"name": "x", "set": {}, "mvtec": [0.6, 0.5, None]}]}
    found = [Run("x", seed, c, f"{c}{seed}", ()) for seed in (0, 1) for c in ("b", "a", "c")]
    known: dict[str, dict[str, dict[str, float]]] = {
        f"{c}{seed}": {c: {"nmi": nmi + seed / 10, "ari": None, "f1": 0.5}}  # type: ignore[dict-item]
        for c, nmi in (("a", 0.2), ("b", 0.4))
        for seed in (0, 1)
    }
    assert tables.markdown("T", table, found, known).splitlines()[4:] == [
        "| row | seeds | products | ours | paper, MVTec AD |",
        "|---|---|---|---|---|",
        "| x | 0, 1 | 2 of 3 | .350/-/.500 (.071) | .600/.500/- |",
        "",
        "Ours are means over a, b, c; the paper's over all 15.",
        "",
        "Mind.",
    ]


def test_rows_of_products_stand_alone() -> None:
    rows = [{"name": f"{c}, x", "category": c, "set": {}, "mvtec": [0.1] * 3} for c in "abc"]
    found = [Run(f"{c}, x", 0, c, f"{c}0", ()) for c in "ab"]
    text = tables.markdown("T", {"rows": rows}, found, {"a0": {"a": {"nmi": 0.5}}})
    assert text.splitlines()[4:] == [
        "| row | seeds | ours | paper, MVTec AD |",
        "|---|---|---|---|",
        "| a, x | 0 | .500/-/- | .100/.100/.100 |",
        "| b, x | - | - | .100/.100/.100 |",
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
    assert text.count("left out: table 10: set ANOMALYNCD_DATA") == 1
    assert "left out: table 17: products: no row is of ['metal']" in text
    assert text.count("left out:") == 3
    for arguments in (("five",), ("6", "--data", "wood")):
        with pytest.raises(ConfigError, match="--list lists them"):
            command(capsys, *arguments)
    monkeypatch.setenv("ANOMALYNCD_DATA", "/data")
    text = command(
        capsys, "figure9", "--dry-run", "--data", "mvtec", "--categories", "pill", "tile"
    )
    assert text.count("evaluate@pill") == text.count("evaluate@tile") == 4
    with pytest.raises(ConfigError, match="mvtec has no such category"):
        command(capsys, "6", "--data", "mvtec", "--categories", "metal")
