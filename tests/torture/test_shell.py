"""Names of categories on their way from params.yaml through DVC's templates and the shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.parsing.interpolate import to_str
from dvc.repo import Repo
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import PER_CATEGORY, app
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from tests.graph import ROOT

NODES = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
runner = CliRunner()


def accepted(name: str) -> bool:
    try:
        parse_params({"dataset": {"categories": [name]}})
    except ConfigError:
        return False
    return True


def given_to_the_program(command: str, folder: Path | None = None) -> list[str]:
    """Run the lines of a command as DVC does, with a program that prints its arguments."""
    (line,) = command.splitlines()
    script = 'anomalyncd() { printf "%s\\0" "$@"; }\n' + line
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, cwd=folder)
    return done.stdout.decode().split("\0")[:-1]


@given(st.text(max_size=20) | st.text("a '\"$`();&|<>*?[]{}~#!%\\\n-=.", max_size=12))
@example("c$(touch PWNED)")
@example("`id`")
@example("${HOME}")
@example('a"b')
@example("it's")
@example("-x")
@example("~root")
@example("a\nb")
@example("a\x85b")
@settings(max_examples=150)
def test_a_category_that_is_accepted_comes_unchanged_out_of_the_shell(name: str) -> None:
    if accepted(name):
        command = NODES["manifest"]["cmd"].replace("${item}", to_str({"category": name}))
        assert "${" not in command.replace(to_str({"category": name}), "")
        assert given_to_the_program(command) == ["manifest", "--category", name]


@pytest.mark.parametrize("stage", [name for name, node in NODES.items() if "matrix" in node])
def test_no_command_puts_a_category_into_the_shell_by_itself(stage: str) -> None:
    assert NODES[stage]["cmd"] == f"anomalyncd {stage} ${{item}}"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\x1bb", "a\x85b", "-x", "a@b"]
)
def test_names_that_break_are_refused_in_params(name: str) -> None:
    assert not accepted(name)


@pytest.mark.parametrize(
    "name", ["c$(touch PWNED)", "it's", 'a"b', "`id`", "größe 傷", "NFD é", "*"]
)
def test_names_that_only_look_dangerous_are_names(name: str) -> None:
    assert accepted(name)


DVC_YAML = """
stages:
  manifest:
    matrix:
      category: ${dataset.categories}
    cmd: anomalyncd manifest ${item}
    deps:
      - ${dataset.root}/${item.category}
    outs:
      - data/manifest/${item.category}/images.parquet:
          cache: false
"""


def project(folder: Path, categories: list[object], cmd: str) -> None:
    """Make a DVC project with one stage of ours, and three images a category."""
    import numpy as np
    from PIL import Image

    Repo.init(str(folder), no_scm=True).close()
    (folder / "dvc.yaml").write_text(DVC_YAML.replace("anomalyncd manifest ${item}", cmd))
    content = {"dataset": {"root": "images", "categories": categories}}
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    for name in categories:
        if isinstance(name, str):
            (folder / "images" / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((8, 8, 3), 40 * i, np.uint8)
                Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")


def repro(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", "repro"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_dvc_runs_no_command_that_a_category_holds(tmp_path: Path) -> None:
    names = ["c$(touch PWNED)", "`touch PWNED`", 'a"; touch PWNED; "', "it's"]
    project(tmp_path, [*names], NODES["manifest"]["cmd"])
    done = repro(tmp_path)
    assert not list(tmp_path.rglob("PWNED"))
    assert done.returncode == 0, done.stderr
    for name in names:
        assert (tmp_path / "data" / "manifest" / name / "images.parquet").is_file()


@pytest.mark.parametrize("name", ["x\ntouch PWNED\n", "'\ntouch PWNED\n'", {"$(touch PWNED)": "x"}])
def test_dvc_fails_where_a_category_is_no_name(tmp_path: Path, name: object) -> None:
    project(tmp_path, [name] if isinstance(name, dict) else [], NODES["manifest"]["cmd"])
    content = {"dataset": {"root": "images", "categories": [name]}}
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    if isinstance(name, str):
        (tmp_path / "images" / name).mkdir(parents=True)
    assert repro(tmp_path).returncode != 0
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("stage", PER_CATEGORY)
def test_a_category_is_given_by_argument_or_option_and_once(stage: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("dataset: {categories: [metal]}\n")
    rest = ["--params", str(tmp_path / "params.yaml"), "--data", str(tmp_path / "data")]
    for given_as in (["wood"], ["--category", "wood"]):
        result = runner.invoke(app, [stage, *given_as, *rest])
        assert "'wood' is not in dataset.categories (metal)" in result.output
    for given_as in ([], ["metal", "--category", "metal"]):
        result = runner.invoke(app, [stage, *given_as, *rest])
        assert result.exit_code == 2
        assert "give one category" in result.output
