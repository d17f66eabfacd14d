"""`anomalyncd inventory`: one file instead of many, renewed by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.data_checks import check_data
from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.io.datasets import collect
from pipeline.io.inventory import INVENTORY, difference, images_at
from pipeline.io.paths import ArtifactError, ArtifactPaths
from tests.stages.test_manifest import put


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with 25 images of `gadget` in `images`, whose dataset.root is to be `listed`."""
    for i in range(25):
        put(tmp_path / f"images/gadget/line {i % 2}/ä{i}.png", i)
    (tmp_path / "params.yaml").write_text("dataset: {root: listed, categories: [gadget]}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["inventory", *arguments])
    return result.exit_code, result.output


def test_it_stands_for_the_images(project: Path) -> None:
    code, output = run("images")
    assert code == 0, output
    assert "25 files" in output
    assert "written" in output
    listed = project / "listed/gadget"
    assert [path.name for path in listed.iterdir()] == [INVENTORY]
    assert images_at("listed", "gadget") == project / "images/gadget"
    assert collect(listed) == collect(project / "images/gadget")


def test_the_same_images_are_the_same_bytes(project: Path) -> None:
    run("images")
    file = project / "listed/gadget" / INVENTORY
    before, time = file.read_bytes(), file.stat().st_mtime_ns
    assert "unchanged" in run()[1]
    assert file.stat().st_mtime_ns == time
    file.unlink()
    run("images")
    assert file.read_bytes() == before


def test_only_what_it_lists_is_used(project: Path) -> None:
    """New images come in with the next inventory; DVC sees that it has changed."""
    run("images")
    file = project / "listed/gadget" / INVENTORY
    before = file.read_bytes()
    put(project / "images/gadget/new.png", 99)
    (project / "images/gadget/line 0/ä0.png").unlink()
    dataset = collect(project / "listed/gadget")
    assert len(dataset.samples) == 24
    assert [(row.path, row.reason) for row in dataset.rejected] == [
        ("line 0/ä0.png", "no such file")
    ]
    assert difference(project / "listed/gadget") == (1, 1, 0)
    run()
    assert file.read_bytes() != before
    assert len(collect(project / "listed/gadget").samples) == 25


def params() -> Params:
    return parse_params({"dataset": {"root": "listed", "categories": ["gadget"]}})


def test_doctor_warns_of_an_old_one(project: Path) -> None:
    run("images")
    paths = ArtifactPaths(project / "data")
    _, lines = check_data(params(), paths, project)
    assert lines[0].state == "ok", lines[0]
    image = project / "images/gadget/line 1/ä1.png"
    os.utime(image, ns=(1, 1))
    put(project / "images/gadget/new.png", 99)
    _, lines = check_data(params(), paths, project)
    assert lines[0].state == "warning"
    assert "the inventory is old: 1 files are new, 0 gone, 1 changed since" in lines[0].finding
    assert "anomalyncd inventory" in str(lines[0].todo)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "listed/gadget has no inventory yet"),
        (("elsewhere",), "there is nothing at elsewhere/gadget"),
        (("images", "--to", "images"), "images holds the images themselves"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str, project: Path) -> None:
    code, output = run(*arguments)
    assert code == 1
    assert message in " ".join(output.split())


@pytest.mark.parametrize("content", [b"", b"no parquet"])
def test_a_damaged_one_is_one_line(content: bytes, project: Path) -> None:
    run("images")
    (project / "listed/gadget" / INVENTORY).write_bytes(content)
    with pytest.raises(ArtifactError, match=INVENTORY):
        collect(project / "listed/gadget")
    _, lines = check_data(params(), ArtifactPaths(project / "data"), project)
    assert lines[0].state == "error"


def test_names_of_every_kind(project: Path) -> None:
    """A name that is not UTF-8, a link to nothing and other files are rejected, not lost."""
    folder = project / "images/gadget"
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    (folder / "dead.png").symlink_to("nowhere")
    (folder / "notes.txt").write_text("x")
    code, output = run("images")
    assert code == 0, output
    here, there = collect(folder), collect(project / "listed/gadget")
    assert here.samples == there.samples
    assert [row.path for row in here.rejected] == [row.path for row in there.rejected]
