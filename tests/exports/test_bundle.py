"""A bundle gives the maps, masks and classes that `classify` gives, without this project."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from benchmarks.bundle import differences
from pipeline.cli import app
from pipeline.exports.bundle_program import Bundle
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import read_json, write_json
from tests.commands.test_classify import classify, make_run
from tests.config.test_every_parameter import CATEGORY


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("bundle"), "nearest", "mixture", "grain")


def export(root: Path, out: Path, data: Path) -> tuple[int, str]:
    options = ["--data", str(data), "--params", str(root / "none.yaml")]
    options += ["--names", str(root / "names.yaml"), "--out", str(out)]
    found = CliRunner().invoke(app, ["export", "bundle", CATEGORY, *options])
    return found.exit_code, found.output


def test_a_bundle_is_equal_to_classify(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    code, text = export(made, out, made / "data")
    assert code == 0, text
    files = sorted((made / "mixed").iterdir())
    found, _ = differences(Bundle(out), made / "data", CATEGORY, files)
    assert (found["classes"], found["squares"], found["mask pixels"]) == (0, 0, 0)
    assert found["map"] < 2e-3  # at 0 the square root stretches the last bit
    assert found["image score"] < 1e-3
    assert found["probabilities"] < 1e-4
    assert len({Bundle(out)(np.zeros((40, 60, 3), np.uint8))["name"]}) == 1
    names = [str(file) for file in files]
    program = [sys.executable, str(out / "run.py"), *names, str(out / "README.md")]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert rows[-1]["reason"] == "no image that OpenCV can read"
    table = tmp_path / "found.parquet"
    assert classify(made, made / "mixed", table)[0] == 0
    ours = pd.read_parquet(table).set_index("path")["class"]
    assert {Path(row["path"]).name: row["class"] for row in rows[:-1]} == ours.to_dict()
    assert ours.nunique() > 2
    assert "exists already" in export(made, out, made / "data")[1]


def test_the_program_imports_three_packages_alone() -> None:
    source = Path("pipeline/exports/bundle_program.py").read_text(encoding="utf-8")
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    assert names - set(sys.stdlib_module_names) == {"numpy", "cv2", "onnxruntime"}


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("maps", "method", "musc", "maps.method musc"),
        ("maps", "tiles", 2, "maps.tiles above 1"),
        ("mebin", "rule", "reference", "mebin.rule reference"),
        ("crops", "enabled", False, "crops.enabled: false"),
    ],
)
def test_what_a_bundle_cannot_do_is_refused(
    made: Path, tmp_path: Path, section: str, key: str, value: object, said: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(made / "data", data)
    file = ArtifactPaths(data).predict(CATEGORY) / "classifier.json"
    stored = read_json(file)
    stored["params"][section][key] = value
    write_json(file, stored)
    code, text = export(made, tmp_path / "out", data)
    assert code == 1
    assert said in text
    assert not (tmp_path / "out").exists()
