"""Errors that a user can mend are one line with the file or key; bugs keep their traceback."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands import checks
from pipeline.commands.data_checks import check_data
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import read_corrections
from pipeline.curation.names import read_names
from pipeline.detectors.base import References, Scores
from pipeline.detectors.normalise import value_range
from pipeline.errors import AnomalyNCDError
from pipeline.inference.map_artifacts import write_maps
from pipeline.io.arrays import ArraySpec, create_arrays, open_arrays
from pipeline.io.backbone_weights import load_backbone
from pipeline.io.images import ImageError, read_image
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.pypi_backbone import WeightsError
from pipeline.io.tables import read_json, read_metadata
from stages import manifest
from tests.commands.test_init import images
from tests.graph import ROOT

VIT = "test_vit.r160_in1k"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text("dataset: {root: photos, categories: [bolts]}\n")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "data/raw/base").mkdir(parents=True)
    images(tmp_path / "photos/bolts", "0.png", "1.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> str:
    """Return the one line of a command that fails."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.output.count("\n") == 1, result.output
    return result.output


def test_all_errors_have_one_base_and_are_no_value_errors() -> None:
    found = set()
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        module = importlib.import_module(name.removesuffix(".__init__"))
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__ == module.__name__:
                assert issubclass(kind, AnomalyNCDError), kind
                assert not issubclass(kind, ValueError | OSError), kind
                found.add(kind.__name__)
    assert {"ConfigError", "ArtifactError", "DatasetError", "ImageError", "WeightsError"} <= found


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(manifest, "run", broken)


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug"), TypeError("bug")])
def test_a_bug_keeps_its_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail(monkeypatch, error)
    assert CliRunner().invoke(app, ["manifest", "bolts"]).exception is error


def test_a_bug_of_a_command_keeps_its_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = ValueError("bug")

    def broken(*_: object) -> None:
        raise bug

    monkeypatch.setattr("pipeline.commands.preset.preset_options", broken)
    assert CliRunner().invoke(app, ["preset", "params.yaml"]).exception is bug


@pytest.mark.parametrize("error", [ArtifactError("why"), OSError(28, "why"), ConfigError("why")])
def test_debug_shows_the_traceback_of_what_is_one_line_otherwise(
    project: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail(monkeypatch, error)
    assert "why" in run("manifest", "bolts")
    result = CliRunner().invoke(app, ["--debug", "manifest", "bolts"])
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.output
    assert result.output.splitlines()[-1].startswith("anomalyncd manifest: ")


def test_debug_is_seen_by_other_commands(project: Path) -> None:
    result = CliRunner().invoke(app, ["--debug", "preset", "nowhere.yaml"])
    assert "Traceback (most recent call last)" in result.output


# Encodings


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named(project: Path, encoding: str) -> None:
    yaml, json = project / "names.yaml", project / "some.json"
    yaml.write_bytes("bolts: {1: Kratzer größer}\n".encode(encoding))
    json.write_bytes('{"a": "größer"}'.encode(encoding))
    for path, read, error in (
        (yaml, read_names, ConfigError),
        (json, read_corrections, ConfigError),
        (json, read_json, ArtifactError),
    ):
        with pytest.raises(error, match=rf"{path.name}: not UTF-8 text: save as UTF-8"):
            read(path)


# Damaged files


def test_a_table_that_is_none_is_named(project: Path) -> None:
    path = project / "images.parquet"
    for content in (b"", b"nonsense"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"images\.parquet: not a readable Parquet file"):
            read_metadata(path)


@pytest.mark.parametrize("keep", [0.5, 0.0], ids=["cut", "scribbled"])
def test_a_damaged_shard_is_named(project: Path, keep: float) -> None:
    values = np.random.default_rng(0).random((3, 8, 8), np.float32)
    with create_arrays(project / "maps.zarr", {"maps": ArraySpec((3, 8, 8), "float32")}) as arrays:
        arrays["maps"][:] = values
    group = open_arrays(project / "maps.zarr")
    assert (np.asarray(group["maps"]) == values).all()
    (shard,) = (file for file in (project / "maps.zarr/maps/c").rglob("*") if file.is_file())
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content))] or bytes(len(content)))
    for read in (lambda: group["maps"][1], lambda: np.asarray(group["maps"])):
        with pytest.raises(ArtifactError, match=rf"{project}/maps\.zarr/maps: damaged"):
            read()


def test_deep_json_is_named(project: Path) -> None:
    path = project / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match=r"deep\.json: not valid JSON"):
        read_json(path)


def test_maps_that_are_nan_say_what_to_try(project: Path) -> None:
    raw = np.full((1, 4, 4), np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN"):
        value_range(raw)
    with pytest.raises(ArtifactError, match=r"bolts: .*NaN.*compute\.dtype float32"):
        write_maps(
            project / "maps",
            ["a"],
            Scores(raw),
            References(),
            map_size=4,
            category="bolts",
            method="own",
            params={},
        )


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
def test_empty_weights_are_called_empty(project: Path, suffix: str) -> None:
    path = project / f"w.{suffix}"
    path.touch()
    with pytest.raises(WeightsError, match=rf"w\.{suffix} is empty: copy or download it again"):
        load_backbone("file", VIT, path)


class Foreign:
    """Any object that is no tensor."""


def test_refused_weights_carry_no_advice_to_run_their_code(project: Path) -> None:
    path = project / "w.pth"
    for save in (torch.save, lambda content, to: to.write_bytes(pickle.dumps(content, 2))):
        save({"a": Foreign()}, path)
        with pytest.raises(WeightsError, match="no plain state dict") as caught:
            load_backbone("file", VIT, path)
        text = str(caught.value)
        assert "Only tensors are read" in text
        assert caught.value.__suppress_context__  # --debug does not show torch's text either
        for advice in ("weights_only", "trust", "two options"):
            assert advice not in text


# Folders


def test_relative_folders_are_shown_as_they_were_looked_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    line = run("manifest", "bolts", "--params", "../params.yaml", "--data", "../data")
    assert f"{elsewhere}/photos/bolts is not a folder" in line
    with pytest.raises(ImageError) as caught:
        read_image(Path("photos/bolts/0.png"))
    assert str(caught.value) == f"{elsewhere}/photos/bolts/0.png: no such file"
    with pytest.raises(WeightsError, match=f"{elsewhere}/w.pth is not a file"):
        load_backbone("file", VIT, Path("w.pth"))


def test_doctor_warns_of_images_in_the_folder_of_the_demo(project: Path) -> None:
    def subjects(root: str, category: str) -> dict[str, checks.Line]:
        params = parse_params({"dataset": {"root": root, "categories": [category]}})
        return {
            line.subject: line for line in check_data(params, ArtifactPaths(project), project)[1]
        }

    images(project / "data/raw/demo/bolts", "0.png")
    for root in ("data/raw/demo", "data/raw/../raw/demo", str(project / "data/raw/demo")):
        line = subjects(root, "bolts")["dataset.root"]
        assert line.state == "warning"
        assert "has no bolts" in line.finding
        assert "keep your images outside data/raw/demo" in line.todo
    assert "dataset.root" not in subjects("data/raw/demo", "metal")
    assert "dataset.root" not in subjects("photos", "bolts")
    assert subjects("data/raw/demo", "nuts")["images nuts"].state == "error"


# Arguments


@pytest.mark.parametrize("number", ["1", "0", "-3", "1001"])
def test_an_impossible_number_of_classes_is_named(project: Path, number: str) -> None:
    line = run("init", "photos", "--classes", number)
    assert f"--classes: give 2 to 1000, not {number}" in line


@pytest.mark.parametrize("category", ["a/../bolts", "..", "", "a\\b"])
def test_a_category_that_is_a_path_is_named(project: Path, category: str) -> None:
    for folder in ("a", "bolts"):
        (project / "data/predict" / folder).mkdir(parents=True)
        (project / "data/predict" / folder / "regions.parquet").touch()
    line = run("classify", "photos", "--category", category, "--out", "x.parquet")
    assert f"{category!r} is not the name of a category" in line
    assert not (project / "x.parquet").exists()


# DVC


def dvc(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def status_of(project: Path, monkeypatch: pytest.MonkeyPatch) -> checks.Line:
    """Return what doctor says of DVC, by the real `dvc`."""
    monkeypatch.setattr(checks, "_run", lambda folder, _, *rest: dvc(folder, *rest))
    return checks._dvc_status(project)


@pytest.mark.parametrize("content", ["", '{"read": {', "[]"], ids=["empty", "cut", "other"])
def test_a_lock_that_a_killed_dvc_left_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    dvc(project, "init", "--no-scm", "--quiet")
    (project / "dvc.yaml").write_text("stages: {a: {cmd: 'true', deps: [params.yaml]}}\n")
    lock = project / ".dvc/tmp/rwlock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(content)
    line = status_of(project, monkeypatch)
    assert line.state == "error"
    assert ".dvc/tmp/rwlock is damaged" in line.finding
    assert line.todo == "if no other `dvc` is running here: rm .dvc/tmp/rwlock"
    lock.unlink()
    assert status_of(project, monkeypatch).state == "ok"


def test_another_dvc_is_no_damage(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "ERROR: Unable to acquire lock. Most likely another DVC process is running"
    done = subprocess.CompletedProcess[str]([], 255, "", said)
    monkeypatch.setattr(checks, "_run", lambda *_: done)
    line = checks._dvc_status(project)
    assert line.state == "warning"
    assert "another DVC process" in line.finding
