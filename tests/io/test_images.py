"""Every kind of file that may turn up as an image or a mask."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.io.images import (
    ImageError,
    image_size,
    inspect_image,
    is_image_name,
    read_image,
    read_mask,
    sample_id,
)


def smooth(height: int = 40, width: int = 60, channels: int = 3) -> NDArray[np.uint8]:
    """Return a picture that JPEG keeps almost as it is."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / 9 + c) * 60 + np.cos(y / 7 + c) * 60 + 127 for c in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


def encoded(array: NDArray[np.generic], kind: str, mode: str | None = None) -> bytes:
    """Encode with Pillow; `mode` converts first."""
    image = Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_plain_rgb_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(smooth()).save(path)
    read = read_image(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, smooth())
    read[0, 0] = 1  # the array is the caller's own


def test_jpeg_agrees_with_opencv(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth()).save(path, quality=95)
    other = cv2.imread(str(path))[:, :, ::-1]
    assert np.abs(read_image(path).astype(int) - other).max() <= 2


@pytest.mark.parametrize("name", ["with space.png", "größe № 3.png", "傷 01.PNG"])
def test_names_with_spaces_and_letters_of_any_script(tmp_path: Path, name: str) -> None:
    path = tmp_path / "Ordner mit ü" / name
    path.parent.mkdir()
    path.write_bytes(encoded(smooth(), "PNG"))
    np.testing.assert_array_equal(read_image(path), smooth())
    assert image_size(path) == (40, 60)
    assert is_image_name(path)


def test_grey_is_repeated(tmp_path: Path) -> None:
    grey = smooth()[:, :, 0]
    path = tmp_path / "a.png"
    path.write_bytes(encoded(grey, "PNG"))
    np.testing.assert_array_equal(read_image(path), np.stack([grey] * 3, axis=2))
    assert inspect_image(path).channels == 1


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_grey_is_divided_by_257(tmp_path: Path, suffix: str) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(cv2.imencode(suffix, values)[1].tobytes())
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path), np.stack([expected] * 3, axis=2))


def test_big_endian_16_bit_tiff(tmp_path: Path) -> None:
    values = (smooth()[:, :, 0].astype(np.uint16) * 257).astype(">u2")
    path = tmp_path / "a.tif"
    path.write_bytes(_big_endian_tiff(values))
    np.testing.assert_array_equal(read_image(path)[:, :, 0], smooth()[:, :, 0])


def _big_endian_tiff(values: NDArray[np.uint16]) -> bytes:
    """Write the smallest grey 16-bit TIFF of big-endian order by hand."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 0), (277, 1)]
    tags += [(278, height), (279, values.nbytes)]
    start = 8 + 2 + 12 * len(tags) + 4
    head = b"MM\x00*" + (8).to_bytes(4, "big") + len(tags).to_bytes(2, "big")
    for tag, value in tags:
        stored = start if tag == 273 else value
        head += tag.to_bytes(2, "big") + (4).to_bytes(2, "big") + (1).to_bytes(4, "big")
        head += stored.to_bytes(4, "big")
    return head + bytes(4) + values.astype(">u2").tobytes()


def test_16_bit_colour_within_one_level(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (30, 20, 3), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", values[:, :, ::-1])[1].tobytes())
    assert np.abs(read_image(path) - values / 257).max() <= 1


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (40, 60, 1), dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(np.concatenate([smooth(), alpha], axis=2), "PNG"))
    np.testing.assert_array_equal(read_image(path), smooth())
    assert inspect_image(path).channels == 4


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(image.convert("RGB")))
    assert inspect_image(tmp_path / "a.png").channels == 3


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(
    tmp_path: Path, orientation: int, turns: int, kind: str
) -> None:
    image = Image.fromarray(smooth())
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, turned = tmp_path / f"plain.{kind.lower()}", tmp_path / f"turned.{kind.lower()}"
    image.save(plain, kind)
    image.save(turned, kind, exif=exif)
    expected = np.rot90(read_image(plain), turns)
    np.testing.assert_array_equal(read_image(turned), expected)
    assert image_size(turned) == expected.shape[:2]
    info = inspect_image(turned)
    assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@given(share=st.floats(0, 0.97))
def test_a_truncated_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, share: float
) -> None:
    data = encoded(smooth(100, 100), kind)
    path = tmp_path_factory.mktemp("t") / "cut.png"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=r"cut\.png: .{5,}"):
        read_image(path)
    with pytest.raises(ImageError):
        read_mask(path)


def test_cut_short_by_a_few_bytes_is_refused_or_whole(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "BMP", "TIFF"):
        data = encoded(smooth(), kind)
        path = tmp_path / "a.png"
        path.write_bytes(data)
        whole = read_image(path)
        for missing in range(1, 40):
            path.write_bytes(data[:-missing])
            try:
                read = read_image(path)
            except ImageError:
                continue
            np.testing.assert_array_equal(read, whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"these are not the pixels you are looking for" * 9, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "damaged|not an image"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "x y.png"
    path.write_bytes(content)
    for read in (read_image, read_mask, inspect_image):
        with pytest.raises(ImageError, match=rf"x y\.png: .*({reason})"):
            read(path)
    with pytest.raises(ImageError, match=r"x y\.png"):
        image_size(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        for read in (read_image, image_size, sample_id):
            with pytest.raises(ImageError, match=path.name):
                read(path)


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(np.ones((4, 5), np.float32)).save(path)
    with pytest.raises(ImageError, match="floating-point"):
        read_image(path)


def test_32_bit_integers_must_fit_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(np.full((4, 5), 65535, np.int32)).save(path)
    assert (read_image(path) == 255).all()
    Image.fromarray(np.full((4, 5), 65536, np.int32)).save(path)
    with pytest.raises(ImageError, match="32-bit"):
        read_image(path)


@pytest.mark.parametrize(
    ("values", "foreground"),
    [
        ([0, 255, 0, 255], [0, 1, 0, 1]),
        ([0, 127, 128, 255], [0, 0, 1, 1]),  # soft edge
        ([0, 1, 0, 1], [0, 1, 0, 1]),  # 0/1
        ([0, 1, 2, 3], [0, 1, 1, 1]),  # class numbers
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([255, 255, 255, 255], [1, 1, 1, 1]),
    ],
)
def test_mask_rule(tmp_path: Path, values: list[int], foreground: list[int]) -> None:
    array = np.array([values], np.uint8)
    expected = np.array([foreground], bool)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(array, "PNG"))
    read = read_mask(path)
    assert read.dtype == np.bool_
    np.testing.assert_array_equal(read, expected)
    path.write_bytes(encoded(np.stack([array, array * 0, array * 0], axis=2), "PNG"))
    np.testing.assert_array_equal(read_mask(path), expected)  # painted in red
    path.write_bytes(cv2.imencode(".png", array.astype(np.uint16) * 257)[1].tobytes())
    np.testing.assert_array_equal(read_mask(path), expected if max(values) > 3 else array > 0)
    path.write_bytes(cv2.imencode(".png", array.astype(np.uint16))[1].tobytes())
    np.testing.assert_array_equal(read_mask(path), array > 0)  # 16 bits, but small numbers


def test_one_bit_and_palette_masks(tmp_path: Path) -> None:
    expected = smooth()[:, :, 0] > 127
    Image.fromarray(expected).convert("1").save(tmp_path / "bit.png")
    palette = Image.fromarray(expected.astype(np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bit.png"), expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), expected)


def test_sample_id_is_the_hash_of_the_bytes_and_not_of_the_name(tmp_path: Path) -> None:
    data = encoded(smooth(), "PNG")
    for name in ("good.png", "scratch.png"):
        (tmp_path / name).write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()[:16]
    assert sample_id(tmp_path / "good.png") == sample_id(tmp_path / "scratch.png") == expected
    assert inspect_image(tmp_path / "good.png").sample_id == expected
