"""dvc.yaml names what the stages import, and keeps labels in quarantine."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.graph import ROOT, closure, expected_code, is_code

STAGES = sorted(
    file.relative_to(ROOT) for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__"
)
NODES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


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
    """`manifest` writes labels.parquet, `evaluate` and `report` read it, with all they import."""
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in closure(path)]
    named = any('"labels.parquet"' in text for text in texts)
    assert named == (path.stem in {"manifest", "evaluate", "report"})
