"""The stages `mebin` and `crops` on a handful of written maps and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.binarization.thresholds import binarize_fixed, binarize_otsu
from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.io import schemas
from pipeline.io.arrays import ArraySpec, create_arrays, open_arrays
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.tables import read_metadata, read_parquet, write_parquet
from pipeline.regions.crops import cut, region_squares, resize_mask
from pipeline.regions.weights import map_weights
from stages import crops, mebin
from tests.binarization.whole_set import binarize
from tests.running import run_stage

SIZE, HEIGHT, WIDTH = 40, 60, 80


def some_maps(n: int = 6) -> NDArray[np.float32]:
    """Maps with 0, 1, 2, 1, 2, ... bright discs."""
    y, x = np.mgrid[:SIZE, :SIZE]
    rng = np.random.default_rng(0)
    maps = rng.random((n, SIZE, SIZE)) * 0.1
    for i in range(1, n):
        for j in range(1 + (i % 2 == 0)):
            distance = np.hypot(y - (10, 30)[j], x - 10 - 3 * i)
            maps[i] = np.maximum(maps[i], np.clip(1.1 - distance / 8, 0, 1) * (0.8 + 0.1 * j))
    return maps.astype(np.float32)


@pytest.fixture(autouse=True)
def invented_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of `write_inputs` are no hashes of its images."""
    monkeypatch.setattr("pipeline.io.images.check_listed", lambda *_: None)


def write_inputs(
    root: Path,
    maps: NDArray[np.float32],
    method: str = "musc",
    references: tuple[float, ...] = (),
) -> ArtifactPaths:
    """Write manifest, maps and image files as their stages would."""
    paths, ids = ArtifactPaths(root / "data"), [f"{i:016x}" for i in range(len(maps))]
    (root / "raw" / "c").mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = []
    for sample_id in [*ids[::-1], "reference"]:
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "raw" / "c" / f"a {sample_id}.png")
        split = "normal" if sample_id == "reference" else "query"
        rows.append((sample_id, f"a {sample_id}.png", split, HEIGHT, WIDTH, 3, sample_id))
    frame = pd.DataFrame(rows, columns=schemas.IMAGES.names)
    write_parquet(paths.manifest("c") / "images.parquet", frame, schemas.IMAGES)
    scores = maps.max(axis=(1, 2))
    frame = pd.DataFrame({"sample_id": ids, "score": scores, "image_score": scores})
    folder = paths.maps("c")
    write_parquet(folder / "scores.parquet", frame, schemas.MAP_SCORES)
    known = {"sample_id": [str(i) for i in range(len(references))], "score": list(references)}
    frame = pd.DataFrame({**known, "image_score": list(references)})
    frame = frame.astype({"score": float, "image_score": float})
    write_parquet(folder / "references.parquet", frame, schemas.REFERENCE_SCORES)
    spec = ArraySpec(maps.shape, "float32")
    with create_arrays(folder / "maps.zarr", {"maps": spec}, {"method": method}) as out:
        out["maps"][:] = maps
    return paths


def params(root: Path, **sections: object) -> Params:
    return parse_params({"dataset": {"root": str(root / "raw"), "categories": ["c"]}, **sections})


def read_mebin(paths: ArtifactPaths) -> tuple[NDArray[np.bool_], pd.DataFrame, dict[str, object]]:
    path = paths.mebin("c")
    masks = open_arrays(path / "masks.zarr")["masks"][:]
    table = read_parquet(path / "images.parquet", schemas.MEBIN_IMAGES)
    return masks, table, read_metadata(path / "images.parquet")


@pytest.mark.parametrize(
    ("references", "options", "expected"),
    [
        ((0.2, *[0.3] * 7), {}, 0.2),  # every image is above all references: none is normal
        ((0.2, *[0.3] * 6), {}, None),  # too few to say so
        ((0.2, *[0.95] * 7), {}, None),
        ((), {}, None),
        ((0.2, *[0.3] * 7), {"floor": 0.5}, 0.5),
        ((0.2, *[0.3] * 7), {"rule": "reference"}, None),
    ],
)
def test_references_give_the_floor_of_a_set_without_a_normal_image(
    tmp_path: Path,
    references: tuple[float, ...],
    options: dict[str, object],
    expected: float | None,
) -> None:
    maps = some_maps()[1:]
    paths = write_inputs(tmp_path, maps, references=references)
    run_stage(mebin, "c", params(tmp_path, mebin={"erode_px": 1, **options}), paths)
    _, _, metadata = read_mebin(paths)
    lowest = float(maps.max(axis=(1, 2)).min())
    assert metadata["s_min"] == pytest.approx(lowest if expected is None else expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rule": "reference", "tau": 2},
        {"n_thresholds": 20, "tau": 3, "erode_px": 2, "floor": 0.3},
    ],
)
def test_mebin_stage_writes_what_binarize_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    # Shards of four images: six images span two blocks.
    monkeypatch.setattr("pipeline.io.arrays._SHARD_ITEMS", 4)
    maps = some_maps()
    paths = write_inputs(tmp_path, maps)
    run_stage(mebin, "c", params(tmp_path, mebin=options), paths)
    masks, table, metadata = read_mebin(paths)
    expected = binarize(
        maps, **{"thresholds" if k == "n_thresholds" else k: v for k, v in options.items()}
    )
    np.testing.assert_array_equal(masks, expected.masks)
    np.testing.assert_array_equal(table["threshold"].to_numpy(float), expected.threshold)
    np.testing.assert_array_equal(table["n_regions"], expected.n_regions)
    np.testing.assert_array_equal(table["run_length"], expected.run_length)
    np.testing.assert_array_equal(np.stack(table["counts"].to_list()), expected.counts)
    assert (metadata["s_min"], metadata["s_max"]) == (expected.s_min, expected.s_max)
    assert table["threshold"].isna().iloc[0]
    assert expected.masks.any()


def test_mebin_stage_with_the_plain_thresholds(tmp_path: Path) -> None:
    maps = some_maps()
    paths = write_inputs(tmp_path, maps)
    run_stage(
        mebin,
        "c",
        params(tmp_path, mebin={"method": "fixed", "fixed_threshold": 0.6, "erode_px": 2}),
        paths,
    )
    masks, table, _ = read_mebin(paths)
    for amap, mask in zip(maps, masks, strict=True):
        np.testing.assert_array_equal(mask, binarize_fixed(amap, threshold=0.6, erode_px=2).mask)
    assert table["threshold"].tolist() == [0.6] * len(maps)
    run_stage(mebin, "c", params(tmp_path, mebin={"method": "otsu", "erode_px": 1}), paths)
    masks, table, _ = read_mebin(paths)
    for amap, mask, counts in zip(maps, masks, table["counts"], strict=True):
        np.testing.assert_array_equal(mask, binarize_otsu(amap, erode_px=1).mask)
        assert len(counts) == 0


def test_masks_of_another_program_are_taken_as_they_are(tmp_path: Path) -> None:
    """By the settings of docs/detectors.md: a mask is a map of zeros and ones."""
    maps = (some_maps() > 0.5).astype(np.float32)[1:]  # no image without a region
    paths = write_inputs(tmp_path, maps, method="precomputed")
    given = params(tmp_path, mebin={"method": "fixed", "erode_px": 0, "floor": 0})
    run_stage(mebin, "c", given, paths)
    masks, _, metadata = read_mebin(paths)
    np.testing.assert_array_equal(masks, maps > 0)
    assert (metadata["s_min"], metadata["s_max"]) == (0, 1)
    run_stage(crops, "c", given, paths)
    table = read_parquet(paths.crops("c") / "crops.parquet", schemas.CROPS)
    assert (table["score"] == 1).all()


def test_ground_truth_passes_through(tmp_path: Path) -> None:
    maps = (some_maps() > 0.5).astype(np.float32)[1:]
    paths = write_inputs(tmp_path, maps, method="ground_truth")
    run_stage(mebin, "c", params(tmp_path), paths)
    masks, table, metadata = read_mebin(paths)
    np.testing.assert_array_equal(masks, maps > 0)
    assert table["threshold"].isna().all()
    assert table["n_regions"].tolist() == [1, 2, 1, 2, 1]
    # All images are anomalous, yet their regions keep the score 1.
    assert (metadata["method"], metadata["s_min"], metadata["s_max"]) == ("ground_truth", 0, 1)
    run_stage(crops, "c", params(tmp_path), paths)
    table = read_parquet(paths.crops("c") / "crops.parquet", schemas.CROPS)
    assert (table["score"] == 1).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"keep": 1, "padding": 0.4, "smallest_side": 0.1, "size": 300},
        {"keep": "all", "merge_distance": 0.5},
        {"enabled": False},
    ],
)
def test_crops_stage_cuts_every_region(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    monkeypatch.setattr("pipeline.io.arrays._SHARD_ITEMS", 3)
    paths = write_inputs(tmp_path, some_maps())
    settings = params(tmp_path, crops=options, mebin={"erode_px": 2})
    run_stage(mebin, "c", settings, paths)
    run_stage(crops, "c", settings, paths)
    table = read_parquet(paths.crops("c") / "crops.parquet", schemas.CROPS)
    arrays = open_arrays(paths.crops("c") / "crops.zarr")
    masks, rows, metadata = read_mebin(paths)
    ends = {end: metadata[end] for end in ("s_min", "s_max")}
    chosen, position = settings.crops, 0
    columns = (masks, some_maps(), rows["sample_id"], rows["n_regions"])
    for small, amap, sample_id, n in zip(*columns, strict=True):
        mask = resize_mask(small, (HEIGHT, WIDTH))
        weights = map_weights(amap, mask, **ends)
        squares = region_squares(
            mask if chosen.enabled else np.zeros_like(mask),
            padding=chosen.padding,
            smallest_side=chosen.smallest_side,
            merge_distance=chosen.merge_distance,
            keep={"delta": n + 1, "all": None, "1": 1}[str(chosen.keep)],
        )
        image = np.array(Image.open(tmp_path / "raw" / "c" / f"a {sample_id}.png"))
        for k, square in enumerate(squares):
            row = table.iloc[position]
            assert (row.crop_id, row.sample_id, row.k) == (f"{sample_id}-{k}", sample_id, k)
            assert [row.x0, row.y0, row.side] == square.tolist()
            pixels, inside = cut(image, mask, square, size=chosen.size)
            np.testing.assert_array_equal(arrays["images"][position], pixels)
            np.testing.assert_array_equal(arrays["masks"][position], inside)
            _, weight = cut(image, weights, square, size=chosen.size)
            np.testing.assert_array_equal(arrays["weights"][position], weight)
            wide, (x0, y0, side) = np.pad(mask, 100), square.tolist()
            assert row.area_px == wide[y0 + 100 :, x0 + 100 :][:side, :side].sum()
            position += 1
    assert position == len(table) == arrays["images"].shape[0]
    assert table["score"].between(0, 1).all()
    assert table["score"].iloc[0] < 0.1
    if not chosen.enabled:
        assert len(table) == len(masks)
        assert (table["area_px"] > 0).any()


@pytest.mark.parametrize(("keep", "kept"), [("delta", 2), ("all", 4), (3, 3)])
def test_delta_of_the_reference_rule_limits_the_regions(
    tmp_path: Path, keep: str | int, kept: int
) -> None:
    # One disc is stable over most thresholds, so delta* is 1 and two squares are kept.
    maps = some_maps(2)
    paths = write_inputs(tmp_path, maps)
    settings = params(tmp_path, mebin={"rule": "reference"}, crops={"keep": keep})
    run_stage(mebin, "c", settings, paths)
    masks, table, metadata = read_mebin(paths)
    masks[1] = False
    for y, x in ((2, 2), (2, 30), (30, 2), (30, 30)):
        masks[1, y : y + 3, x : x + 3] = True
    path = paths.mebin("c")
    with create_arrays(path / "masks.zarr", {"masks": ArraySpec(masks.shape, "bool")}) as out:
        out["masks"][:] = masks
    table["n_regions"] = [0, 4]
    write_parquet(path / "images.parquet", table, schemas.MEBIN_IMAGES, metadata)
    run_stage(crops, "c", settings, paths)
    found = read_parquet(paths.crops("c") / "crops.parquet", schemas.CROPS)
    assert found["sample_id"].value_counts().tolist() == [kept, 1]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    maps = some_maps()
    maps[2, 3, 3] = np.nan
    paths = write_inputs(tmp_path, np.nan_to_num(maps))
    group = paths.maps("c") / "maps.zarr"
    with create_arrays(group, {"maps": ArraySpec(maps.shape, "float32")}) as out:
        out["maps"][:] = maps
    with pytest.raises(ArtifactError, match=f"{2:016x}: the map has NaN"):
        run_stage(mebin, "c", params(tmp_path), paths)
    assert not paths.mebin("c").exists()
    with create_arrays(group, {"maps": ArraySpec((2, 9, 9), "float32")}) as out:
        out["maps"][:] = 0.5
    with pytest.raises(ArtifactError, match="6 scores and 2 maps"):
        run_stage(mebin, "c", params(tmp_path), paths)


def test_crops_of_another_manifest_are_refused(tmp_path: Path) -> None:
    paths = write_inputs(tmp_path, some_maps())
    run_stage(mebin, "c", params(tmp_path), paths)
    path = paths.manifest("c") / "images.parquet"
    frame = read_parquet(path, schemas.IMAGES)
    write_parquet(path, frame.iloc[1:], schemas.IMAGES)
    with pytest.raises(ArtifactError, match="not those of the masks"):
        run_stage(crops, "c", params(tmp_path), paths)
    assert not paths.crops("c").exists()
