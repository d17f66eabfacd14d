"""The command line: help, one-line errors, and a stage that is killed and run again."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import PER_CATEGORY, WHOLE, app
from tests.graph import ROOT

runner = CliRunner()


def invoke(*arguments: str) -> tuple[int, str]:
    result = runner.invoke(app, list(arguments))
    return result.exit_code, result.output


def small_params(folder: Path) -> Path:
    path = folder / "params.yaml"
    path.write_text("dataset: {categories: [metal]}\ndemo: {good: 2, per_defect: 2, normals: 2}\n")
    return path


def test_help_lists_every_stage_with_a_line() -> None:
    code, text = invoke("--help")
    assert code == 0
    for name in (*PER_CATEGORY, *WHOLE):
        assert f" {name} " in text
    assert "dvc repro" in text
    assert invoke("mebin", "--help")[0] == 0


def test_commands_start_without_the_libraries_of_single_stages() -> None:
    """Each node of the pipeline is a process: importing torch would cost each of them seconds."""
    code = "import sys, pipeline.cli; print({'torch', 'timm', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "arguments",
    [
        ("name", "metl", "1", "scratch"),
        ("correct", "metl", "params.yaml"),
        ("classify", "images", "--category", "metl", "--out", "out.parquet"),
        ("export", "coco", "metl", "--out", "out.json"),
        ("promote", "metl"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_category_without_a_run_is_named_beside_those_that_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_params(tmp_path)
    (tmp_path / "data" / "predict" / "metal").mkdir(parents=True)
    (tmp_path / "data" / "predict" / "metal" / "regions.parquet").touch()
    code, text = invoke(*arguments)
    assert code == 1
    text = " ".join(text.split())
    assert "no run of 'metl', only of metal" in text
    assert "dvc repro" in text


def test_every_stage_module_has_a_command() -> None:
    stages = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert stages == {*PER_CATEGORY, *WHOLE, "peer"}  # of a category and a method


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mebin", "wood"), "'wood' is not in dataset.categories"),
        (("mebin", "metal"), "run the stage 'maps' first"),
        (("crops", "metal"), "first"),
        (("train", "metal"), "first"),
        (("merge", "metal"), "first"),
        (("evaluate", "metal"), "first"),
        (("report",), "run the stage 'evaluate' first"),
        (("manifest", "metal"), "metal"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small_params(tmp_path)
    code, text = invoke(*arguments)
    assert code == 1
    assert message in text
    assert "Traceback" not in text
    assert text.count("\n") == 1


def test_missing_params_are_named(tmp_path: Path) -> None:
    code, text = invoke("demo", "--params", str(tmp_path / "none.yaml"))
    assert code == 1
    assert "none.yaml does not exist" in text


def digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_killed_stage_leaves_nothing_and_runs_again(tmp_path: Path) -> None:
    params = small_params(tmp_path)
    data, other = tmp_path / "data", tmp_path / "other"
    command = [sys.executable, "-m", "pipeline.cli", "demo", "--params", str(params), "--data"]
    process = subprocess.Popen([*command, str(data)], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(data.rglob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(data.rglob("*.png")), "the stage was killed before it wrote anything"
    assert not (data / "raw" / "demo" / "metal").exists()
    for folder in (data, other):
        subprocess.run([*command, str(folder)], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert digests(data / "raw" / "demo") == digests(other / "raw" / "demo")
    assert len(digests(data / "raw" / "demo")) > 20
