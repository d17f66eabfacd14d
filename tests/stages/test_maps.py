from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import timm
import torch

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.inference.map_settings import settle, settled_for
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.map_files import MapFileError
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.tables import read_metadata, read_parquet, write_json, write_parquet
from stages import maps as stage
from tests.running import run_stage

CATEGORY = "thing"
DEFECT = slice(32, 48)
"""Rows and columns of the flat square on every third image: patch (2, 2) of 4 x 4."""

VIT = "vit_tiny_patch16_224"
QUERIES, NORMALS = 6, 4


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = timm.create_model(VIT, img_size=64, num_classes=0)
    return {name: value.clone() for name, value in vit.state_dict().items()}


@pytest.fixture
def paths(tmp_path, monkeypatch, state) -> ArtifactPaths:
    """A manifest of 6 queries (every third with a defect and a mask) and 4 normal images.

    Its ids are invented, no hashes of the images.
    """
    monkeypatch.setattr("pipeline.io.images.check_listed", lambda *_: None)
    monkeypatch.setattr(
        "pipeline.io.backbone_weights.load_saved", lambda folder: (state, {"timm_name": VIT})
    )
    paths, rng = ArtifactPaths(tmp_path / "data"), np.random.default_rng(0)
    for folder in (paths.backbone(), paths.maps_backbone()):
        write_json(folder / "backbone.json", {"sha256": folder.name, "patch_size": 16})
    images, masks = [], []
    for k in range(QUERIES + NORMALS):
        query = k < QUERIES
        folder = "test/hole" if query else "train/good"
        pixels = rng.integers(90, 110, (64, 64, 3), dtype=np.uint8)
        if query and k % 3 == 0:
            pixels[DEFECT, DEFECT] = 255 - 80 * k  # unlike each other, or MuSc finds a twin
            mask = np.zeros((64, 64), np.uint8)
            mask[DEFECT, DEFECT] = 255
            masks.append((f"id{k}", _save(tmp_path, f"ground_truth/{k}.png", mask)))
        path = _save(tmp_path, f"{folder}/{k}.png", pixels)
        images.append((f"id{k}", path, "query" if query else "normal", 64, 64, 3, f"id{k}"))
    order = [3, 8, 0, 5, 9, 1, 2, 7, 4, 6]  # neither by name nor by split
    _write(paths, "images", [images[k] for k in order], schemas.IMAGES)
    _write(paths, "masks", masks, schemas.MASKS)
    _write(paths, "rejected", [("test/hole/broken.png", "truncated", None)], schemas.REJECTED)
    return paths


def _save(root: Path, name: str, pixels: np.ndarray) -> str:
    path = root / "raw" / CATEGORY / name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return name


def _write(paths: ArtifactPaths, name: str, rows: list[tuple], schema) -> None:
    frame = pd.DataFrame(rows, columns=schema.names)
    write_parquet(paths.manifest(CATEGORY) / f"{name}.parquet", frame, schema)


COMPUTE = {"dtype", "memory_mb"}


def _params(paths: ArtifactPaths, **values: object) -> Params:
    compute = {name: value for name, value in values.items() if name in COMPUTE}
    maps = {name: value for name, value in values.items() if name not in COMPUTE}
    given = {
        "layers": [1, 3],
        "runs": [[1, 1], [3, 3]],
        "neighbourhoods": [1],
        "resolution": 64,
        "map_size": 32,
        "skip": 0.0,
        "fraction": 0.3,
        **maps,
    }
    root = str(paths.root.parent / "raw")
    dataset = {"root": root, "categories": [CATEGORY]}
    return parse_params({"dataset": dataset, "maps": given, "compute": compute})


def _run(
    paths: ArtifactPaths, **maps: object
) -> tuple[np.ndarray, pd.DataFrame, dict[str, object]]:
    run_stage(stage, CATEGORY, _params(paths, **maps), paths)
    folder = paths.maps(CATEGORY)
    group = open_arrays(folder / "maps.zarr")
    frame = read_parquet(folder / "scores.parquet", schemas.MAP_SCORES)
    assert sorted(path.name for path in folder.iterdir()) == [
        "bank.safetensors",
        "maps.zarr",
        "references.parquet",
        "scores.parquet",
    ]
    assert list(frame["sample_id"]) == ["id3", "id0", "id5", "id1", "id2", "id4"]
    values = group["maps"][:]
    assert values.dtype == np.float32
    assert np.array_equal(frame["score"], values.max(axis=(1, 2)).astype(np.float64))
    return values, frame, dict(group.attrs)


@pytest.mark.parametrize("method", ["musc", "patchcore", "nearest"])
def test_detectors_find_the_defect(paths, method):
    values, frame, attributes = _run(paths, method=method, layers=[0], runs=[[0, 1]])
    assert values.shape == (6, 32, 32)
    assert values.min() == 0
    assert values.max() == 1
    assert attributes["method"] == method
    assert attributes["raw_min"] < attributes["raw_max"]
    defect, good = frame["score"][:2], frame["score"][2:]
    assert defect.min() > good.max()
    assert frame["image_score"][:2].min() > frame["image_score"][2:].max()
    for row in (0, 1):
        y, x = np.unravel_index(values[row].argmax(), values[row].shape)
        assert (y // 8, x // 8) == (2, 2)


def test_the_maps_own_backbone_makes_them(paths, monkeypatch, state):
    """And its hash goes with them."""
    other = {name: value + 0.01 * torch.randn_like(value) for name, value in state.items()}
    monkeypatch.setattr(
        "pipeline.io.backbone_weights.load_saved",
        lambda folder: (other if folder == paths.maps_backbone() else state, {"timm_name": VIT}),
    )
    plain, _, attributes = _run(paths, method="nearest")
    assert attributes["backbone_sha256"] == "backbone"
    own = {"source": "random", "name": VIT}
    values, _, attributes = _run(paths, method="nearest", backbone=own)
    assert attributes["backbone_sha256"] == "maps_backbone"
    assert not np.array_equal(plain, values)


def test_the_resolution_follows_from_the_smallest_defect(paths, monkeypatch):
    """In patches of 16 pixels; images of 64 pixels are enlarged to 448, and no further."""
    table = paths.manifest(CATEGORY) / "images.parquet"
    images = read_parquet(table, schemas.IMAGES)

    def settled(side: int, **maps: object) -> tuple[object, object]:
        write_parquet(table, images.assign(height=side, width=side), schemas.IMAGES)
        options = _params(paths, resolution="auto", **maps).maps
        found = settled_for(CATEGORY, options, paths)
        return found.resolution, found.tiles

    assert settled(64) == (448, 1)
    assert settled(64, smallest_defect=0.01) == (448, 1)
    assert settled(2000) == (512, 1)
    assert settled(2000, smallest_defect=0.025) == (640, 1)
    assert settled(2000, smallest_defect=0.01) == (36 * 16, 3)
    assert settled(2000, smallest_defect=0.01, tiles=1) == (1600, 1)
    assert settled(2000, smallest_defect=0.01, tiles=2) == (52 * 16, 2)
    assert settled(700, smallest_defect=0.01) == (24 * 16, 2)
    given = settled_for(CATEGORY, _params(paths, smallest_defect=0.01).maps, paths)
    assert (given.resolution, given.tiles) == (64, 1)


@pytest.mark.parametrize("tiles", [2, 3])
def test_a_defect_on_the_seam_of_tiles_is_found_once(paths, tiles):
    """And nothing else: normal images, a repeated pattern, are flat over the seams."""
    table = paths.manifest(CATEGORY) / "images.parquet"
    side = 16 * (4 * tiles - 2 * (tiles - 1))  # tiles of 4 x 4 patches that share 2
    seam = 16 * 3
    rng = np.random.default_rng(2)
    for row in read_parquet(table, schemas.IMAGES).itertuples():
        pattern = 100 + 40 * (np.indices((side, side)).sum(0) // 8 % 2)
        pixels = pattern[..., None] + rng.integers(-3, 3, (side, side, 3))
        if row.sample_id in ("id0", "id3"):
            pixels[seam - 8 : seam + 8, seam - 8 : seam + 8] = 230
        _save(paths.root.parent, row.path, pixels.astype(np.uint8))
    values, frame, _ = _run(
        paths, method="nearest", runs=[[0, 1]], tiles=tiles, gamma=1.0, map_size=side
    )
    assert frame["score"][:2].min() > 2 * frame["score"][2:].max()
    for amap in values[:2]:
        count, _, boxes, _ = cv2.connectedComponentsWithStats((amap > 0.5).astype(np.uint8))
        assert count == 2  # the background and the defect
        x, y, width, height, _ = boxes[1]
        assert x < seam < x + width
        assert y < seam < y + height
    normal = values[2:].mean(0)
    at_seam = normal[:, seam - 8 : seam + 8].mean()
    assert at_seam < 1.2 * normal.mean()


@pytest.mark.parametrize("method", ["musc", "patchcore", "nearest"])
def test_wide_images_are_seen_as_wide_as_they_are(paths, method):
    """On 2 x 8 patches of 16 pixels; the map is square, and a defect lies where it lies."""
    table = paths.manifest(CATEGORY) / "images.parquet"
    images = read_parquet(table, schemas.IMAGES)
    rng = np.random.default_rng(1)
    for row in images.itertuples():
        pixels = rng.integers(90, 110, (32, 128, 3), dtype=np.uint8)
        if row.sample_id in ("id0", "id3"):
            pixels[16:32, 80:96] = 255 - 80 * int(row.sample_id[2:])  # patch (1, 5)
        _save(paths.root.parent, row.path, pixels)
    write_parquet(table, images.assign(height=32, width=128), schemas.IMAGES)
    values, frame, _ = _run(paths, method=method, layers=[0], runs=[[0, 1]])
    assert (
        read_metadata(paths.maps(CATEGORY) / "scores.parquet")["params"]["maps"]["aspect"] == 0.25
    )
    assert values.shape == (6, 32, 32)
    assert frame["score"][:2].min() > frame["score"][2:].max()
    for amap in values[:2]:
        y, x = np.unravel_index(amap.argmax(), amap.shape)
        assert (y // 16, x // 4) == (1, 5)


@pytest.mark.parametrize("method", ["musc", "patchcore"])
def test_normal_references_score_as_good_images_do(paths, method):
    _, frame, _ = _run(paths, method=method, layers=[0])
    path = paths.maps(CATEGORY) / "references.parquet"
    known = read_parquet(path, schemas.REFERENCE_SCORES)
    assert list(known["sample_id"]) == ["id8", "id9", "id7", "id6"]  # as in the manifest
    defect, good = frame["score"][:2], frame["score"][2:]
    assert known["score"].max() < defect.min()
    assert known["score"].min() > good.min() / 3


def test_maps_without_a_detector_have_no_reference_scores(paths):
    _run(paths, method="ground_truth")
    path = paths.maps(CATEGORY) / "references.parquet"
    assert read_parquet(path, schemas.REFERENCE_SCORES).empty


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [2]},
        {"neighbourhoods": [3]},
        {"resolution": 48},
        {"aspect": 4.0},
        {"fraction": 1.0},
        {"skip": 0.5, "fraction": 1.0},
        {"gamma": 1.0},
        {"references": 3},
        {"references": 3, "seed": 1},
        {"dtype": "bfloat16"},
    ],
)
def test_every_parameter_of_musc_counts(paths, change):
    plain, _, _ = _run(paths)
    if "seed" in change:
        plain, _, _ = _run(paths, references=3)
    if "skip" in change:
        plain, _, _ = _run(paths, fraction=1.0)
    assert not np.array_equal(plain, _run(paths, **change)[0])


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [2]},
        {"neighbourhoods": [3]},
        {"coreset_ratio": 0.5},
        {"coreset_max": 2},
        {"seed": 1},
    ],
)
def test_every_parameter_of_patchcore_counts(paths, change):
    plain, _, _ = _run(paths, method="patchcore", coreset_ratio=0.1)
    changed, _, _ = _run(paths, **{"method": "patchcore", "coreset_ratio": 0.1, **change})
    assert not np.array_equal(plain, changed)


@pytest.mark.parametrize("method", ["musc", "patchcore"])
def test_image_score_changes_the_image_score_alone(paths, method):
    found = {}
    for way in ("contrast", "maximum", "published"):
        values, frame, attributes = _run(paths, method=method, image_score=way)
        found[way] = (values, frame["image_score"].to_numpy(), attributes["raw_max"])
    assert np.array_equal(found["contrast"][0], found["maximum"][0])
    assert np.array_equal(found["contrast"][0], found["published"][0])
    assert not np.allclose(found["contrast"][1], found["maximum"][1])
    assert not np.allclose(found["published"][1], found["maximum"][1])
    assert found["maximum"][1].max() == pytest.approx(found["maximum"][2])


@pytest.mark.parametrize("method", ["musc", "nearest"])
def test_gamma_is_the_power_of_the_stored_maps(paths, method):
    plain, _, _ = _run(paths, method=method, gamma=1.0)
    root, frame, attributes = _run(paths, method=method, gamma=0.5)
    assert attributes["gamma"] == 0.5
    np.testing.assert_allclose(root**2, plain, atol=1e-5)
    assert frame["score"].max() == 1


@pytest.mark.parametrize(
    "change",
    [
        {"runs": [[1, 1]]},
        {"runs": [[2, 1], [3, 3]]},
        {"runs": [[1, 1], [3, 1]]},
        {"coreset_max": 2},
        {"coreset_max": 2, "seed": 1},
        {"resolution": 48},
        {"aspect": 0.25},
        {"tiles": 2},
    ],
)
def test_every_parameter_of_nearest_counts(paths, change):
    few = {"coreset_max": 2} if "seed" in change else {}
    plain, _, _ = _run(paths, method="nearest", **few)
    assert not np.array_equal(plain, _run(paths, method="nearest", **change)[0])


def test_the_method_follows_from_the_references():
    options = parse_params({}).maps
    assert options.method == "auto"
    assert settle(options, 9).method == "musc"
    assert settle(options, 10).method == "nearest"
    assert settle(options.model_copy(update={"method": "patchcore"}), 10).method == "patchcore"


def test_four_references_are_too_few_for_auto(paths):
    assert _run(paths, method="auto")[2]["method"] == "musc"


def test_nearest_with_one_reference(paths):
    _keep(paths, "id0", "id1", "id6")
    with pytest.raises(ArtifactError, match=r"at least 2 normal references.* has 1"):
        _run(paths, method="nearest")


@pytest.mark.parametrize("method", ["musc", "patchcore"])
def test_scratch_files_are_used_beyond_half_of_the_memory(paths, monkeypatch, method):
    bounds = set()

    def noted(folder, memory_mb, kind=stage.Scratch):
        bounds.add(memory_mb)
        return kind(folder, memory_mb)

    monkeypatch.setattr(stage, "Scratch", noted)
    _run(paths, method=method, memory_mb=30)
    assert bounds == {15}


def test_memory_mapped_features_give_the_same_maps(paths, monkeypatch):
    plain, _, _ = _run(paths)
    made = []
    monkeypatch.setattr(np, "memmap", _recording(made, np.memmap))
    monkeypatch.setattr(stage, "Scratch", _without_memory(stage.Scratch))
    assert np.array_equal(plain, _run(paths)[0])
    assert len(made) == 5  # two layers and the prepared one, and two layers of the references


def _recording(made: list[object], kind: type) -> object:
    def make(*arguments: object, **options: object) -> object:
        made.append(kind(*arguments, **options))
        return made[-1]

    return make


def _without_memory(kind: type) -> object:
    return lambda folder, memory_mb: kind(folder, 0)


def test_small_shards_give_the_same_maps(paths, monkeypatch):
    plain, frame, _ = _run(paths)
    monkeypatch.setattr("pipeline.io.arrays._SHARD_ITEMS", 4)
    values, small, _ = _run(paths)
    assert np.array_equal(plain, values)
    assert frame.equals(small)


def test_ground_truth_is_zeros_and_ones(paths):
    values, frame, attributes = _run(paths, method="ground_truth")
    expected = np.zeros((6, 32, 32))
    expected[:2, 16:24, 16:24] = 1
    assert np.array_equal(values, expected)
    assert (attributes["raw_min"], attributes["raw_max"]) == (0, 1)
    assert list(frame["image_score"]) == [1, 1, 0, 0, 0, 0]


def test_a_full_mask_stays_full(paths):
    _save(paths.root.parent, "ground_truth/0.png", np.full((64, 64), 255, np.uint8))
    _save(paths.root.parent, "ground_truth/3.png", np.full((64, 64), 255, np.uint8))
    assert _run(paths, method="ground_truth")[0][:2].all()


def _save_maps(paths: ArtifactPaths, values: dict[int, np.ndarray]) -> str:
    root = paths.root.parent / "made elsewhere"
    folder = root / CATEGORY / "hole"
    folder.mkdir(parents=True)
    for k, array in values.items():
        np.save(folder / f"{k}.npy", array)
    return str(root)


def test_precomputed_maps_are_joined_by_name_and_normalised_over_the_set(paths):
    given = {k: np.full((32 if k else 16,) * 2, 10.0 * k + 5) for k in range(6)}
    root = _save_maps(paths, given)
    np.save(Path(root) / CATEGORY / "hole" / "broken.npy", np.zeros((2, 2)))  # a rejected image's
    values, frame, attributes = _run(paths, method="precomputed", precomputed_root=root)
    assert (attributes["raw_min"], attributes["raw_max"]) == (5, 55)
    np.testing.assert_allclose(values[:, 7, 9], np.array([3, 0, 5, 1, 2, 4]) / 5, atol=1e-6)
    assert list(frame["image_score"]) == [35, 5, 55, 15, 25, 45]


def test_constant_maps_become_zeros(paths):
    root = _save_maps(paths, {k: np.full((8, 8), 0.7) for k in range(6)})
    values, _, attributes = _run(paths, method="precomputed", precomputed_root=root)
    assert not values.any()
    assert attributes["raw_min"] == attributes["raw_max"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({k: np.zeros((2, 2)) for k in range(5)}, "1 images without a map: test/hole/5.png"),
        ({k: np.zeros((2, 2)) for k in range(7)}, "1 maps of no image: hole/6.npy"),
        ({k: np.full((2, 2), np.nan if k == 4 else 0) for k in range(6)}, "4.npy: holds NaN"),
    ],
)
def test_bad_precomputed_maps_leave_nothing_behind(paths, values, message):
    root = _save_maps(paths, values)
    with pytest.raises(MapFileError, match=message):
        _run(paths, method="precomputed", precomputed_root=root)
    assert not paths.maps(CATEGORY).exists()
    assert not list(paths.root.glob("maps/*"))


def _keep(paths: ArtifactPaths, *ids: str) -> None:
    path = paths.manifest(CATEGORY) / "images.parquet"
    frame = read_parquet(path, schemas.IMAGES)
    write_parquet(path, frame[frame["sample_id"].isin(ids)], schemas.IMAGES)


def test_patchcore_without_normal_images(paths):
    _keep(paths, "id0", "id1")
    with pytest.raises(ArtifactError, match="split 'normal' is empty"):
        _run(paths, method="patchcore")


def test_musc_with_two_images_and_with_one(paths):
    _keep(paths, "id0", "id1")
    run_stage(stage, CATEGORY, _params(paths), paths)
    _keep(paths, "id0")
    with pytest.raises(ArtifactError, match="at least 2"):
        run_stage(stage, CATEGORY, _params(paths), paths)
