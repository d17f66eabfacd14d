"""Stages on Dask: the same bytes as in one process, also when workers die."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.commands.engine_checks import check_engine, is_open
from pipeline.config.params import Compute, Params
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.executor import Engine, Local, map_shards, using
from pipeline.io.images import ImageError
from pipeline.io.paths import ArtifactPaths
from stages import (
    backbone,
    base,
    classes,
    crops,
    evaluate,
    manifest,
    maps,
    maps_backbone,
    mebin,
    views,
)
from tests.distributed.workers import Killed, Late, Through, own_pid, twice
from tests.graph import ROOT
from tests.running import run_stage

distributed = pytest.importorskip("distributed", reason="needs the extra dask")
import dask  # noqa: E402

from pipeline.distributed.cluster import check_workers  # noqa: E402
from pipeline.distributed.dask_engine import Dask, LostBlockError  # noqa: E402
from pipeline.distributed.fingerprint import fingerprint  # noqa: E402

FEW, MANY, SIDE = 260, 600, 48
"""Images, in 2 or 3 blocks of masks, of crops and of files, and their side."""


def write_images(root: Path, n: int) -> None:
    """Images with one bright square each, some broken, and their maps and masks as files."""
    rng = np.random.default_rng(0)
    for kind in (
        "test/good",
        "test/hole",
        "ground_truth/hole",
        "maps/c/test/good",
        "maps/c/test/hole",
    ):
        (root / ("c" if not kind.startswith("maps") else "") / kind).mkdir(parents=True)
    for i in range(n):
        kind = "good" if i % 4 == 0 else "hole"
        pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
        pixels[:2, :2] = rng.integers(0, 256, (2, 2, 3))  # no two files are the same
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if kind == "hole":
            y, x = rng.integers(4, SIDE - 14, 2)
            mask[y : y + 10, x : x + 10] = 255
        amap = (mask / 255 * 0.8 + rng.random((SIDE, SIDE)) * 0.1).astype(np.float32)
        Image.fromarray(pixels + mask[..., None] // 3).save(root / f"c/test/{kind}/{i:04}.png")
        np.save(root / f"maps/c/test/{kind}/{i:04}.npy", amap)
        if kind == "hole":
            Image.fromarray(mask).save(root / f"c/ground_truth/hole/{i:04}_mask.png")
    (root / "c/test/hole/0001.png").write_bytes(b"no image")
    (root / "maps/c/test/hole/0001.npy").unlink()


def params(root: Path) -> Params:
    return parse_params(
        {
            "dataset": {"root": str(root), "categories": ["c"]},
            "maps": {"method": "precomputed", "precomputed_root": str(root / "maps"),
                     "map_size": SIDE},
            "mebin": {"erode_px": 2},
            "evaluate": {"bootstrap": 2},
        }
    )  # fmt: skip


def run(engine: Engine, root: Path, data: Path, *, more: bool = False) -> dict[str, str]:
    """Run the first stages, or `more`, on an engine; return the digest of each one's output."""
    paths, options = ArtifactPaths(data), params(root)
    with using(engine):
        for stage in (manifest, maps, mebin, *([crops] if more else [])):
            run_stage(stage, "c", options, paths)
        if more:
            write_merged(paths)
            run_stage(evaluate, "c", options, paths)
    return digests(data)


def write_merged(paths: ArtifactPaths) -> None:
    """Write one class for all images, as `predict` and `merge` might have."""
    import pandas as pd

    from pipeline.io import schemas
    from pipeline.io.tables import read_parquet, write_parquet

    regions = read_parquet(paths.crops("c") / "crops.parquet", schemas.CROPS)
    same = {"class": 0, "confidence": 1.0}
    ids = regions[["crop_id", "sample_id"]]
    frame = ids.assign(**same, probabilities=[[1.0]] * len(ids), embedding=[[0.0]] * len(ids))
    folder = paths.predict("c")
    write_parquet(folder / "regions.parquet", frame, schemas.REGIONS)
    images = pd.DataFrame({"sample_id": ids["sample_id"].unique(), **same})
    n = len(images)
    images = images.assign(probabilities=[[1.0]] * n, region_classes=[[0]] * n, class_set=[[]] * n)
    write_parquet(paths.merge("c") / "images.parquet", images, schemas.MERGED)
    parts = pd.DataFrame({"part": images["sample_id"], **same, "probabilities": [[1.0]] * n})
    parts = parts.assign(n_images=1, n_defective=0)
    write_parquet(paths.merge("c") / "parts.parquet", parts, schemas.PART_VERDICTS)


def digests(data: Path) -> dict[str, str]:
    """Return a SHA-256 of names and bytes of the files below each folder of `data`."""
    return {folder.name: digest(folder) for folder in sorted(data.iterdir())}


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            found.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_images(root, FEW)
    return root


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """More images, and the digests of what one process makes of them."""
    root, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("local") / "data"
    write_images(root, MANY)
    return root, run(Local(), root, data, more=True)


@pytest.fixture(scope="module")
def local(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Artifacts of one process, and their digests."""
    data = tmp_path_factory.mktemp("local") / "data"
    return data, run(Local(), images, data)


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A scheduler and two workers, as processes of their own that start in another folder."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    given = ["--scheduler-file", str(file)]
    dashless, one = ["--no-dashboard"], ["--nthreads", "1", "--no-dashboard", "--no-nanny"]
    commands = [
        ["scheduler", "--host", "127.0.0.1", "--port", "0", *given, *dashless],
        *[["worker", *given, *one]] * 2,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = []
    try:
        for what, *arguments in commands:
            module = f"distributed.cli.dask_{what}"
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    cwd=folder,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            while what == "scheduler" and not file.exists():
                assert started[0].poll() is None
                time.sleep(0.05)
        yield file
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture
def on(scheduler_file: Path) -> Iterator[Dask]:
    """An engine on the scheduler and its two workers."""
    with ExitStack() as stack:
        yield Dask(Compute(engine="dask", address=str(scheduler_file)), stack)


@pytest.fixture
def cluster() -> Iterator[Callable[..., Dask]]:
    """Engines on clusters of this machine, whose workers are started again when they die."""
    with ExitStack() as stack:
        yield lambda workers: Dask(Compute(engine="dask", workers=workers), stack)


def test_artifacts_are_the_same_bytes(images, local, on, tmp_path):
    """Two processes; blocks take turns by chance."""
    late = Through(on, partial(Late, seed=1, most_s=0.1), [])
    assert run(late, images, tmp_path / "data") == local[1]
    assert set(late.calls) == {"inspect_block", "mask_problems", "mask_block"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "workers", [2, pytest.param(1, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
)
def test_no_number_of_workers_changes_a_byte(many, cluster, tmp_path, workers):
    late = Through(cluster(workers), partial(Late, seed=workers, most_s=0.2), [])
    assert run(late, many[0], tmp_path / "data", more=True) == many[1]
    assert set(late.calls) == {
        "inspect_block", "mask_problems", "mask_block", "square_block", "cut_block", "judge_block",
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("method", ["nearest", "musc", "patchcore"])
def test_networks_give_the_same_bits(cluster, tmp_path, method):
    """Maps, pooled tokens, the number of classes, views."""
    root = tmp_path / "raw"
    (tmp_path / "none").mkdir()
    write_images(root, MANY)
    options = parse_params(
        {
            "dataset": {"root": str(root), "categories": ["c"]},
            "backbone": {"source": "random", "name": "test_vit.r160_in1k"},
            "maps": {"method": method, "runs": [[0, 1], [1, 3]], "resolution": 64, "aspect": 1.0,
                     "map_size": 48, "coreset_max": 500, "layers": [1],
                     "neighbourhoods": [1], "references": 200},
            "mebin": {"erode_px": 2},
            "classes": {"count": "auto"},
            "base": {"root": str(tmp_path / "none")},
            "views": {"image_size": 64, "count": 2, "mask_layers": 2},
            "predict": {"layers": [0, 1], "normal": "regions", "classifier": "heads"},
            "compute": {"device": "cpu", "dtype": "float32"},
        }
    )  # fmt: skip
    good = sorted(path.name for path in (root / "c/test/good").iterdir())[:70]
    (root / "c/train/good").mkdir(parents=True)
    for name in good:
        (root / "c/test/good" / name).rename(root / "c/train/good" / name)
    found = []
    for name, engine in (("local", Local()), ("dask", cluster(2))):
        paths = ArtifactPaths(tmp_path / name)
        calls: list[str] = []
        with using(Through(engine, partial(Late, seed=0, most_s=0.0), calls)):
            for stage, category in (
                (backbone, None), (maps_backbone, None), (base, None), (manifest, "c"),
                (maps, "c"), (mebin, "c"), (crops, "c"), (classes, "c"), (views, "c"),
            ):  # fmt: skip
                run_stage(stage, category, options, paths)
        found.append(digests(paths.root))
        assert {"token_block", "write_map_block", "view_block"} <= set(calls)
    assert ("compare_block" if method == "nearest" else "feature_block") in calls
    assert calls.count("feature_block") == (2 if method == "patchcore" else 1)
    assert ("against_block" in calls) == (method == "musc")
    assert found[0] == found[1]


def test_blocks_run_on_both_workers_and_come_back_in_order(on):
    numbers = [n for n in range(40) if n not in (3, 5, 6)]
    items = [range(n, n + 1) for n in range(len(numbers))]
    seen: list[tuple[int, int]] = []
    with using(on):
        assert map_shards(twice, numbers, items=items) == [2 * n for n in numbers]
        pids = map_shards(own_pid, numbers, items=items, progress=lambda *n: seen.append(n))
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert seen == [(n + 1, len(numbers)) for n in range(len(numbers))]


def test_the_first_block_in_order_says_what_is_wrong(on):
    """As in one process, although two later blocks fail before it."""
    with using(on), pytest.raises(ImageError, match=r"^3\.png: no image$") as caught:
        map_shards(twice, range(8), items=[range(n, n + 1) for n in range(8)])
    assert caught.value.reason == "no image"


def test_an_image_error_survives_pickle():
    error = pickle.loads(pickle.dumps(ImageError(Path("a.png"), "broken")))
    assert (str(error), error.path, error.reason) == ("a.png: broken", Path("a.png"), "broken")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "in", "after"])
def test_a_killed_worker_changes_nothing(images, local, cluster, tmp_path, moment):
    """Killed before, in or after the writing of its shards; the block runs again."""
    data, marker = tmp_path / "data", tmp_path / "killed"
    for stage in ("manifest", "maps"):
        shutil.copytree(local[0] / stage, data / stage)
    killed = Through(cluster(2), partial(Killed, moment=moment, marker=marker), [])
    with using(killed):
        run_stage(mebin, "c", params(images), ArtifactPaths(data))
    assert marker.exists()
    assert not list(data.rglob("*.partial"))
    assert digests(data)["mebin"] == local[1]["mebin"]


@pytest.mark.slow
def test_a_block_that_kills_every_worker_is_one_line(images, local, cluster, tmp_path):
    """The artifact of the run before stays."""
    data = tmp_path / "data"
    shutil.copytree(local[0], data)
    killed = Through(cluster(2), partial(Killed, moment="before"), [])
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        using(killed),
        pytest.raises(LostBlockError, match=r"^items 0 to 255 ended 2 workers") as caught,
    ):
        run_stage(mebin, "c", params(images), ArtifactPaths(data))
    assert "\n" not in str(caught.value)
    assert digests(data) == local[1]
    assert not [path for path in data.rglob("*") if path.suffix in (".tmp", ".partial", ".old")]


def test_no_worker_is_an_error_after_a_while(images):
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "1s"}),
        distributed.LocalCluster(n_workers=0, dashboard_address=None, processes=False) as empty,
        ExitStack() as stack,
    ):
        engine = Dask(Compute(engine="dask", address=empty.scheduler_address), stack)
        with using(engine), pytest.raises(ConfigError, match=r"no worker at .* for 1 s"):
            map_shards(twice, [0, 1], items=[range(1), range(1, 2)])


def test_no_scheduler_is_an_error():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        ExitStack() as stack,
        using(Dask(Compute(engine="dask", address="tcp://127.0.0.1:9"), stack)),
        pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
    ):
        map_shards(twice, [0, 1], items=[range(1), range(1, 2)])


def test_workers_of_another_version_are_refused(on, monkeypatch):
    """Those that are there, and those that join later."""
    own = {**fingerprint(), "torch": "1.0"}
    with pytest.raises(ConfigError, match=r"worker tcp.*\btorch 1\.0 here, .* there"):
        check_workers(on.client, own)
    check_workers(on.client, fingerprint())
    monkeypatch.setattr("pipeline.distributed.dask_engine.fingerprint", lambda: own)
    with using(on), pytest.raises(ConfigError, match=r"worker tcp.*\btorch 1\.0 here, .* there"):
        map_shards(twice, [0, 1], items=[range(1), range(1, 2)])


def test_doctor_knows_the_cluster(scheduler_file, monkeypatch):
    def lines(**compute: object) -> list[tuple[str, str]]:
        given = parse_params({"compute": {"engine": "dask", **compute}})
        return [(line.state, line.finding) for line in check_engine(given)]

    (found,) = lines(address=str(scheduler_file))
    assert found[0] == "ok"
    assert "2 threads of workers" in found[1]
    assert lines(workers=3) == [("ok", "dask on this machine, workers: 3")]
    monkeypatch.setattr("pipeline.commands.engine_checks.is_open", lambda address: True)
    assert [state for state, _ in lines(address=str(scheduler_file))] == ["ok", "warning"]
    assert list(check_engine(Params())) == []


@pytest.mark.parametrize(
    ("address", "open_"),
    [("tcp://10.0.0.1:8786", True), ("tls://10.0.0.1:8786", False), ("tcp://127.0.0.1:1", False)],
)
def test_an_address_that_others_reach_is_open(address, open_):
    assert is_open(address) == open_


@pytest.mark.slow
def test_a_killed_client_leaves_the_old_artifact(images, local, tmp_path):
    """And the next run gives the same bytes."""
    data, marker = tmp_path / "data", tmp_path / "started"
    shutil.copytree(local[0], data)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.distributed.test_dask import run_for_ever\n"
        "if __name__ == '__main__': run_for_ever(*map(Path, sys.argv[1:]))"
    )
    script = tmp_path / "client.py"
    script.write_text(code)
    client = subprocess.Popen(
        [sys.executable, script, images, data, marker],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    end = time.monotonic() + 180
    while not marker.exists() and client.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert marker.exists()
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert digest(data / "mebin" / "c") == digest(local[0] / "mebin" / "c")
    with using(Local()):
        run_stage(mebin, "c", params(images), ArtifactPaths(data))
    assert digests(data) == local[1]


def run_for_ever(images: Path, data: Path, marker: Path) -> None:
    """Run `mebin` with blocks that wait for a minute."""
    with ExitStack() as stack:
        engine = Dask(Compute(engine="dask", workers=1), stack)
        engine.client.wait_for_workers(1)
        marker.touch()  # the blocks start now
        with using(Through(engine, partial(Late, seed=0, most_s=60), [])):
            run_stage(mebin, "c", params(images), ArtifactPaths(data))
