"""`anomalyncd doctor` sees what is wrong, says what to do, and uses no network."""

from __future__ import annotations

import shutil
import socket
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands import checks, data_checks
from pipeline.config.params import Params
from pipeline.config.reading import load_params
from pipeline.io.backbone_weights import load_backbone, save
from pipeline.io.paths import ArtifactPaths
from stages import manifest
from tests.commands.test_init import images
from tests.graph import ROOT
from tests.running import run_stage

TINY = {
    "backbone": "{source: random, name: test_vit.r160_in1k}",
    "maps": "{runs: [[3, 1]], layers: [3, 5]}",
    "predict": "{layers: [4, 5]}",
    "views": "{mask_layers: 6}",
}
"""A model with six blocks, and patches of 16 pixels."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / ".dvc").mkdir()
    (folder / "data/raw/base").mkdir(parents=True)
    images(folder / "photos/bolts", *(f"{i}.png" for i in range(25)))
    write(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(checks, "_run", lambda *_: None)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("doctor must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    return folder


def write(folder: Path, **sections: str) -> None:
    lines = {"dataset": "{root: photos, categories: [bolts]}", **sections}
    (folder / "params.yaml").write_text("".join(f"{k}: {v}\n" for k, v in lines.items()))


def doctor() -> tuple[int, dict[str, str], str]:
    """Return exit status, what was said of each subject (with its state), and the whole text."""
    result = CliRunner().invoke(app, ["doctor"])
    said = {line[9:25].strip(): line for line in result.output.splitlines() if line[:1] != " "}
    return result.exit_code, said, result.output


def test_all_is_well(project: Path) -> None:
    write(project, **TINY)
    save(
        ArtifactPaths(Path("data")).backbone(),
        *load_backbone("random", "test_vit.r160_in1k", Path()),
    )
    code, said, text = doctor()
    assert code == 0, text
    assert "0 errors" in text
    assert said["images bolts"].startswith("ok")
    assert "25 images, 0 references" in said["images bolts"]
    assert said["weights"].startswith("ok")
    assert "6 blocks, patches of 16 pixels" in said["backbone"]
    assert said["disk"].startswith("ok")


def test_precomputed_maps_are_those_of_the_manifest(project: Path) -> None:
    write(project, maps="{method: precomputed}")
    (project / "data/raw/maps").mkdir()
    (project / "photos/bolts/broken.png").write_text("no image")
    assert doctor()[1]["images bolts"].startswith("ok")  # nobody knows yet which need one
    run_stage(manifest, "bolts", load_params(), ArtifactPaths(Path("data")))
    for i in range(24):
        np.save(project / f"data/raw/maps/{i}.npy", np.zeros((4, 4), np.float32))
    code, said, _ = doctor()
    assert code == 1
    assert "1 images without a map: 24.png" in said["images bolts"]
    np.save(project / "data/raw/maps/24.npy", np.zeros((4, 4), np.float32))
    assert doctor()[1]["images bolts"].startswith("ok")


@pytest.mark.parametrize(
    ("sections", "subject", "message"),
    [
        ({"mebin": "{tua: 3}"}, "params", "mebin.tua: unknown key"),
        ({"classes": "{count: {nuts: 3}}"}, "params", "no entry for the category 'bolts'"),
        ({"compute": "{device: quantum}"}, "device", "'quantum' cannot be used here"),
        ({"backbone": "{source: file, path: w.pth}"}, "weights", "w.pth is not a file"),
        ({"backbone": "{name: vit_of_mine}"}, "weights", "not a timm model"),
        ({"maps": "{backbone: {name: vit_of_mine}}"}, "maps.weights", "not a timm model"),
        ({"maps": "{backbone: {name: resnet18.a1_in1k}}"}, "backbone", "maps.backbone.name: resne"),
        ({"backbone": "{name: resnet18.a1_in1k}"}, "backbone", "backbone.name: resnet18"),
        ({"views": "{image_size: 215}"}, "backbone", "views.image_size: 215 is no multiple"),
        ({"maps": "{layers: [5, 12]}"}, "backbone", "maps.layers: [5, 12]"),
        ({"dataset": "{root: photos, categories: [nuts]}"}, "images nuts", "is not a folder"),
        ({"maps": "{runs: [[12, 1]]}"}, "backbone", "maps.runs: [12]"),
        ({"maps": "{method: patchcore}"}, "images bolts", "needs normal references"),
        ({"maps": "{method: nearest}"}, "images bolts", "needs normal references"),
        ({"maps": "{method: ground_truth}"}, "images bolts", "finds no mask"),
        ({"maps": "{method: precomputed}"}, "images bolts", "maps.precomputed_root"),
        ({"base": "{root: nowhere}"}, "base set", "is not a folder"),
    ],
)
def test_what_is_wrong_is_an_error(
    project: Path, sections: dict[str, str], subject: str, message: str
) -> None:
    write(project, **sections)
    code, said, text = doctor()
    assert code == 1
    assert said[subject].startswith("error")
    assert message in said[subject]
    after = text[text.index(said[subject]) :].splitlines()[1]
    assert after.strip().startswith("->")


def test_what_is_doubtful_is_a_warning(project: Path) -> None:
    for file in sorted((project / "photos/bolts").iterdir())[3:]:
        file.unlink()
    images(project / "data/raw/base", "1.png")
    code, said, _ = doctor()
    assert code == 0
    for subject in ("images bolts", "weights", "base set", "git"):
        assert said[subject].startswith("warning"), said[subject]


def test_a_full_disk_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    new = data_checks.array_bytes(Params(), 25)
    assert new == 2 * 25 * (5 * Params().maps.map_size ** 2 + 4 * Params().crops.size ** 2)
    old = project / "data/maps/other/maps.zarr/shard"
    old.parent.mkdir(parents=True)
    old.write_bytes(bytes(1000))
    for free, state in ((new - 1, "error"), (new + 999, "warning"), (new + 1000, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(0, 0, free))
        assert doctor()[1]["disk"].startswith(state)


def test_missing_packages_and_programs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=99", "surely-not-there", "ruff>=0.6; extra == 'test'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: wanted)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    code, said, text = doctor()
    assert code == 1
    assert "numpy is" in said["packages"]
    assert "surely-not-there is missing" in said["packages"]
    assert "ruff" not in said["packages"]
    assert "dvc is not on the PATH" in text


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, _ = doctor()
    assert code == 1
    assert said["params"].startswith("error")
    assert said["dvc"].startswith("error")


def test_names_of_views_suggest_parts_and_nothing_applies_them(project: Path) -> None:
    views = [f"{i:03d}_{view}.png" for i in range(4) for view in ("top", "left", "back")]
    shutil.rmtree(project / "photos")
    images(project / "photos/bolts", *views)
    before = (project / "params.yaml").read_text()
    _, said, text = doctor()
    assert said["parts bolts"].startswith("ok")
    assert "4 parts of 3.0 images each (000_back.png, 000_left.png" in said["parts bolts"]
    rule = text.split("manifest.part: '")[1].split("'")[0]
    assert (project / "params.yaml").read_text() == before
    write(project, manifest=f"{{part: '{rule}'}}")
    assert "4 parts of 12 images by manifest.part" in doctor()[1]["parts bolts"]


def test_parts_that_cannot_be_are_named(project: Path) -> None:
    assert "parts bolts" not in doctor()[1]
    write(project, manifest="{part: nothing_like_it}")
    assert doctor()[1]["parts bolts"].startswith("warning")
    write(project, manifest="{part: parts.csv}")
    assert doctor()[1]["parts bolts"].startswith("error")
    (project / "photos/bolts/parts.csv").write_text("path,part\n1.png,a\n2.png,a\n")
    _, said, _ = doctor()
    assert said["parts bolts"].startswith("ok")
    assert "24 parts of 25 images" in said["parts bolts"]
