"""Artifacts: round trips, schema checks, and that nothing half-written is ever seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.io.arrays import (
    ArraySpec,
    create_arrays,
    group_path,
    open_arrays,
    open_block,
    shard_items,
    write_block,
)
from pipeline.io.crop_files import crop_specs
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactError
from pipeline.io.schemas import CROPS, LABELS, MEBIN_IMAGES, SCHEMA_VERSION
from pipeline.io.tables import read_json, read_metadata, read_parquet, write_json, write_parquet


def mebin_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": ["a", "b"],
            "threshold": [0.25, None],
            "n_regions": [1, 0],
            "run_length": [5, 0],
            "counts": [[0, 1, 1], [0, 0, 0]],
        }
    )


def test_parquet_round_trip_keeps_nulls_lists_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "images.parquet"
    write_parquet(path, mebin_frame(), MEBIN_IMAGES, {"s_min": 0.125, "rule": "paper"})
    frame = read_parquet(path, MEBIN_IMAGES)
    assert frame["sample_id"].tolist() == ["a", "b"]
    assert frame["threshold"][0] == 0.25
    assert np.isnan(frame["threshold"][1])
    assert [list(x) for x in frame["counts"]] == [[0, 1, 1], [0, 0, 0]]
    assert read_metadata(path) == {
        "schema_version": SCHEMA_VERSION,
        "s_min": 0.125,
        "rule": "paper",
    }
    assert [p.name for p in path.parent.iterdir()] == ["images.parquet"]


def test_empty_frames_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "crops.parquet"
    write_parquet(path, pd.DataFrame(columns=CROPS.names), CROPS)
    assert len(read_parquet(path, CROPS)) == 0


def test_parquet_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data" / "mebin" / "x" / "images.parquet"
    with pytest.raises(ArtifactError, match=r"run the stage 'mebin' first"):
        read_parquet(path, MEBIN_IMAGES)
    write_parquet(path, mebin_frame(), MEBIN_IMAGES)
    with pytest.raises(ArtifactError, match=r"images\.parquet: has columns"):
        read_parquet(path, LABELS)
    with pytest.raises(ArtifactError, match="lacks the columns"):
        write_parquet(path, mebin_frame()[["sample_id"]], MEBIN_IMAGES)
    path.write_bytes(b"not parquet")
    with pytest.raises(ArtifactError, match="not a readable Parquet file"):
        read_parquet(path, MEBIN_IMAGES)


def test_a_failed_write_leaves_the_old_artifact(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.mkdir()
    (path / "old").write_text("old")

    def fail() -> None:
        with replacing_folder(path) as temporary:
            temporary.mkdir()
            (temporary / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@settings(max_examples=10)
@given(n=st.integers(0, 9), side=st.integers(1, 5))
def test_arrays_round_trip(tmp_path_factory: pytest.TempPathFactory, n: int, side: int) -> None:
    path = tmp_path_factory.mktemp("z") / "masks.zarr"
    content = np.random.default_rng(n).random((n, side, side)) < 0.5
    specs = {"masks": ArraySpec(content.shape, "bool")}
    with create_arrays(path, specs, {"rule": "paper"}) as arrays:
        assert not path.exists()
        if n:
            arrays["masks"][:] = content
    group = open_arrays(path)
    assert group.attrs["rule"] == "paper"
    masks = group["masks"]
    assert isinstance(masks, zarr.Array)
    np.testing.assert_array_equal(masks[:], content)
    assert masks.chunks == (1, side, side)
    assert masks.metadata.zarr_format == 3


def test_shards_bound_what_a_writer_holds() -> None:
    assert shard_items(ArraySpec((9, 8, 8), "bool")) == 256
    assert shard_items(ArraySpec((9, 8192, 8192), "float32")) == 1


def test_arrays_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        open_arrays(tmp_path / "none.zarr")
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(ArtifactError, match="schema_version is None"):
        open_arrays(tmp_path / "other.zarr")


def test_json_refuses_nan_and_names_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"nmi": None, "name": "Träger"})
    assert read_json(path) == {"nmi": None, "name": "Träger"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"nmi": float("nan")})
    assert read_json(path)["nmi"] is None
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"x\.json: not valid JSON"):
        read_json(path)


def test_blocks_of_zeros_are_written_and_parts_of_shards_refused(tmp_path: Path) -> None:
    """By another handle, as a worker has it; what a killed writer left does not stay."""
    spec = ArraySpec((300, 4), "uint8")
    with create_arrays(tmp_path / "a.zarr", {"values": spec}) as arrays:
        array = open_block(group_path(arrays["values"]))["values"]
        with pytest.raises(ValueError, match="items 10 to 256 of 300 are not whole shards of 256"):
            write_block(array, 10, np.ones((246, 4), np.uint8))
        with pytest.raises(ValueError, match="items 0 to 200"):
            write_block(array, 0, np.ones((200, 4), np.uint8))
        write_block(array, 256, np.ones((44, 4), np.uint8))
        write_block(array, 0, np.zeros((256, 4), np.uint8))
        left = group_path(arrays["values"]) / "values/c/0/0.abc.partial"
        left.touch()
    values = open_arrays(tmp_path / "a.zarr")["values"]
    assert values[:256].sum() == 0
    assert values[256:].all()
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("size", [64, 256, 296, 448])
def test_the_arrays_of_crops_share_their_shards(size: int) -> None:
    """So a block of whole shards is small, whatever the size of the crops."""
    specs = crop_specs(1000, size, weighted=True)
    assert {shard_items(spec) for spec in specs.values()} == {shard_items(specs["images"])}
    assert shard_items(specs["images"]) * size * size * 3 <= 64 * 2**20
