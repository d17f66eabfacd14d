"""The labelled base set: which crops are made, and what they hold."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.config.reading import parse_params
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.dataset_formats import DatasetError
from pipeline.io.images import sample_id
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import read_parquet
from stages import base
from tests.running import run_stage

SIZE = (200, 200)
BOXES = {  # y0, y1, x0, x1, far from each other
    "large": (100, 140, 100, 140),
    "middle": (10, 40, 10, 40),
    "thin": (170, 171, 20, 60),
}


def put(path: Path, array: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (*SIZE, 3), dtype=np.uint8)


def mask(*names: str) -> NDArray[np.uint8]:
    array = np.zeros(SIZE, np.uint8)
    for name in names:
        y0, y1, x0, x1 = BOXES[name]
        array[y0:y1, x0:x1] = 255
    return array


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An MVTec-like product: one, two, three and no regions, no mask, normal images."""
    root = tmp_path / "raw/base"
    contents = {
        "hole/0": ("middle",),
        "hole/1": ("thin",),
        "stain/0": ("large", "middle", "thin"),
        "stain/1": (),
    }
    for seed, (name, boxes) in enumerate(contents.items()):
        put(root / f"test/{name}.png", picture(seed))
        put(root / f"ground_truth/{name}_mask.png", mask(*boxes))
    put(root / "test/stain/2.png", picture(50))
    put(root / "test/good/0.png", picture(51))
    put(root / "train/good/0.png", picture(52))
    put(root / "test/combined/0.png", picture(53))
    put(root / "ground_truth/combined/0_mask.png", mask("large"))
    return root


def run(
    root: Path, out: Path, **sections: object
) -> tuple[pd.DataFrame, dict[str, NDArray[np.uint8]]]:
    params = parse_params({"base": {"root": str(root), **sections.pop("base", {})}, **sections})  # type: ignore[dict-item]
    paths = ArtifactPaths(out)
    run_stage(base, None, params, paths)
    group = open_arrays(paths.base() / "crops.zarr")
    arrays = {name: np.asarray(group[name][:]) for name in ("images", "masks")}
    return read_parquet(paths.base() / "crops.parquet", schemas.BASE_CROPS), arrays


def test_another_layout_finds_nothing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="class_folders"):
        run(root, tmp_path / "out", base={"layout": "class_folders"})


def test_which_crops_there_are(root: Path, tmp_path: Path) -> None:
    table, arrays = run(root, tmp_path / "out")
    ids = {
        name: sample_id(root / f"test/{name}.png")
        for name in ("hole/0", "hole/1", "stain/0", "stain/1")
    }
    found = set(zip(table["crop_id"], table["label"], strict=True))
    assert found == {
        (f"{ids['hole/0']}-0", "hole"),
        (f"{ids['hole/1']}-0", "hole"),
        (f"{ids['stain/0']}-0", "stain"),
        (f"{ids['stain/0']}-1", "stain"),
    }
    assert table["score"].isna().all()
    assert arrays["images"].shape == (4, 256, 256, 3)
    assert arrays["masks"].shape == (4, 256, 256)
    assert arrays["images"].dtype == arrays["masks"].dtype == np.uint8
    assert set(np.unique(arrays["masks"])) == {0, 1}


def test_squares_surround_the_uneroded_regions(root: Path, tmp_path: Path) -> None:
    table, arrays = run(root, tmp_path / "out")
    # the two largest of three; a line one pixel thick, which any erosion would delete
    assert sorted(table["area_px"]) == [40, 900, 900, 1600]
    thin = table.loc[table["area_px"] == 40].iloc[0]
    y0, y1, x0, x1 = BOXES["thin"]
    assert thin.x0 <= x0
    assert thin.y0 <= y0
    assert thin.x0 + thin.side >= x1
    assert thin.y0 + thin.side >= y1
    assert thin.side >= 44
    assert arrays["masks"].reshape(4, -1).any(axis=1).all()


def test_a_crop_holds_the_pixels_of_its_square(root: Path, tmp_path: Path) -> None:
    # a square as large as the stored size is cut without any scaling
    plain = tmp_path / "plain"
    image = np.random.default_rng(9).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    truth = np.zeros((600, 600), np.uint8)
    truth[250:300, 270:320] = 255
    put(plain / "images/x/a.png", image)
    put(plain / "masks/x/a.png", truth)
    table, arrays = run(plain, tmp_path / "out", crops={"smallest_side": 256 / 600})
    row = table.iloc[0]
    assert row.side == 256
    window = np.s_[row.y0 : row.y0 + 256, row.x0 : row.x0 + 256]
    np.testing.assert_array_equal(arrays["images"][0], image[window])
    np.testing.assert_array_equal(arrays["masks"][0], truth[window] > 0)


def test_parameters_matter(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table, _ = run(root, out)
    assert len(run(root, out, base={"per_image": 1})[0]) == 3
    assert len(run(root, out, base={"per_image": 3})[0]) == 5
    assert "good" not in set(table["label"])
    fine = run(root, out, base={"normal_label": ["good", "hole"]})[0]
    assert set(fine["label"]) == {"stain"}
    wide, _ = run(root, out, crops={"padding": 0.6})
    assert wide["side"].max() > table["side"].max()
    assert (run(root, out, crops={"smallest_side": 0.5})[0]["side"] >= 100).all()
    assert len(run(root, out, crops={"merge_distance": 0.5})[0]) == 3
    _, large = run(root, out, crops={"size": 272})
    assert large["images"].shape[1:3] == (272, 272)
    whole, arrays = run(root, out, crops={"enabled": False})
    assert whole["side"].tolist() == [200] * 3
    assert sorted(whole["area_px"]) == [40, 900, 2540]
    assert arrays["masks"].reshape(3, -1).any(axis=1).all()


def test_more_crops_than_a_shard_holds(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = run(root, tmp_path / "one")
    monkeypatch.setattr("pipeline.io.arrays._SHARD_ITEMS", 3)
    _, arrays = run(root, tmp_path / "two")
    assert len(arrays["images"]) == 4
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])


def test_without_a_base_set_there_are_no_rows(tmp_path: Path) -> None:
    root = tmp_path / "raw/base"
    root.mkdir(parents=True)
    (root / "README.md").write_text("put labelled images here")
    table, arrays = run(root, tmp_path / "out")
    assert len(table) == 0
    assert arrays["images"].shape == (0, 256, 256, 3)
    assert arrays["masks"].shape == (0, 256, 256)


def test_a_base_set_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.*not a folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    put(tmp_path / "flat/a.png", picture(0))
    with pytest.raises(DatasetError, match=r"base\.root: .*flat.*labelled defect"):
        run(tmp_path / "flat", tmp_path / "out")
    assert not ArtifactPaths(tmp_path / "out").base().exists()


def test_run_again_gives_the_same(root: Path, tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        folder = ArtifactPaths(tmp_path / "out").base()
        return {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }

    run(root, tmp_path / "out")
    first = files()
    run(root, tmp_path / "out")
    assert files() == first
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.slow
def test_steel(tmp_path: Path) -> None:
    data = os.environ.get("ANOMALYNCD_DATA")
    if not data or not Path(data, "neu_seg_base").is_dir():
        pytest.skip("ANOMALYNCD_DATA does not name a folder with neu_seg_base")
    table, arrays = run(Path(data) / "neu_seg_base", tmp_path / "out")
    assert set(table["label"]) == {"inclusion", "patches", "scratches"}
    assert table["sample_id"].nunique() == 240
    assert table.groupby("sample_id").size().max() == 2
    assert len(arrays["images"]) == len(table)
