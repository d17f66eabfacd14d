"""A whole run on images in a bucket: the artifacts of one on the same images in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import kills
from pipeline.cli import app
from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.io.images import ImageError
from pipeline.io.inventory import INVENTORY
from pipeline.io.paths import ArtifactPaths
from pipeline.io.storage import StorageError
from tests.buckets import Bucket, bucket_server, environment

READING = ("manifest", "maps", "mebin", "crops", "evaluate", "report")
"""Stages that read images or masks, and what lies between."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with bucket_server() as started:
        yield started


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set in `images` and the artifacts of a run in `data`."""
    work = tmp_path_factory.mktemp("local")
    kills.write_set(work / "images")
    for stage in kills.STAGES:
        kills.run_stage(stage, kills.settings(work, seed=0), ArtifactPaths(work / "data"))
    return work


def rooted(params: Params, root: str) -> Params:
    content = params.model_dump(by_alias=True)
    content["dataset"]["root"] = root
    content["compute"] = {"device": "cpu"}
    return parse_params(content)


def write_inventories(source: str, folder: Path) -> str:
    command = ["inventory", source, "--to", str(folder), "--category", kills.CATEGORY]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("root", ["bucket", "inventory of it", "inventory of a folder"])
def test_the_same_artifacts(root: str, bucket: Bucket, local: Path, tmp_path: Path) -> None:
    bucket.fill(local / "images")
    address = bucket.address
    if root != "bucket":
        address = str(tmp_path / "inventories")
        folder = "folder" in root
        write_inventories(str(local / "images") if folder else bucket.address, Path(address))
        assert [p.name for p in Path(address, kills.CATEGORY).iterdir()] == [INVENTORY]
    params = rooted(kills.settings(local, seed=0), address)
    data = tmp_path / "data"
    data.mkdir()
    for stage in kills.STAGES:
        if stage not in READING:
            (data / stage).symlink_to(local / "data" / stage)
            continue
        kills.run_stage(stage, params, ArtifactPaths(data))
    for stage in READING:
        expected, found = (kills.written(d, stage) for d in (local / "data", data))
        assert expected
        assert found == expected, stage
    page = (data / f"report/review-{kills.CATEGORY}.html").read_text()
    assert page == (local / f"data/report/review-{kills.CATEGORY}.html").read_text()


def test_images_that_change_between_stages(bucket: Bucket, local: Path, tmp_path: Path) -> None:
    """A changed one is refused, a missing one too, and a damaged one is left out with a reason."""
    bucket.prefix = "raw/changing"
    bucket.fill(local / "images")
    params = rooted(kills.settings(local, seed=0), bucket.address)
    data, first = tmp_path / "data", next((local / "images").rglob("test/good/*.png"))
    name = first.relative_to(local / "images").as_posix()
    data.mkdir()
    for stage in ("backbone", "maps_backbone"):
        if (local / "data" / stage).exists():
            (data / stage).symlink_to(local / "data" / stage)
    kills.run_stage("manifest", params, ArtifactPaths(data))
    bucket.put(name, first.read_bytes() + b" ")
    with pytest.raises(ImageError, match=f"{name}: changed since the manifest was made"):
        kills.run_stage("maps", params, ArtifactPaths(data))
    bucket.remove(name)
    with pytest.raises(ImageError, match=f"{name}: no such file"):
        kills.run_stage("maps", params, ArtifactPaths(data))


def test_a_broken_connection_is_no_reason_to_leave_images_out(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an inventory, `manifest` has the names, and cannot read a single one of them."""
    with bucket_server() as bucket:
        bucket.fill(local / "images")
        write_inventories(bucket.address, tmp_path / "inventories")
    environment(monkeypatch, bucket.url)
    params = rooted(kills.settings(local, seed=0), str(tmp_path / "inventories"))
    with pytest.raises(StorageError, match="cannot be read"):
        kills.run_stage("manifest", params, ArtifactPaths(tmp_path / "data"))
    assert not (tmp_path / "data/manifest" / kills.CATEGORY).exists()
