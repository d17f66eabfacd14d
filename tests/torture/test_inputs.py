"""Files that no stage may hang on, be blown up by, hand to another program, or misread silently."""

from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.data_checks import check_data
from pipeline.config.params import Params
from pipeline.config.reading import load_params, parse_params
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import read_corrections
from pipeline.io import map_files
from pipeline.io.arrays import open_arrays
from pipeline.io.datasets import collect
from pipeline.io.images import ImageError, read_image
from pipeline.io.map_files import MapFileError, find_maps, read_map
from pipeline.io.paths import ArtifactPaths
from stages import crops, manifest, maps, mebin
from tests.running import run_stage

runner = CliRunner()
SECONDS = 60


def put(path: Path, seed: int = 0, size: tuple[int, int] = (12, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(path)
    return path


def in_time(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which is killed if it hangs."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)


def strange_files(folder: Path, name: str, suffix: str) -> list[Path]:
    """Make a pipe, a link to one, and a link to a device without an end."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}_{kind}{suffix}" for kind in ("pipe", "link", "zero")]
    os.mkfifo(paths[0])
    paths[1].symlink_to(paths[0])
    paths[2].symlink_to("/dev/zero")
    return paths


COLLECT = """
import resource, sys
from pathlib import Path
from pipeline.io.datasets import collect
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
for row in collect(Path(sys.argv[1])).rejected:
    print(row.path, row.reason)
"""


def test_pipes_and_devices_are_rejected_as_images_and_masks(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"test/a/{i}.png", i)
    strange_files(tmp_path / "test/a", "x", ".png")
    os.mkfifo(tmp_path / "test/a/0.txt")
    (tmp_path / "ground_truth/a").mkdir(parents=True)
    os.mkfifo(tmp_path / "ground_truth/a/1_mask.png")
    done = in_time(COLLECT, tmp_path)
    assert done.returncode == 0, done.stderr
    reasons = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    names = ["test/a/x_pipe.png", "test/a/x_link.png", "test/a/x_zero.png"]
    for name in [*names, "ground_truth/a/1_mask.png"]:
        assert "not a regular file" in reasons[name]


READ_MAP = """
import resource, sys
from pathlib import Path
from pipeline.io.map_files import MapFileError, read_map
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
try:
    read_map(Path(sys.argv[1]))
except MapFileError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png"])
def test_pipes_and_devices_are_refused_as_maps(tmp_path: Path, suffix: str) -> None:
    for path in strange_files(tmp_path, "x", suffix):
        done = in_time(READ_MAP, path)
        assert f"{path}: not a regular file" in done.stdout, done.stderr


READ_CORRECTIONS = """
import resource, sys
from pathlib import Path
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import read_corrections
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
try:
    read_corrections(Path(sys.argv[1]))
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["pipe", "zero"])
def test_corrections_that_have_no_end_are_refused(tmp_path: Path, kind: str) -> None:
    paths = dict(zip(("pipe", "link", "zero"), strange_files(tmp_path, "x", ".json"), strict=True))
    done = in_time(READ_CORRECTIONS, paths[kind])
    assert f"{paths[kind]}: not a regular file" in done.stdout, done.stderr


def test_init_says_how_many_files_lie_outside(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"product/{i}.png", i)
    put(tmp_path / "other/8.png", 8)
    (tmp_path / "other/9.txt").touch()
    (tmp_path / "product/more").symlink_to(tmp_path / "other")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/dvc.yaml").touch()
    arguments = [
        "init",
        str(tmp_path / "product"),
        "--params",
        str(tmp_path / "project/params.yaml"),
    ]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 files lie outside" in result.output
    (tmp_path / "product/more").unlink()
    assert "manifest.bits" not in result.output
    assert "lie outside" not in runner.invoke(app, arguments).output


INIT = """
import resource, sys
from pipeline.cli import app
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20,) * 2)
app(sys.argv[1:])
"""


def test_references_that_have_no_end_are_not_copied(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"product/{i}.png", i)
        put(tmp_path / f"good/{i}.png", 10 + i)
    strange_files(tmp_path / "good", "x", ".png")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/dvc.yaml").touch()
    params = tmp_path / "project/params.yaml"
    options = ["init", tmp_path / "product", "--normal", tmp_path / "good", "--params", params]
    done = in_time(INIT, *options)
    assert done.returncode == 0, done.stderr
    copied = tmp_path / "project/data/raw/normal/product"
    assert sorted(path.name for path in copied.iterdir()) == ["0.png", "1.png", "2.png"]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_map_that_is_eps_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gs = tmp_path / "bin/gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch '{tmp_path}/CALLED'\nexit 0\n")
    gs.chmod(0o755)
    (tmp_path / "000.png").write_bytes(EPS)
    monkeypatch.setenv("PATH", f"{gs.parent}:{os.environ['PATH']}")
    done = in_time(READ_MAP, tmp_path / "000.png")
    assert not (tmp_path / "CALLED").exists()
    assert "000.png: not a readable map" in done.stdout


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that says how large it is, and then holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def test_the_pixels_of_a_bomb_are_counted_before_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(50_000, 50_000))
    with pytest.raises(ImageError, match=r"bomb\.png: too many pixels .*2500000000"):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(MapFileError, match=r"bomb\.png: .*2500000000 pixels"):
        read_map(tmp_path / "bomb.png")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    for name in ("a.png", "a.npy"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(100 * 2**30)
    with pytest.raises(ImageError, match=r"a\.png: 102400 MiB large"):
        read_image(tmp_path / "a.png")
    with pytest.raises(MapFileError, match=r"a\.npy: 102400 MiB large"):
        read_map(tmp_path / "a.npy")


def test_the_array_of_an_npz_bomb_is_not_inflated(tmp_path: Path) -> None:
    path, block = tmp_path / "000.npz", bytes(2**24)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("map.npy", "w", force_zip64=True) as file,
    ):
        shape = (2**14, 2**14 + 1)  # 1 GiB and a little
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        for _ in range(65):
            file.write(block)
    done = in_time(READ_MAP.replace("4 * 2**30", "2**30"), path)
    assert "000.npz: its array takes 1040 MiB" in done.stdout, done.stdout + done.stderr


def test_small_types_do_not_get_around_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "0.npz", np.zeros((64, 64), np.bool_))
    assert read_map(tmp_path / "0.npz").shape == (64, 64)
    monkeypatch.setattr(map_files, "LARGEST_MAP", 4 * 64 * 64 - 1)
    with pytest.raises(MapFileError, match=r"0.npz: \(64, 64\) values are too many"):
        read_map(tmp_path / "0.npz")


def test_maps_and_masks_are_found_whatever_form_their_accents_have(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    root = tmp_path / "raw"
    put(root / f"test/{composed}/{composed}0.png", 0)
    mask = put(root / f"ground_truth/{apart}/{apart}0_mask.png", 1)
    (sample,) = collect(root).samples
    assert sample.mask == mask.relative_to(root).as_posix()
    put(tmp_path / f"maps/{apart}/{apart}0.png")
    (found,) = find_maps(tmp_path / "maps", "x", [sample.path])
    assert found == tmp_path / f"maps/{apart}/{apart}0.png"


def test_each_of_two_names_that_look_the_same_keeps_its_mask(tmp_path: Path) -> None:
    for i, form in enumerate(("NFC", "NFD")):
        name = unicodedata.normalize(form, "é")
        put(tmp_path / f"test/a/{name}.png", i)
        put(tmp_path / f"ground_truth/a/{name}_mask.png", 5 + i)
    masks = {s.path: s.mask for s in collect(tmp_path).samples}
    assert len(set(masks.values()) - {None}) == 2
    for path, mask in masks.items():
        assert mask == path.replace("test", "ground_truth").replace(".png", "_mask.png")


def test_a_mask_that_fits_two_images_is_nobodys(tmp_path: Path) -> None:
    put(tmp_path / "test/a/0.png", 0)
    put(tmp_path / "test/a/0.bmp", 1)
    put(tmp_path / "test/a/1.png", 2)
    for i in range(2):
        put(tmp_path / f"ground_truth/a/{i}_mask.png", 7 + i)
    found = collect(tmp_path)
    assert {s.path: s.mask for s in found.samples} == {
        "test/a/0.png": None,
        "test/a/0.bmp": None,
        "test/a/1.png": "ground_truth/a/1_mask.png",
    }
    (row,) = found.rejected
    assert row.path == "ground_truth/a/0_mask.png"
    assert "fits several images (0.bmp, 0.png)" in row.reason


def wide(path: Path, values: NDArray[np.int64]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_of_a_camera_are_scaled_to_eight(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    values = np.array([[0, top // 2, top]])
    pixels = read_image(wide(tmp_path / "a.tif", values), bits)
    np.testing.assert_array_equal(pixels[0, :, 0], np.round(values[0] * 255 / top))
    if bits < 16:
        wide(tmp_path / "a.tif", values + 1)
        with pytest.raises(ImageError, match=rf"a.tif: holds {top + 1}, but {bits} bits"):
            read_image(tmp_path / "a.tif", bits)


def test_sixteen_bits_are_read_as_ever(tmp_path: Path) -> None:
    values = np.arange(65536).reshape(256, 256)
    pixels = read_image(wide(tmp_path / "a.png", values))
    np.testing.assert_array_equal(pixels[:, :, 0], (values + 128) // 257)


def camera(root: Path, largest: int) -> None:
    for i in range(3):
        values = np.random.default_rng(i).integers(0, largest, (16, 16))
        values[3, 4] = largest
        wide(root / f"c/{i}.tif", values)
    put(root / "c/8bit.png")


def settings(root: Path, **options: object) -> Params:
    return parse_params(
        {
            "dataset": {"root": str(root), "categories": ["c"]},
            "manifest": options,
            "maps": {"method": "precomputed", "precomputed_root": str(root), "map_size": 16},
            "mebin": {"erode_px": 0},
        }
    )


@pytest.mark.parametrize(
    ("largest", "bits", "said"),
    [(4012, 16, 12), (900, 16, 10), (4012, 12, None), (900, 12, 10), (5000, 16, None)],
)
def test_bits_that_a_set_leaves_unused_are_said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    largest: int,
    bits: int,
    said: int | None,
) -> None:
    camera(tmp_path / "raw", largest)
    with caplog.at_level(logging.WARNING):
        run_stage(
            manifest, "c", settings(tmp_path / "raw", bits=bits), ArtifactPaths(tmp_path / "data")
        )
    assert (f"no value above {largest}" in caplog.text) == (said is not None)
    assert (f"set manifest.bits to {said}" in caplog.text) == (said is not None)


def test_init_and_doctor_say_which_bits_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera(tmp_path / "raw", 4012)
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["init", "raw/c"])
    assert result.exit_code == 0, result.output
    assert "set manifest.bits to 12" in result.output
    params, artifacts = load_params(Path("params.yaml")), ArtifactPaths(Path("data"))
    (said,) = [
        line for line in check_data(params, artifacts, tmp_path)[1] if line.subject == "images c"
    ]
    assert "bits" not in said.todo  # nobody has decoded the images yet
    run_stage(manifest, "c", params, artifacts)
    (said,) = [
        line for line in check_data(params, artifacts, tmp_path)[1] if line.subject == "images c"
    ]
    assert said.state == "warning"
    assert "set manifest.bits to 12" in said.todo


def test_bits_reach_the_sub_images(tmp_path: Path) -> None:
    camera(tmp_path / "raw", 4095)
    artifacts, brightest = ArtifactPaths(tmp_path / "data"), {}
    for bits in (16, 12):
        params = settings(tmp_path / "raw", bits=bits)
        for stage in (manifest, maps, mebin, crops):
            run_stage(stage, "c", params, artifacts)
        stored = open_arrays(artifacts.crops("c") / "crops.zarr")["images"][:]
        brightest[bits] = sorted(int(image.max()) for image in stored)[0]
    assert brightest[16] < 20 < 200 < brightest[12]


def precomputed(root: Path, changed: np.float32 | None) -> None:
    rng = np.random.default_rng(0)
    for i in range(7):
        put(root / f"raw/c/{i}.png", i)
        values = rng.random((16, 16)).astype(np.float32)
        if i == 3 and changed is not None:
            values[2:5, 2:5] = changed
        (root / "maps/c").mkdir(parents=True, exist_ok=True)
        np.save(root / f"maps/c/{i}.npy", values)


@pytest.mark.parametrize(("value", "said"), [(None, 0), (3e38, 1), (-5, 1), (2e3, 1), (20, 0)])
def test_a_map_that_flattens_the_others_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float | None, said: int
) -> None:
    precomputed(tmp_path, None if value is None else np.float32(value))
    params = parse_params(
        {
            "dataset": {"root": str(tmp_path / "raw"), "categories": ["c"]},
            "maps": {
                "method": "precomputed",
                "precomputed_root": str(tmp_path / "maps"),
                "map_size": 16,
            },
        }
    )
    artifacts = ArtifactPaths(tmp_path / "data")
    run_stage(manifest, "c", params, artifacts)
    with caplog.at_level(logging.WARNING):
        run_stage(maps, "c", params, artifacts)
    named = [r.getMessage() for r in caplog.records if "far outside" in r.getMessage()]
    assert len(named) == said
    assert all("3.npy" in text for text in named)


@pytest.mark.parametrize(
    "text",
    [
        '{"category": "c", "run": "r", "run": "s", "corrections": []}',
        '{"category": "c", "run": "r", "corrections": [{"crop_id": "a", "class": 1, "class": 2}]}',
    ],
)
def test_a_key_twice_in_corrections_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.json: .*'(run|class)' stands twice"):
        read_corrections(path)


def test_a_huge_file_of_corrections_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    entries = [{"crop_id": str(i), "class": 1} for i in range(1000)]
    path.write_text(json.dumps({"category": "c", "run": "r", "corrections": entries}))
    assert len(read_corrections(path).targets) == 1000
    with path.open("ab") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ConfigError, match=r"c\.json: 65 MiB large, over the limit of 64 MiB"):
        read_corrections(path)
