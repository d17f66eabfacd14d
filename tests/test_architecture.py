"""Arrows point one way, dvc.yaml names what stages import, and labels stay in quarantine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.graph import ROOT, closure, expected_code, imports, is_code

EDGES = {
    "artifacts",
    "cli",
    "commands",
    "config",
    "corrections",
    "datasets",
    "demo_files",
    "described",
    "exports",
    "file_checks",
    "files",
    "images",
    "layouts",
    "map_files",
    "map_scores",
    "mask_files",
    "model_store",
    "names",
    "presets",
    "promotion",
    "provenance",
    "region_model",
    "reporting",
    "region_table",
    "reviewing",
    "scratch",
    "sections",
    "stored",
    "view_cache",
    "weights",
}
NEUTRAL = {"progress", "terminal"}
FORBIDDEN = {"dvc", "json", "os", "pathlib", "pyarrow", "ruamel", "shutil", "typer", "yaml", "zarr"}
PIPELINE = sorted(file.relative_to(ROOT) for file in (ROOT / "pipeline").rglob("*.py"))
COMPUTE = [
    file for file in PIPELINE if file.stem not in EDGES | NEUTRAL and file.parts[1] not in EDGES
]
STAGES = sorted(
    file.relative_to(ROOT) for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__"
)
NODES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def imported_packages(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def is_edge(path: Path) -> bool:
    return path.parts[0] == "pipeline" and (path.stem in EDGES or path.parts[1] in EDGES)


@pytest.mark.parametrize("path", COMPUTE, ids=str)
def test_compute_imports_no_edge_and_no_files(path: Path) -> None:
    assert not {file for file in imports(path) if is_edge(file) or file.parts[0] == "stages"}
    assert not imported_packages(path) & FORBIDDEN


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_no_stage_imports_another(path: Path) -> None:
    assert not {file for file in imports(path) if file.parts[0] == "stages"}


@pytest.mark.parametrize("path", [p for p in PIPELINE if p not in COMPUTE], ids=str)
def test_edges_import_no_stage(path: Path) -> None:
    assert not {file for file in closure(path) if file.parts[0] == "stages"}


@pytest.mark.parametrize("path", [*PIPELINE, *STAGES], ids=str)
def test_nothing_imports_the_benchmarks_or_the_tests(path: Path) -> None:
    assert not imported_packages(path) & {"benchmarks", "tests"}


def test_one_name_everywhere() -> None:
    assert {path.stem for path in STAGES} == set(NODES)
    for name, node in NODES.items():
        assert node["cmd"].split()[:2] == ["anomalyncd", name]
        outs = [*node.get("outs", []), *node.get("plots", []), *node.get("metrics", [])]
        paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
        allowed = ("data/raw/demo/",) if name == "demo" else (f"data/{name}/", "data/summary.json")
        own = f"data/{name}"
        assert all(path == own or path.startswith(allowed) for path in paths), paths


@pytest.mark.parametrize("name", NODES)
def test_code_deps_are_the_import_graph(name: str) -> None:
    listed = [dep for dep in NODES[name]["deps"] if is_code(dep)]
    assert listed == expected_code(name), "run `python -m tests.graph`"


def test_labels_are_a_dependency_of_evaluate_and_report_alone() -> None:
    def reads(node: dict[str, list[str]], ending: str) -> bool:
        return any(dep.endswith(ending) for dep in node["deps"])

    assert {name for name, node in NODES.items() if reads(node, "labels.parquet")} == {"evaluate"}
    assert {name for name, node in NODES.items() if "data/manifest" in node["deps"]} == {"report"}
    assert {n for n, node in NODES.items() if reads(node, "masks.parquet")} == {"maps", "evaluate"}


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_only_three_stages_name_the_labels(path: Path) -> None:
    """`manifest` writes labels.parquet, `evaluate` and `report` read it."""
    named = "labels.parquet" in (ROOT / path).read_text(encoding="utf-8")
    assert named == (path.stem in {"manifest", "evaluate", "report"})
