"""The four tables of the stage `manifest`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.io import schemas
from pipeline.io.dataset_formats import DatasetError
from pipeline.io.images import sample_id
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import image_bits, read_metadata, read_parquet, write_parquet
from stages import manifest
from tests.running import run_stage


def put(path: Path, seed: int, size: tuple[int, int] = (12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An MVTec-like product with one of everything."""
    root = tmp_path / "raw/gadget"
    for i in range(3):
        put(root / f"train/good/{i}.png", i)
        put(root / f"test/good/{i}.png", 10 + i)
        put(root / f"test/größter Riss/{i}.png", 20 + i, (9 + i, 14))
    mask = root / "ground_truth/größter Riss/1_mask.png"
    mask.parent.mkdir(parents=True)
    Image.fromarray(np.full((10, 14), 255, np.uint8)).save(mask)
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(mask.with_name("2_mask.png"))
    put(root / "test/combined/0.png", 30)
    (root / "test/good/broken.png").write_bytes(b"")
    return root


def params_of(raw: Path, **manifest_options: object) -> Params:
    return parse_params(
        {
            "dataset": {"root": str(raw.parent), "categories": [raw.name]},
            "manifest": manifest_options,
        }
    )


def tables(paths: ArtifactPaths) -> dict[str, pd.DataFrame]:
    expected: dict[str, pa.Schema] = {
        "images": schemas.IMAGES,
        "labels": schemas.LABELS,
        "masks": schemas.MASKS,
        "rejected": schemas.REJECTED,
    }
    folder = paths.manifest("gadget")
    return {name: read_parquet(folder / f"{name}.parquet", s) for name, s in expected.items()}


def test_tables(raw: Path, tmp_path: Path) -> None:
    paths = ArtifactPaths(tmp_path / "out")
    run_stage(manifest, "gadget", params_of(raw), paths)
    table = tables(paths)
    images, labels, masks = table["images"], table["labels"], table["masks"]

    assert len(images) == 9
    assert images["sample_id"].tolist() == sorted(images["sample_id"])
    for row in images.itertuples():
        assert sample_id(raw / str(row.path)) == row.sample_id
    assert set(images.loc[images["split"] == "normal", "path"]) == {
        f"train/good/{i}.png" for i in range(3)
    }
    sizes = images.set_index("path")
    assert sizes.loc["test/größter Riss/2.png", ["height", "width", "channels"]].tolist() == [
        11,
        14,
        3,
    ]

    queries = images.loc[images["split"] == "query"].set_index("sample_id")
    assert set(labels["sample_id"]) == set(queries.index)
    for row in labels.itertuples():
        assert str(queries.loc[row.sample_id, "path"]).split("/")[1] == row.label

    assert masks["mask_path"].tolist() == ["ground_truth/größter Riss/1_mask.png"]
    assert queries.loc[masks["sample_id"][0], "path"] == "test/größter Riss/1.png"
    assert table["rejected"]["path"].tolist() == [
        "ground_truth/größter Riss/2_mask.png",
        "test/combined/0.png",
        "test/good/broken.png",
    ]
    metadata = read_metadata(paths.manifest("gadget") / "images.parquet")
    assert metadata["schema_version"] == 1


def test_a_flat_folder_gives_empty_labels_and_masks(tmp_path: Path) -> None:
    raw = tmp_path / "raw/gadget"
    for i in range(3):
        put(raw / f"{i}.png", i)
    paths = ArtifactPaths(tmp_path / "out")
    run_stage(manifest, "gadget", params_of(raw), paths)
    table = tables(paths)
    assert len(table["images"]) == 3
    assert [len(table[name]) for name in ("labels", "masks", "rejected")] == [0, 0, 0]


def test_a_file_with_the_same_bytes_names_the_one_that_is_used(tmp_path: Path) -> None:
    raw = tmp_path / "raw/gadget"
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        put(raw / f"{name}.png", seed)
    (raw / "d.png").write_bytes(b"nothing")
    paths = ArtifactPaths(tmp_path / "out")
    run_stage(manifest, "gadget", params_of(raw), paths)
    rejected = tables(paths)["rejected"].set_index("path")
    assert rejected.loc["b.png", "duplicate_of"] == "a.png"
    assert pd.isna(rejected.loc["d.png", "duplicate_of"])


def test_every_parameter_reaches_the_scan(raw: Path, tmp_path: Path) -> None:
    paths = ArtifactPaths(tmp_path / "out")

    def counts(**options: object) -> tuple[int, int, int]:
        run_stage(manifest, "gadget", params_of(raw, **options), paths)
        table = tables(paths)
        splits = table["images"]["split"]
        return sum(splits == "query"), sum(splits == "normal"), len(table["labels"])

    assert counts() == (6, 3, 6)
    assert counts(exclude_labels=[]) == (7, 3, 7)
    assert counts(exclude_labels=["good", "combined"]) == (3, 0, 3)
    assert counts(normal_label=["fine"]) == (6, 0, 6)
    put(raw.parents[1] / "more/gadget/x.png", 77)
    put(raw.parents[1] / "more/widget/y.png", 78)
    assert counts(normal_root=str(raw.parents[1] / "more")) == (6, 4, 6)
    (raw / "list.txt").write_text("test/good/0.png\n")
    assert counts(normal_list="list.txt") == (5, 4, 5)
    assert counts(layout="folder")[2] == 0
    counts(bits=12)
    assert read_metadata(paths.manifest("gadget") / "images.parquet")["bits"] == 12
    assert image_bits(paths.manifest("gadget")) == 12


def test_run_again_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    paths = ArtifactPaths(tmp_path / "out")
    folder = paths.manifest("gadget")
    run_stage(manifest, "gadget", params_of(raw), paths)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    run_stage(manifest, "gadget", params_of(raw), paths)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert len(first) == 4


def test_a_failure_halfway_leaves_what_was_there(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ArtifactPaths(tmp_path / "out")
    run_stage(manifest, "gadget", params_of(raw), paths)
    before = tables(paths)["images"]
    put(raw / "test/good/new.png", 60)
    write = write_parquet

    def dies(path: Path, *args: object) -> None:
        if path.name == "masks.parquet":
            raise KeyboardInterrupt
        write(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("stages.manifest.write_parquet", dies)
    with pytest.raises(KeyboardInterrupt):
        run_stage(manifest, "gadget", params_of(raw), paths)
    pd.testing.assert_frame_equal(tables(paths)["images"], before)
    assert [p.name for p in paths.manifest("gadget").parent.iterdir()] == ["gadget"]


def test_no_query_image_writes_nothing(tmp_path: Path) -> None:
    raw = tmp_path / "raw/gadget"
    raw.mkdir(parents=True)
    paths = ArtifactPaths(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"gadget.*no usable query image"):
        run_stage(manifest, "gadget", params_of(raw), paths)
    assert not paths.manifest("gadget").exists()


def parts(raw: Path, tmp_path: Path, rule: str | None) -> dict[str, str]:
    paths = ArtifactPaths(tmp_path / "out")
    run_stage(manifest, "gadget", params_of(raw, part=rule), paths)
    images = tables(paths)["images"]
    names = images["part"].where(images["part"] != images["sample_id"], "itself")
    return dict(zip(images["path"], names, strict=True))


def test_each_image_is_a_part_of_its_own(raw: Path, tmp_path: Path) -> None:
    assert set(parts(raw, tmp_path, None).values()) == {"itself"}


def test_an_expression_names_parts(raw: Path, tmp_path: Path) -> None:
    found = parts(raw, tmp_path, r"good/(\d)\.png$")
    assert found["test/good/1.png"] == found["train/good/1.png"] == "1"
    assert found["test/größter Riss/1.png"] == "itself"
    whole = parts(raw, tmp_path, r"(?<=/)\d(?=\.png)")
    assert whole["test/größter Riss/2.png"] == whole["train/good/2.png"] == "2"


def test_a_file_names_parts(raw: Path, tmp_path: Path) -> None:
    (raw / "parts.csv").write_text(
        "path,part\ntest/good/0.png,left\ntest/größter Riss/0.png,left\ntest/combined/0.png,x\n",
        encoding="utf-8",
    )
    found = parts(raw, tmp_path, "parts.csv")
    assert found["test/good/0.png"] == found["test/größter Riss/0.png"] == "left"
    assert list(found.values()).count("itself") == 7
    assert "parts.csv" not in set(tables(ArtifactPaths(tmp_path / "out"))["rejected"]["path"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,part\n", "first line .* must be: path,part"),
        ("path,part\ntest/good/9.png,a\n", r"line 2: there is no file 'test/good/9\.png'"),
        ("path,part\ntest/good/1.png,a\ntest/good/1.png,b\n", r"line 3: .* is listed twice"),
        ("path,part\ntest/good/1.png,\n", "line 2: give a path and its part"),
        ("path,part\ntest/good/1.png\n", "line 2: give a path and its part"),
        (None, r"parts\.csv cannot be read"),
    ],
)
def test_a_file_of_parts_with_a_mistake_is_named(
    raw: Path, tmp_path: Path, text: str | None, problem: str
) -> None:
    if text is not None:
        (raw / "parts.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=f"manifest.part: .*{problem}"):
        parts(raw, tmp_path, "parts.csv")


@pytest.mark.parametrize("rule", ["(", "", ".*", "a{2,1}"])
def test_a_useless_expression_is_refused(raw: Path, rule: str) -> None:
    with pytest.raises(ConfigError, match=r"manifest\.part: "):
        params_of(raw, part=rule)
