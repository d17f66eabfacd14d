"""Layouts, and what becomes of every file in them."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.io.dataset_formats import NORMAL_LIST, DatasetError, detect_layout, scan_folder
from pipeline.io.datasets import Dataset, collect

SIZE = (12, 16)


def put(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    """Save a small image whose bytes depend on the seed alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG" if path.suffix == ".png" else None)
    return path


def put_mask(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[2:5, 3:9] = 255
    Image.fromarray(mask).save(path)
    return path


def rows(dataset: Dataset) -> dict[str, tuple[str, str | None, str | None]]:
    return {s.path: (s.split, s.label, s.mask) for s in dataset.samples}


def reasons(dataset: Dataset) -> dict[str, str]:
    return {row.path: row.sentence() for row in dataset.rejected}


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "a product"
    for i in range(3):
        put(root / f"train/good/{i:03}.png", i)
    for i in range(2):
        put(root / f"test/good/{i:03}.png", 10 + i)
        put(root / f"test/scratch/{i:03}.png", 20 + i)
        put_mask(root / f"ground_truth/scratch/{i:03}_mask.png")
    put(root / "test/combined/000.png", 30)
    put_mask(root / "ground_truth/combined/000_mask.png")
    return root


@pytest.fixture
def mtd(tmp_path: Path) -> Path:
    root = tmp_path / "mtd"
    for i in range(4):
        put(root / f"MT_Free/Imgs/free {i}.jpg", i)
        put_mask(root / f"MT_Free/Imgs/free {i}.png")
    for i in range(2):
        put(root / f"MT_Crack/Imgs/crack{i}.jpg", 10 + i)
        put_mask(root / f"MT_Crack/Imgs/crack{i}.png")
    (root / NORMAL_LIST).write_text("free 0.jpg\r\nMT_Free/Imgs/free 2.jpg\n\n")
    return root


def test_mvtec(mvtec: Path) -> None:
    (mvtec / "license.txt").write_text("terms")
    dataset = collect(mvtec)
    mask = "ground_truth/scratch/{}_mask.png"
    assert dataset.layout == "mvtec"
    assert rows(dataset) == {
        **{f"train/good/{i:03}.png": ("normal", "good", None) for i in range(3)},
        **{f"test/good/{i:03}.png": ("query", "good", None) for i in range(2)},
        "test/scratch/000.png": ("query", "scratch", mask.format("000")),
        "test/scratch/001.png": ("query", "scratch", mask.format("001")),
    }
    assert reasons(dataset).keys() == {"license.txt", "test/combined/000.png"}
    assert "exclude_labels" in reasons(dataset)["test/combined/000.png"]


def test_combined_can_be_kept(mvtec: Path) -> None:
    dataset = collect(mvtec, exclude_labels=[])
    assert rows(dataset)["test/combined/000.png"] == (
        "query",
        "combined",
        "ground_truth/combined/000_mask.png",
    )


def test_mvtec_training_folder_of_another_label_is_rejected(mvtec: Path) -> None:
    put(mvtec / "train/scratch/000.png", 99)
    put(mvtec / "validation/good/000.png", 98)
    dataset = collect(mvtec)
    assert "normal_label" in reasons(dataset)["train/scratch/000.png"]
    assert "outside" in reasons(dataset)["validation/good/000.png"]


def test_normal_label_is_a_parameter(mvtec: Path) -> None:
    (mvtec / "train/good").rename(mvtec / "train/ok")
    assert not collect(mvtec).split("normal")
    assert len(collect(mvtec, normal_label=["ok"]).split("normal")) == 3


def test_mtd_with_its_list(mtd: Path) -> None:
    dataset = collect(mtd)
    assert dataset.layout == "mtd"
    splits = {path: split for path, (split, _, _) in rows(dataset).items()}
    assert splits == {
        "MT_Free/Imgs/free 0.jpg": "normal",
        "MT_Free/Imgs/free 1.jpg": "query",
        "MT_Free/Imgs/free 2.jpg": "normal",
        "MT_Free/Imgs/free 3.jpg": "query",
        "MT_Crack/Imgs/crack0.jpg": "query",
        "MT_Crack/Imgs/crack1.jpg": "query",
    }
    assert rows(dataset)["MT_Crack/Imgs/crack1.jpg"][1:] == (
        "MT_Crack",
        "MT_Crack/Imgs/crack1.png",
    )
    assert dataset.rejected == ()


def test_mtd_without_a_list_is_all_queries(mtd: Path) -> None:
    (mtd / NORMAL_LIST).unlink()
    assert len(collect(mtd).split("query")) == 6
    with pytest.raises(DatasetError, match=r"normal_list.*mine\.txt"):
        collect(mtd, normal_list="mine.txt")


def test_list_entries_that_do_not_fit(mtd: Path) -> None:
    (mtd / NORMAL_LIST).write_text("free 0.jpg\ngone.jpg\n", encoding="utf-8-sig")
    dataset = collect(mtd)
    assert reasons(dataset) == {"gone.jpg": f"listed in {NORMAL_LIST}, but there is no such image"}
    assert [s.path for s in dataset.split("normal")] == ["MT_Free/Imgs/free 0.jpg"]
    (mtd / NORMAL_LIST).write_text("crack0.jpg\n")
    with pytest.raises(DatasetError, match=r"crack0\.jpg.*MT_Crack.*normal_label"):
        collect(mtd)


def test_class_folders(tmp_path: Path) -> None:
    for i, label in enumerate(("hole", "stain")):
        put(tmp_path / f"images/{label}/1.2.jpg", i)
        put_mask(tmp_path / f"masks/{label}/1.2.png")
    dataset = collect(tmp_path)
    assert dataset.layout == "class_folders"
    assert rows(dataset) == {
        f"images/{label}/1.2.jpg": ("query", label, f"masks/{label}/1.2.png")
        for label in ("hole", "stain")
    }


@pytest.mark.parametrize("folders", [("",), ("one/two", "good", "scratch", "three ü/4")])
def test_a_plain_folder_has_no_labels(tmp_path: Path, folders: tuple[str, ...]) -> None:
    paths = {
        put(tmp_path / folder / f"{i} {j}.png", 10 * i + j).relative_to(tmp_path).as_posix()
        for i, folder in enumerate(folders)
        for j in range(3)
    }
    dataset = collect(tmp_path)
    assert dataset.layout == "folder"
    assert rows(dataset) == {path: ("query", None, None) for path in paths}


def test_references_of_a_plain_folder(tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    put(root / "a.png", 0)
    put(root / "reference/b.png", 1)
    put(tmp_path / "elsewhere/c.png", 2)
    (tmp_path / "elsewhere/notes.txt").write_text("x")
    inside = collect(root, normal_root=root / "reference")
    assert rows(inside) == {
        "a.png": ("query", None, None),
        "reference/b.png": ("normal", None, None),
    }
    link = tmp_path / "far/away"
    link.parent.mkdir()
    link.symlink_to(root, target_is_directory=True)
    for place in (root, link):
        outside = collect(place, normal_root=tmp_path / "elsewhere")
        assert all((place / sample.path).is_file() for sample in outside.samples)
        assert rows(outside)["../elsewhere/c.png"] == ("normal", None, None)
        assert len(outside.split("query")) == 2
        assert "../elsewhere/notes.txt" in reasons(outside)
    (root / NORMAL_LIST).write_text("reference/b.png\n")
    assert len(collect(root).split("normal")) == 1
    with pytest.raises(DatasetError, match=r"normal_root.*nowhere"):
        collect(root, normal_root=tmp_path / "nowhere")


def test_broken_files_are_rejected_with_their_reason(mvtec: Path) -> None:
    folder = mvtec / "test/scratch"
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / ".hidden.png").write_bytes(whole)
    dataset = collect(mvtec)
    found = {
        path.removeprefix("test/scratch/"): reason
        for path, reason in reasons(dataset).items()
        if path.startswith("test/scratch/")
    }
    assert found.keys() == {"cut.png", "empty.png", "text.jpg", "Thumbs.db", ".hidden.png"}
    assert "truncated" in found["cut.png"]
    assert "empty" in found["empty.png"]
    assert "not an image" in found["text.jpg"]
    assert ".db" in found["Thumbs.db"]
    assert "hidden" in found[".hidden.png"]
    assert len(dataset.samples) == 7


def test_the_same_file_twice(mvtec: Path) -> None:
    put(mvtec / "test/scratch/002.png", 20)  # as scratch/000
    put(mvtec / "test/good/009.png", 11)  # as good/001
    put(mvtec / "train/good/009.png", 21)  # as scratch/001
    put(mvtec / "train/good/copy.png", 0)  # as train/good/000
    dataset = collect(mvtec)
    assert {p: r for p, r in reasons(dataset).items() if "bytes" in r} == {
        "test/scratch/002.png": "the same bytes as test/scratch/000.png, which is used",
        "test/good/009.png": "the same bytes as test/good/001.png, which is used",
        "train/good/009.png": "the same bytes as test/scratch/001.png, which is used",
        "train/good/copy.png": "the same bytes as train/good/000.png, which is used",
    }
    assert len(dataset.samples) == 7


def test_a_query_is_kept_before_a_reference_with_the_same_bytes(tmp_path: Path) -> None:
    put(tmp_path / "a/x.png", 0)
    put(tmp_path / "b.png", 0)
    dataset = collect(tmp_path, normal_root=tmp_path / "a")
    assert rows(dataset) == {"b.png": ("query", None, None)}
    assert reasons(dataset) == {"a/x.png": "the same bytes as b.png, which is used"}
    assert [row.duplicate_of for row in dataset.rejected] == ["b.png"]


def test_masks_that_do_not_fit(mvtec: Path) -> None:
    truth = mvtec / "ground_truth/scratch"
    put_mask(truth / "000_mask.png", (12, 17))
    put_mask(truth / "777_mask.png")
    (truth / "001_mask.png").write_bytes(b"")
    dataset = collect(mvtec)
    assert rows(dataset)["test/scratch/000.png"] == ("query", "scratch", None)
    assert rows(dataset)["test/scratch/001.png"] == ("query", "scratch", None)
    found = {p: r for p, r in reasons(dataset).items() if p.startswith("ground_truth")}
    assert "12 x 17" in found["ground_truth/scratch/000_mask.png"]
    assert "empty" in found["ground_truth/scratch/001_mask.png"]
    assert "no image" in found["ground_truth/scratch/777_mask.png"]
    assert len(found) == 3


def test_missing_masks_and_differing_sizes_are_fine(mvtec: Path) -> None:
    put(mvtec / "test/hole/000.png", 50, (31, 7))
    sample = next(s for s in collect(mvtec).samples if s.label == "hole")
    assert (sample.height, sample.width, sample.mask) == (31, 7, None)


@pytest.mark.parametrize("label", ["good", "scratch"])
@pytest.mark.parametrize("count", [1, 4])
def test_one_sided_and_tiny_sets(tmp_path: Path, label: str, count: int) -> None:
    for i in range(count):
        put(tmp_path / f"test/{label}/{i}.png", i)
    dataset = collect(tmp_path)
    assert Counter(s.label for s in dataset.split("query")) == {label: count}


def test_no_query_image_is_an_error_that_helps(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing.*not a folder.*mvtec"):
        collect(tmp_path / "nothing")
    root = tmp_path / "product"
    root.mkdir()
    with pytest.raises(DatasetError, match=r"product.*no usable query image.*mvtec.*folder"):
        collect(root)
    put(root / "train/good/0.png", 0)
    (root / "test/good").mkdir(parents=True)
    (root / "test/good/1.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"(?s)'mvtec'.*1\.png: the file is empty"):
        collect(root)
    with pytest.raises(DatasetError, match="'nonsense' is unknown"):
        collect(root, layout="nonsense")


def test_order_is_that_of_the_ids_whatever_the_names(tmp_path: Path) -> None:
    seeds = list(range(40))
    for i in seeds:
        put(tmp_path / f"one/test/{'good' if i < 20 else 'hole'}/{i:02}.png", i)
    random.Random(0).shuffle(seeds)
    for position, i in enumerate(seeds):
        put(tmp_path / f"two/{position:02}.png", i)
    one, two = (collect(tmp_path / name) for name in ("one", "two"))
    ids = [s.sample_id for s in one.samples]
    assert ids == sorted(ids) == [s.sample_id for s in two.samples]
    assert [s.label for s in one.samples] != sorted(str(s.label) for s in one.samples)


def test_every_file_is_accounted_for_once(mvtec: Path) -> None:
    (mvtec / "ground_truth/scratch/readme.md").write_text("x")
    put(mvtec / "loose.webp", 70)
    put(mvtec / "test/good/again.png", 10)
    dataset = collect(mvtec, layout="mvtec")
    masks = [s.mask for s in dataset.samples if s.mask is not None]
    used = [s.path for s in dataset.samples] + masks + [row.path for row in dataset.rejected]
    used.append("ground_truth/combined/000_mask.png")  # left out with its image
    files = [p.relative_to(mvtec).as_posix() for p in mvtec.rglob("*") if p.is_file()]
    assert sorted(used) == sorted(files)


def test_a_link_in_a_circle_ends(mvtec: Path) -> None:
    (mvtec / "test/good/loop").symlink_to(mvtec / "test", target_is_directory=True)
    assert len(collect(mvtec).samples) == 7


def test_a_name_that_is_not_utf8_is_rejected(mvtec: Path) -> None:
    source = (mvtec / "test/good/000.png").read_bytes()
    name = os.fsencode(mvtec / "test/good") + b"/\xff.png"
    try:
        with open(name, "wb") as file:
            file.write(source)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = collect(mvtec)
    assert "UTF-8" in reasons(dataset)["test/good/\\xff.png"]


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["test/good/a.png"], "mvtec"),
        (["test/a.png", "b.png"], "folder"),
        (["X/Imgs/a.jpg"], "mtd"),
        (["images/x/a.png", "masks/x/a.png"], "class_folders"),
        (["images/x/a.png"], "folder"),
    ],
)
def test_detection(tmp_path: Path, files: list[str], layout: str) -> None:
    for i, name in enumerate(files):
        put(tmp_path / name, i)
    assert detect_layout(tmp_path) == layout
    assert scan_folder(tmp_path).layout == layout


@pytest.mark.slow
def test_real_sets() -> None:
    folder = os.environ.get("ANOMALYNCD_DATA")
    if not folder or not Path(folder, "mtd").is_dir():
        pytest.skip("ANOMALYNCD_DATA does not name a folder with mtd and mvtec")
    mtd = collect(Path(folder) / "mtd")
    assert Counter(s.split for s in mtd.samples) == {"query": 583, "normal": 761}
    assert Counter(s.label for s in mtd.split("query")) == {
        "MT_Free": 191,
        "MT_Blowhole": 115,
        "MT_Break": 85,
        "MT_Crack": 57,
        "MT_Fray": 32,
        "MT_Uneven": 103,
    }
    assert all(s.mask for s in mtd.split("query"))
    assert [row.path for row in mtd.rejected] == ["README.md"]
    bottle = collect(Path(folder) / "mvtec" / "bottle")
    assert Counter(s.split for s in bottle.samples) == {"query": 83, "normal": 60}
    assert sum(s.mask is not None for s in bottle.samples) == 63
    steel = collect(Path(folder) / "neu_seg_base")
    assert Counter(s.label for s in steel.samples) == dict.fromkeys(
        ("inclusion", "patches", "scratches"), 80
    )
