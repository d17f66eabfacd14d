"""`anomalyncd init` writes params.yaml for the folders that there are, and nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.params import Params
from pipeline.config.reading import load_params
from pipeline.io.schemas import REGIONS
from pipeline.io.tables import read_parquet
from tests.graph import ROOT
from tests.stages.test_end_to_end import COPIED, Project, write_images


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / "data/raw/normal").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def images(folder: Path, *names: str, size: tuple[int, int] = (20, 10)) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(map(ord, str(file))) + len(list(file.parent.iterdir()))
        pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


def init(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["init", *arguments])
    return result.exit_code, result.output


def changed_lines() -> list[str]:
    before = (ROOT / "params.yaml").read_text().splitlines()
    after = Path("params.yaml").read_text().splitlines()
    assert len(before) == len(after)
    return [new.strip() for old, new in zip(before, after, strict=True) if old != new]


def test_a_flat_folder_anywhere(project: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "my photos" / "bolts", "1.png", "2.png", "x/3.png")
    images(folder, "4.png", size=(30, 10))
    (folder / "notes.txt").write_text("no image")
    (folder / "5.png").write_text("no image either")
    code, text = init(str(folder), "--classes", "4")
    assert code == 0, text
    assert "bolts: 4 images (layout folder), 20-30 x 10-10 pixels, 3 of them 20 x 10" in text
    assert "files skipped: 2" in text
    assert "notes.txt" in text
    assert "dvc repro" in text
    root = f"{tmp_path / 'my photos'}"
    assert [line.split("#")[0].strip() for line in changed_lines()] == [
        f"root: {root}",
        "categories: [bolts]",
        "layout: folder",
        "count: 4",
    ]
    assert all("#" in line for line in changed_lines() if "categories" not in line)
    params = load_params()
    assert params.dataset.root == root
    assert params.classes.count == 4
    assert params.model_copy(
        update={n: getattr(Params(), n) for n in ("dataset", "manifest", "classes")}
    ) == (Params())


def test_paths_inside_the_project_are_relative(project: Path) -> None:
    images(project / "data/raw/mine/nuts", "1.png")
    assert init("data/raw/mine/nuts")[0] == 0
    assert load_params().dataset.root == "data/raw/mine"
    assert init(str(project / "data/raw/mine/nuts"))[0] == 0
    assert load_params().dataset.root == "data/raw/mine"
    assert not list(project.glob("params.yaml.old*"))


@pytest.mark.parametrize(
    ("files", "layout", "found"),
    [
        (("train/good/1.png", "test/hole/2.png", "test/good/3.png"), "mvtec", "mvtec"),
        (("MT_Free/Imgs/1.jpg", "MT_Blowhole/Imgs/2.jpg"), "mtd", "mtd"),
        (("images/hole/1.png", "images/good/2.png", "masks/hole/1.png"), "auto", "class_folders"),
        (("monday/1.png", "tuesday/2.png"), "folder", "folder"),
    ],
)
def test_every_layout_is_found(
    project: Path, tmp_path: Path, files: tuple[str, ...], layout: str, found: str
) -> None:
    folder = images(tmp_path / "set" / "p", *files)
    code, text = init(str(folder))
    assert code == 0, text
    assert f"(layout {found})" in text
    params = load_params()
    assert params.manifest.layout == layout
    assert (params.dataset.root, params.dataset.categories) == (str(folder.parent), ["p"])


def test_a_folder_of_categories(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("bottle", "cable"):
        images(root / name, "train/good/1.png", "test/hole/2.png", "test/good/3.png")
    (root / "licence").mkdir()
    code, text = init(str(root))
    assert code == 0, text
    assert "folders skipped: licence" in text
    assert load_params().dataset.categories == ["bottle", "cable"]
    assert init(str(root), "--category", "cable")[0] == 0
    assert load_params().dataset.categories == ["cable"]
    code, text = init(str(root), "--category", "screw")
    assert (code, "'screw' is none of bottle, cable" in text) == (1, True)


def test_another_name_is_a_link(project: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "a@b", "1.png")
    code, text = init(str(folder))
    assert (code, "give another with --category" in text) == (1, True)
    assert load_params() == Params()
    assert init(str(folder), "--category", "nuts")[0] == 0
    params = load_params()
    assert params.dataset.root == "data/raw/linked"
    link = Path(params.dataset.root) / "nuts"
    assert link.is_symlink()
    assert (link / "1.png").is_file()
    assert init(str(folder), "--category", "nuts")[0] == 0


def test_references_of_one_category(project: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "set" / "bolts", "1.png", "2.png")
    normals = images(tmp_path / "fine", "1.png", "deep/2.png")
    for _ in range(2):  # again is no problem
        code, text = init(str(folder), "--normal", str(normals))
        assert code == 0, text
        assert "normal references: 2" in text
    target = project / "data/raw/normal/bolts"
    assert {p.relative_to(target).as_posix() for p in target.rglob("*.png")} == {
        "1.png",
        "deep/2.png",
    }
    images(target, "added.png")
    code, text = init(str(folder), "--normal", str(normals))
    assert (code, "holds other files" in text) == (1, True)
    assert (target / "added.png").exists()
    code, text = init(str(folder), "--normal", str(target))
    assert code == 0, text
    assert "normal references: 3" in text


@pytest.mark.parametrize("count", [9, 10])
def test_references_leave_the_detector_to_the_stage(
    project: Path, tmp_path: Path, count: int
) -> None:
    folder = images(tmp_path / "set" / "bolts", "1.png", "2.png")
    normals = images(tmp_path / "fine", *(f"{k}.png" for k in range(count)))
    code, text = init(str(folder), "--normal", str(normals))
    assert code == 0, text
    assert load_params().maps.method == "auto"


def test_references_of_several_categories(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a", "b"):
        images(root / name, "test/hole/2.png")
    fine = images(tmp_path / "fine", "a/1.png")
    assert init(str(root), "--normal", str(fine))[0] == 0
    assert load_params().manifest.normal_root == str(fine)
    other = images(tmp_path / "other", "1.png")
    code, text = init(str(root), "--normal", str(other))
    assert (code, "has no folder for any of the categories a, b" in text) == (1, True)


def test_base_set(project: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "bolts", "1.png")
    base = images(tmp_path / "base", "images/hole/1.png")
    code, text = init(str(folder), "--base", str(base))
    assert (code, "holds no labelled defect with a mask" in text) == (1, True)
    (base / "masks/hole").mkdir(parents=True)
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 2:5] = 255
    Image.fromarray(mask).save(base / "masks/hole/1.png")
    code, text = init(str(folder), "--base", str(base))
    assert code == 0, text
    assert "base: 1 masked defects of 1 classes (layout class_folders)" in text
    assert load_params().base.root == str(base)


@pytest.mark.parametrize("kind", ["missing", "empty", "inside"])
def test_what_cannot_be_used_is_said(project: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "bolts"
    if kind == "missing":
        arguments, message = [str(folder)], "is not a folder"
    elif kind == "empty":
        folder.mkdir()
        arguments, message = [str(folder)], "holds no image file"
    else:
        images(folder, "1.png", "fine/2.png")
        arguments, message = [str(folder), "--normal", str(folder / "fine")], "lies inside"
    code, text = init(*arguments)
    assert code == 1
    assert message in text
    assert len(text.splitlines()) == 1
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_a_changed_file_is_not_lost(project: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "bolts", "1.png")
    mine = (ROOT / "params.yaml").read_text().replace("tau: 4 ", "tau: 3 ")
    Path("params.yaml").write_text(mine)
    for number, arguments in enumerate((["--classes", "3"], ["--classes", "4"])):
        code, text = init(str(folder), *arguments)
        assert code == 0, text
        old = Path("params.yaml.old" + ("2" if number else ""))
        assert old.exists()
        assert load_params().mebin.tau == 3
    assert Path("params.yaml.old").read_text() == mine


def test_class_numbers_of_other_categories_are_replaced(project: Path, tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("classes: 5 ", "classes: {metal: 3, fabric: 4} "))
    folder = images(tmp_path / "bolts", "1.png")
    code, said = init(str(folder))
    assert code == 0, said
    assert load_params().classes.count == "auto"


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "bolts", "1.png")
    code, text = init("bolts")
    assert (code, "there is no dvc.yaml beside params.yaml" in text) == (1, True)


@pytest.mark.slow
def test_init_then_repro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "project"
    for name in COPIED:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    for name in ("base", "maps", "normal", "weights"):
        shutil.copytree(ROOT / "data/raw" / name, root / "data/raw" / name)
    made = Project(root)
    made.set_params(
        demo={"good": 1, "per_defect": 1, "normals": 1},
        backbone={"source": "random", "name": "test_vit.r160_in1k"},
        maps={"runs": [[3, 1]], "layers": [1, 3], "resolution": 64, "map_size": 64},
        mebin={"erode_px": 2},
        views={"image_size": 64, "mask_layers": 6, "count": 2},
        train={"epochs": 1, "batch": 8},
        compute={"device": "cpu"},
        predict={"layers": [3]},
    )
    made.run("git", "init", "-q")
    made.run("dvc", "init", "-q")
    made.run("git", "add", "-A")
    made.run("git", "commit", "-q", "-m", "start")
    write_images(tmp_path / "source")
    flat, fine = tmp_path / "elsewhere" / "my bolts", tmp_path / "fine"
    flat.mkdir(parents=True)
    for i, path in enumerate(sorted((tmp_path / "source/test").rglob("0*.png"))):
        shutil.copy(path, flat / f"{i}.png")
    shutil.copytree(tmp_path / "source/train/good", fine)
    made.run("anomalyncd", "init", str(flat), "--normal", str(fine), "--classes", "3")
    assert "0 errors" in made.run("anomalyncd", "doctor")
    made.run("dvc", "repro")
    regions = read_parquet(root / "data/predict/my bolts/regions.parquet", REGIONS)
    assert len(regions) >= 10
    assert len(regions["probabilities"].iloc[0]) == 3
    assert (root / "data/report/index.html").is_file()
    monkeypatch.chdir(root)
    for form, out in (("coco", "c.json"), ("folders", "f"), ("fiftyone", "fo"), ("model", "m.pt")):
        result = CliRunner().invoke(app, ["export", form, "my bolts", "--out", out])
        assert result.exit_code == 0, result.output
        assert (root / out).exists()
    assert "everything is up to date" in made.run("anomalyncd", "doctor")
