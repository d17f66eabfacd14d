"""What is exported is what was discovered: read again by other programs or by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.curation.corrections import corrections_path
from pipeline.curation.names import run_of
from pipeline.exports.discovered import read_discovered, region_masks
from pipeline.exports.folders import folder_names
from pipeline.io import schemas
from pipeline.io.arrays import ArraySpec, create_arrays, open_arrays
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import read_parquet, write_json
from pipeline.regions.crops import resize_mask
from tests.discovered_data import HEIGHT, PATHS, WIDTH, small_masks, write_discovered
from tests.exports.test_outlines import filled, unpacked


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    (tmp_path / "params.yaml").write_text(
        f"dataset: {{root: '{tmp_path / 'raw'}', categories: [c]}}\n"
    )
    return write_discovered(tmp_path)


def export(
    paths: ArtifactPaths, form: str, out: Path, *options: str, names: str = ""
) -> tuple[int, str]:
    root = paths.root.parent
    (root / "names.yaml").write_text(names)
    files = ["--names", str(root / "names.yaml")]
    if form == "fiftyone":
        files += ["--params", str(root / "params.yaml")]
    where = ["--data", str(paths.root), "--out", str(out), *files]
    result = CliRunner().invoke(app, ["export", form, "c", *where, *options])
    return result.exit_code, result.output


def sources() -> list[NDArray[np.bool_]]:
    """Return the mask of each defect in the order of the regions, made without the exports."""
    full = [resize_mask(mask, (HEIGHT, WIDTH)) for mask in small_masks()]
    low, high = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    low[:26], high[26:] = full[3][:26], full[3][26:]
    # The square of image 3's first region reaches into the other block, which is not its own.
    return [full[0], full[1], high, low]


@pytest.mark.parametrize("shape", ["polygon", "rle"])
def test_coco_through_pycocotools(paths: ArtifactPaths, tmp_path: Path, shape: str) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    out = tmp_path / "out" / "c.json"
    code, text = export(paths, "coco", out, "--shape", shape, names="c: {1: scratch}\n")
    assert (code, text) == (0, f"{out}: 4 images, 4 regions of 3 classes\n")
    read = coco.COCO(str(out))
    assert [image["file_name"] for image in read.loadImgs([1, 2, 3, 4])] == [
        f"c/{path}" for path in PATHS
    ]
    assert {n: of["name"] for n, of in read.cats.items()} == {
        1: "scratch",
        2: "class 2",
        3: "class 3",
    }
    annotations = read.loadAnns(sorted(read.anns))
    assert [(a["image_id"], a["category_id"]) for a in annotations] == [
        (1, 1),
        (2, 2),
        (4, 3),
        (4, 1),
    ]
    assert not read.getAnnIds(imgIds=[3])
    for annotation, mask in zip(annotations, sources(), strict=True):
        np.testing.assert_array_equal(read.annToMask(annotation), mask)
        x, y, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum()
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        assert mask[y].any()
        assert mask[y + height - 1].any()
        assert mask[:, x].any()
        assert mask[:, x + width - 1].any()
        assert annotation["score"] == pytest.approx(0.9)


def test_classes_of_one_name_are_one_category(paths: ArtifactPaths, tmp_path: Path) -> None:
    names = "c: {1: scratch, 3: scratch, 2: normal}\n"
    assert export(paths, "coco", tmp_path / "c.json", names=names)[0] == 0
    content = json.loads((tmp_path / "c.json").read_text())
    assert [(of["id"], of["name"]) for of in content["categories"]] == [(1, "scratch")]
    assert [a["category_id"] for a in content["annotations"]] == [1, 1, 1]


def test_corrections_are_exported(paths: ArtifactPaths, tmp_path: Path) -> None:
    path = paths.predict("c") / "regions.parquet"
    regions = read_parquet(path, schemas.REGIONS)
    first, second = regions.loc[regions["class"] > 0, "crop_id"][:2]
    rows = [{"crop_id": first, "name": "new kind"}, {"crop_id": second, "class": 0}]
    content = {"category": "c", "run": run_of(paths, "c"), "corrections": rows}
    write_json(corrections_path(paths, "c"), content)
    assert export(paths, "coco", tmp_path / "c.json")[0] == 0
    found = json.loads((tmp_path / "c.json").read_text())
    names = {of["id"]: of["name"] for of in found["categories"]}
    assert [names[a["category_id"]] for a in found["annotations"]] == [
        "new kind",
        "class 3",
        "class 1",
    ]


@pytest.mark.parametrize("link", [False, True])
def test_fiftyone_has_data_and_labels(paths: ArtifactPaths, tmp_path: Path, link: bool) -> None:
    out = tmp_path / "fo"
    code, text = export(paths, "fiftyone", out, *(["--link"] if link else []))
    assert (code, text) == (0, f"{out}: 4 images, 4 regions of 3 classes\n")
    assert {path.name for path in out.iterdir()} == {"data", "labels.json"}
    content = json.loads((out / "labels.json").read_text())
    for image in content["images"]:
        file = out / "data" / image["file_name"]
        assert file.is_symlink() == link
        with Image.open(file) as opened:
            assert opened.size == (image["width"], image["height"])
    (tmp_path / "raw" / "c" / "d.png").unlink()
    code, text = export(paths, "fiftyone", tmp_path / "fo2")
    assert code == 1
    assert "d.png is gone" in text
    assert not (tmp_path / "fo2").exists()


@pytest.mark.parametrize("shape", ["polygon", "rle"])
def test_label_studio_tasks_and_configuration(
    paths: ArtifactPaths, tmp_path: Path, shape: str
) -> None:
    out = tmp_path / "tasks.json"
    names = 'c: {1: "a \\"<b>\\" & c"}\n'
    code, text = export(paths, "label-studio", out, "--shape", shape, names=names)
    assert code == 0, text
    content = json.loads(out.read_text())
    assert [unquote(task["data"]["image"]) for task in content] == [
        f"/data/local-files/?d=c/{path}" for path in PATHS
    ]
    view = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    control, image = view[1], view[0]
    assert control.tag == {"polygon": "PolygonLabels", "rle": "BrushLabels"}[shape]
    assert image.get("value") == "$image"
    labels = {of.get("value") for of in control}
    assert labels == {'a "<b>" & c', "class 2", "class 3"}
    masks: dict[str, NDArray[np.bool_]] = {}
    for task in content:
        (prediction,) = task["predictions"]
        for result in prediction["result"]:
            kind, value = result["type"], result["value"]
            assert (result["from_name"], result["to_name"]) == (
                control.get("name"),
                image.get("name"),
            )
            assert kind == control.tag.lower()
            assert set(value[kind]) <= labels
            size = (result["original_height"], result["original_width"])
            crop = "-".join(result["id"].split("-")[:2])
            if shape == "rle":
                part = unpacked(value["rle"], size)[:, :, 3] > 0
            else:
                points = np.array(value["points"]) / 100 * [size[1], size[0]]
                part = filled([points.round().astype(np.int64)], size)
            masks[crop] = masks.get(crop, np.zeros(size, np.bool_)) | part
    for mask, expected in zip(masks.values(), sources(), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert "score" not in content[2]["predictions"][0]


def test_label_studio_takes_another_address(paths: ArtifactPaths, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    assert export(paths, "label-studio", out, "--images", "https://x/y/")[0] == 0
    assert json.loads(out.read_text())[1]["data"]["image"] == "https://x/y/c/line%201/b.png"
    code, text = export(paths, "label-studio", tmp_path / "t.xml")
    assert code == 1
    assert "ending .json" in text


def test_folders_hold_the_sub_images(paths: ArtifactPaths, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text = export(paths, "folders", out, names="c: {1: 'a/b', 2: 'a:b'}\n")
    assert (code, text) == (0, f"{out}: 5 crops in 4 folders\n")
    assert {path.name for path in out.iterdir()} == {
        "normal",
        "a_b",
        "a_b_2",
        "class_3",
        "regions.csv",
    }
    crops = np.asarray(open_arrays(paths.crops("c") / "crops.zarr")["images"])
    with (out / "regions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a/b", "a:b", "normal", "class 3", "a/b"]
    for row, expected in zip(rows, crops, strict=True):
        np.testing.assert_array_equal(np.array(Image.open(out / row["file"])), expected)


@pytest.mark.parametrize("name", ["CON", "..", "nul.txt", "a" * 300, "   ", "regions.csv", "Größe"])
def test_names_of_folders_are_safe(name: str) -> None:
    folders = folder_names({0: "normal", 1: name, 2: name.upper() + "."})
    assert len({folder.casefold() for folder in folders.values()}) == 3
    for folder in folders.values():
        assert 0 < len(folder) <= 70
        assert folder.strip(". ") == folder
        assert "/" not in folder
        assert folder.casefold() not in {"con", "nul.txt", "regions.csv"}


def test_nothing_is_overwritten(paths: ArtifactPaths, tmp_path: Path) -> None:
    out = tmp_path / "there.json"
    out.write_text("mine")
    for form in ("coco", "label-studio", "folders", "fiftyone"):
        code, text = export(paths, form, out)
        assert code == 1
        assert f"--out: {out} exists already" in text
    assert out.read_text() == "mine"


def test_what_cannot_be_exported_is_said(paths: ArtifactPaths, tmp_path: Path) -> None:
    for option in (("--images", "x"), ("--link",)):  # of other formats
        assert export(paths, "coco", tmp_path / "x.json", *option)[0] == 2
    code, text = export(paths, "coco", tmp_path / "x.json", names="c: {run: '0', 1: scratch}\n")
    assert code == 1
    assert "earlier run" in text
    spec = {"masks": ArraySpec((4, 32, 32), "bool")}
    with create_arrays(paths.mebin("c") / "masks.zarr", spec) as arrays:
        arrays["masks"][:] = ~small_masks()
    code, text = export(paths, "coco", tmp_path / "x.json")
    assert code == 1
    assert "was cut from another mask; run `dvc repro`" in text
    assert not (tmp_path / "x.json").exists()
    (paths.predict("c") / "regions.parquet").unlink()
    code, text = export(paths, "coco", tmp_path / "x.json")
    assert code == 1
    assert "no run of 'c'" in text
    assert "run `dvc repro` first" in text


def test_parts_go_to_one_square(paths: ArtifactPaths) -> None:
    found = read_discovered("c", paths, Path("none"))
    mask = resize_mask(small_masks()[3], (HEIGHT, WIDTH))
    squares = [region.square for region in found.images[3].regions]
    inside = [np.zeros_like(mask), np.zeros_like(mask)]
    for (x0, y0, side), own in zip(squares, inside, strict=True):
        own[y0 : y0 + side, x0 : x0 + side] = mask[y0 : y0 + side, x0 : x0 + side]
    assert (inside[0] & inside[1]).any(), "the squares must overlap on the mask"
    first, second = region_masks(mask, squares)
    assert not (first & second).any()
    np.testing.assert_array_equal(first | second, mask)
