"""Kinds of image files and folders that may be thrown at `manifest`, each with what comes of it.

A kind is a file that is put beside two good images. What comes of it is a rejected row with its
reason, or the pixels that are read. More kinds stand in io/test_images.py, io/test_datasets.py and
test_inputs.py; docs/reliability.md lists where.
"""

from __future__ import annotations

import io
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.io.datasets import collect
from pipeline.io.images import ImageError, read_image
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES
from pipeline.io.tables import read_parquet
from stages import crops, manifest, maps, mebin
from tests.running import run_stage

Pixels = NDArray[np.uint8]


def noise(seed: int = 0, height: int = 12, width: int = 16) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = noise()
IMAGE = Image.fromarray(RGB)
OTHER = Image.fromarray(noise(1))
PNG = encoded(IMAGE, "PNG")
PALETTE = IMAGE.quantize(16)
LOOKED_UP = np.asarray(PALETTE.convert("RGB"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, depth: int = 8) -> bytes:
    """Return a grey PNG of this size by its header, with next to no data."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(20))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + data


BOMB = zlib.compress(bytes(40 * 2**20))
EXIF_JUNK = encoded(IMAGE, "PNG", exif=b"Exif\0\0junk")


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(IMAGE, "PNG", exif=exif)


REJECTED: dict[str, tuple[bytes, str]] = {
    "a bomb by its header": (png(14_000, 14_000), "too many pixels"),
    "a bomb of one line": (png(2**31 - 1, 1), "too many pixels"),
    "a bomb of another format": (b"P6 999999 999999 255\n" + bytes(9), "too many pixels"),
    "no width": (png(0, 4), "not an image file"),
    "a text of 40 MiB": (png(4, 4, chunk(b"zTXt", b"a\0\0" + BOMB)), "too large"),
    "a profile of 40 MiB": (png(4, 4, chunk(b"iCCP", b"a\0\0" + BOMB)), "too large"),
    "a flipped bit": (PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], "damaged image file"),
    "a header alone": (PNG[:41], "damaged image file"),
    "no byte": (b"", "the file is empty"),
    "a web page": (b"<!doctype html><html><body>404</body></html>", "not an image file"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "not an image file"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(90), "of a kind that is not understood"),
    "JPEG XL": (b"\xff\x0a" + bytes(50), "of a kind that is not understood"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not an image"),
    "a PDF": (b"%PDF-1.7\n%%EOF\n", "not an image file"),
    "negative pixels": (
        encoded(Image.fromarray(np.full((4, 4), -1, np.int32)), "TIFF"),
        "outside 0 to 65535; save as 8 or 16 bits",
    ),
    "floating-point pixels": (
        encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "floating-point pixels have no known range; save as 8 or 16 bits",
    ),
}
READ: dict[str, tuple[bytes, Pixels]] = {
    "the suffix of another format": (encoded(IMAGE, "BMP"), RGB),
    "one pixel": (encoded(IMAGE.crop((0, 0, 1, 1)), "PNG"), RGB[:1, :1]),
    "CMYK": (encoded(IMAGE.convert("CMYK"), "TIFF"), RGB),
    "a palette with a transparent colour": (encoded(PALETTE, "PNG", transparency=0), LOOKED_UP),
    "a palette with alpha": (
        encoded(PALETTE, "PNG", transparency=bytes(range(16))),
        LOOKED_UP,
    ),
    "a transparent colour": (
        encoded(IMAGE, "PNG", transparency=tuple(int(v) for v in RGB[0, 0])),
        RGB,
    ),
    "grey with alpha": (
        encoded(Image.merge("LA", (IMAGE.convert("L"), OTHER.convert("L"))), "PNG"),
        np.repeat(np.asarray(IMAGE.convert("L"))[:, :, None], 3, 2),
    ),
    "one bit": (encoded(Image.new("1", (5, 4), 1), "PNG"), np.full((4, 5, 3), 255, np.uint8)),
    "an animated GIF": (
        encoded(PALETTE, "GIF", save_all=True, append_images=[OTHER.quantize(16)]),
        LOOKED_UP,
    ),
    "an animated PNG": (encoded(IMAGE, "PNG", save_all=True, append_images=[OTHER]), RGB),
    "an animated WebP": (
        encoded(IMAGE, "WEBP", save_all=True, lossless=True, append_images=[OTHER]),
        RGB,
    ),
    "pages of other sizes": (
        encoded(IMAGE, "TIFF", save_all=True, append_images=[OTHER.rotate(90, expand=True)]),
        RGB,
    ),
    "EXIF: mirrored": (turned(2), RGB[:, ::-1]),
    "EXIF: upside down and mirrored": (turned(4), RGB[::-1]),
    "EXIF: transposed": (turned(5), RGB.transpose(1, 0, 2)),
    "EXIF: transversed": (turned(7), RGB[::-1, ::-1].transpose(1, 0, 2)),
    "EXIF: no orientation that there is": (turned(99), RGB),
    "EXIF: junk": (EXIF_JUNK, RGB),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(2):
        path = tmp_path / f"test/good/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(noise(10 + i)), "PNG"))
    return tmp_path


@pytest.mark.parametrize("kind", REJECTED)
def test_a_file_is_rejected_with_its_reason(root: Path, kind: str) -> None:
    content, reason = REJECTED[kind]
    (root / "test/good/x.png").write_bytes(content)
    found = collect(root)
    (row,) = found.rejected
    assert row.path == "test/good/x.png"
    assert reason in row.reason
    assert len(found.samples) == 2


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", READ)
def test_a_file_is_read_as_it_is_meant(root: Path, kind: str) -> None:
    content, pixels = READ[kind]
    path = root / "test/good/x.png"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path), pixels)
    found = collect(root)
    assert not found.rejected
    (sample,) = (s for s in found.samples if s.path == "test/good/x.png")
    assert (sample.height, sample.width) == pixels.shape[:2]


# Names and folders


def put(root: Path, name: str, seed: int = 3) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(Image.fromarray(noise(seed)), "PNG"))
    return path


NAMES = {
    "a leading dash": "-rf.png",
    "a line break": "a\nb.png",
    "markup": "<img src=x onerror=alert(1)>.png",
    "dots": "x....png",
    "dots inside": "a..b...png",
    "quotes": "a'b\"c`$(id).png",
    "a backslash": "a\\b.png",
    "a colon": "a:b.png",
    "spaces around": "  a .png",
    "250 bytes": "ä" * 123 + ".png",
    "a capital suffix": "a.PNG",
    "a comma": "=1,2.png",
    "joined letters": "👩‍🔧.png",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_comes_through_the_manifest_unchanged(root: Path, kind: str) -> None:
    put(root, f"raw/c/test/b/{NAMES[kind]}")
    data = ArtifactPaths(root / "data")
    params = parse_params({"dataset": {"root": str(root / "raw"), "categories": ["c"]}})
    run_stage(manifest, "c", params, data)
    listed = read_parquet(data.manifest("c") / "images.parquet", IMAGES)
    assert listed["path"].tolist() == [f"test/b/{NAMES[kind]}"]


def labels(root: Path) -> dict[str, str | None]:
    return {s.path: s.label for s in collect(root).samples if "test/good/" not in s.path}


def twins(root: Path, *names: str) -> None:
    for i, name in enumerate(names):
        put(root, f"test/b/{name}", 3 + i)


Folder = Callable[[Path], object]
FOLDERS: dict[str, tuple[Folder, dict[str, str | None], dict[str, str]]] = {
    "names that differ in case": (
        lambda root: twins(root, "A.png", "a.png", "a.PNG"),
        {"test/b/A.png": "b", "test/b/a.png": "b", "test/b/a.PNG": "b"},
        {},
    ),
    "names that differ in their accents' form": (
        lambda root: twins(root, *(unicodedata.normalize(f, "é.png") for f in ("NFC", "NFD"))),
        {f"test/b/{unicodedata.normalize(f, 'é.png')}": "b" for f in ("NFC", "NFD")},
        {},
    ),
    "a folder called as an image": (
        lambda root: put(root, "test/b/folder.png/x.png"),
        {"test/b/folder.png/x.png": "b"},
        {},
    ),
    "a link to itself": (
        lambda root: (root / "test/good/x.png").symlink_to("x.png"),
        {},
        {"test/good/x.png": "Too many levels of symbolic links"},
    ),
    "a link to nothing": (
        lambda root: (root / "test/good/x.png").symlink_to("nowhere.png"),
        {},
        {"test/good/x.png": "no such file"},
    ),
    "a link to a file outside": (
        lambda root: (
            (root / "test/b").mkdir(),
            (root / "test/b/x.png").symlink_to(put(root.with_name("outside"), "o.png")),
        ),
        {"test/b/x.png": "b"},
        {},
    ),
    "a link to a folder outside": (
        lambda root: (
            put(root.with_name("beyond"), "o.png"),
            (root / "test/b").symlink_to(root.with_name("beyond")),
        ),
        {"test/b/o.png": "b"},
        {},
    ),
    "a link before the folder that it leads to": (
        lambda root: (put(root, "test/b/x.png"), (root / "test/a").symlink_to("b")),
        {"test/b/x.png": "b"},
        {},
    ),
    "a link inside another folder": (
        lambda root: (put(root, "test/b/x.png"), (root / "test/good/a").symlink_to("../b")),
        {"test/b/x.png": "b"},
        {},
    ),
    "a link to the root": (
        lambda root: (root / "test/all").symlink_to(root, target_is_directory=True),
        {},
        {},
    ),
    "links in a circle": (
        lambda root: (
            put(root, "test/b/x.png"),
            (root / "test/b/one").symlink_to("two"),
            (root / "test/b/two").symlink_to("one"),
        ),
        {"test/b/x.png": "b"},
        {"test/b/one": "not an image file name", "test/b/two": "not an image file name"},
    ),
    "a hidden folder": (
        lambda root: put(root, "test/.trash/x.png"),
        {},
        {"test/.trash/x.png": "a hidden file"},
    ),
    "a file without a suffix": (
        lambda root: put(root, "test/b/x"),
        {},
        {"test/b/x": "not an image file name"},
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_read_as_it_lies(root: Path, kind: str) -> None:
    make, expected, reasons = FOLDERS[kind]
    folder = root / "set"
    (folder / "test").mkdir(parents=True)
    (root / "test/good").rename(folder / "test/good")
    make(folder)
    assert labels(folder) == expected
    found = {row.path: row.reason for row in collect(folder).rejected}
    assert found.keys() == reasons.keys()
    for path, reason in reasons.items():
        assert reason in found[path]


# Files that change during the run


def params_of(root: Path, **maps_options: object) -> Params:
    return parse_params(
        {
            "dataset": {"root": str(root / "raw"), "categories": ["c"]},
            "maps": {"method": "ground_truth", "map_size": 16, **maps_options},
            "mebin": {"erode_px": 0},
        }
    )


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "vanishes": (lambda path: path.unlink(), "no such file"),
    "is another image": (
        lambda path: path.write_bytes(encoded(OTHER, "PNG")),
        "changed since the manifest was made; run the stage 'manifest' again",
    ),
    "is cut short": (lambda path: os.truncate(path, 50), "changed since the manifest was made"),
    "is empty": (lambda path: os.truncate(path, 0), "the file is empty"),
    "is a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "not a regular file"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_an_image_that_changes_after_the_manifest_is_named(tmp_path: Path, kind: str) -> None:
    paths, params = ArtifactPaths(tmp_path / "data"), params_of(tmp_path)
    for i in range(2):
        put(tmp_path / "raw/c", f"test/b/{i}.png", i)
    mask = np.zeros((12, 16), np.uint8)
    mask[2:8, 2:8] = 255
    (tmp_path / "raw/c/ground_truth/b").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "raw/c/ground_truth/b/0_mask.png")
    for stage in (manifest, maps, mebin):
        run_stage(stage, "c", params, paths)
    change, said = CHANGES[kind]
    change(tmp_path / "raw/c/test/b/0.png")
    with pytest.raises(ImageError, match=rf"test/b/0\.png: .*{said}"):
        run_stage(crops, "c", params, paths)
    assert not paths.crops("c").exists()


def test_a_mask_that_vanishes_after_the_manifest_is_named(tmp_path: Path) -> None:
    put(tmp_path / "raw/c", "test/b/0.png", 0)
    mask = tmp_path / "raw/c/ground_truth/b/0_mask.png"
    mask.parent.mkdir(parents=True)
    Image.fromarray(np.full((12, 16), 255, np.uint8)).save(mask)
    paths, params = ArtifactPaths(tmp_path / "data"), params_of(tmp_path)
    run_stage(manifest, "c", params, paths)
    mask.unlink()
    with pytest.raises(ImageError, match=r"0_mask\.png: no such file"):
        run_stage(maps, "c", params, paths)
    assert not paths.maps("c").exists()
