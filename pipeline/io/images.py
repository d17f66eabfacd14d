"""Image files in, arrays out, and back: the only module that decodes images, masks included.

Pillow decodes everything. It is about 1.3 times slower than OpenCV, but it raises on truncated
files of every kind and says why, where OpenCV prints to stderr and returns nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import AnomalyNCDError
from pipeline.file_checks import file_problem
from pipeline.io.storage import Place, read_bytes

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings, in lower case, of the files that count as images."""

LARGEST_FILE = 2 * 2**30
"""Bytes: larger files are refused. Pillow limits the number of pixels."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may decode, whatever the file name; not EPS, which starts a program."""

_SIDEWAYS = frozenset({5, 6, 7, 8})  # EXIF orientations that swap height and width
_EXIF_ORIENTATION = 0x0112


class ImageError(AnomalyNCDError):
    """A file cannot be used as an image or mask; the message names file and reason."""

    def __init__(self, path: Place, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[Place, str]]:
        """Survive the way from a worker: pickle would give `__init__` the message alone."""
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class ImageInfo:
    """Facts from one full decode: hash of the bytes, size as shown, number of stored channels.

    `largest` is the largest value of a 16-bit grey image; None for others.
    """

    sample_id: str
    height: int
    width: int
    channels: int
    largest: int | None = None


@dataclass(frozen=True)
class ListedImages:
    """Images of the manifest, read one at a time by their numbers, as `read_listed` does.

    Unlike a function of a function, it can be sent to a worker.
    """

    files: tuple[Place, ...]
    sample_ids: tuple[str, ...]
    bits: int = 16

    def __call__(self, number: int) -> NDArray[np.uint8]:
        """Return an image (H, W, 3) RGB; ImageError if its file changed."""
        return read_listed(self.files[number], self.sample_ids[number], self.bits)

    def some(self, numbers: range) -> ListedImages:
        """Return some of the images, by absolute paths."""
        files = tuple(self.files[i].absolute() for i in numbers)
        return ListedImages(files, tuple(self.sample_ids[i] for i in numbers), self.bits)


def is_image_name(path: PurePath) -> bool:
    """Tell whether the name has the ending of an image, in upper or lower case."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_image(path: Place, bits: int = 16) -> NDArray[np.uint8]:
    """Read an image as RGB.

    The EXIF orientation is applied. Grey is repeated over the channels, palettes are looked up,
    alpha is dropped (stored colours stay), and of several frames or pages the first is used. 16-bit
    grey is scaled from `bits` significant bits to 8 and rounded; 16-bit colour keeps its high byte,
    which differs by at most one level for 16 significant bits.

    Parameters
    ----------
    path
        The file; its content, not its name, decides on the format.
    bits
        Significant bits of 16-bit grey pixels: with 12, the value 4095 becomes 255.

    Returns
    -------
    uint8 (H, W, 3).

    Raises
    ------
    ImageError
        The file is missing, empty, truncated, not a regular file, too large, not an image, or has
        grey pixels outside 0 to 2**bits - 1. The message names file and reason.
    """
    return _to_rgb(_decode(path, _read_bytes(path)), path, bits)


def read_listed(path: Place, listed: str, bits: int = 16) -> NDArray[np.uint8]:
    """Read an image of the manifest, whose sample id is `listed`, as `read_image` does.

    Raises ImageError also if the file is not the one that was listed.
    """
    data = _read_bytes(path)
    check_listed(path, data, listed)
    return _to_rgb(_decode(path, data), path, bits)


def check_listed(path: Place, data: bytes, listed: str) -> None:
    """Raise ImageError unless `data`, the bytes of a file, have the sample id `listed`."""
    if _digest(data) != listed:
        raise ImageError(
            path,
            "changed since the manifest was made; run the stage 'manifest' again (after "
            "`anomalyncd inventory`, where there is one)",
        )


def read_mask(path: Place) -> NDArray[np.bool_]:
    """Read a mask as bool (H, W), True on the foreground; same orientation rule as `read_image`.

    A pixel is foreground above half of what its type can hold (127 of 8 bits, 32767 of 16 bits), so
    soft edges are cut in the middle. If no pixel is that bright, the file is a map of class
    numbers (0/1, 0/1/2, ...) and every value other than 0 is foreground. Colours count by their
    brightest channel, alpha is dropped.

    Raises ImageError as `read_image` does.
    """
    image = _decode(path, _read_bytes(path))
    if image.mode.startswith("I"):
        values, half = _wide_values(image, path), 32767
    elif image.mode in ("1", "L"):
        values, half = np.array(image.convert("L"), dtype=np.int32), 127
    else:
        values, half = _to_rgb(image, path).max(axis=2).astype(np.int32), 127
    return values > (half if values.max() > half else 0)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) as shown, EXIF orientation applied, from the header alone.

    Raises ImageError if there is no readable header; a truncated file is not noticed.
    """
    try:
        problem = file_problem(path, LARGEST_FILE)
        if problem is not None:
            raise ImageError(path, problem)
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            sideways = _has_exif(image) and image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(path, _reason(error)) from error
    return (width, height) if sideways else (height, width)


def encode_image(pixels: NDArray[np.uint8], suffix: str, options: Sequence[int] = ()) -> bytes:
    """Encode an image.

    Parameters
    ----------
    pixels
        RGB (H, W, 3) or grey (H, W).
    suffix
        ".png", ".jpg" or ".webp".
    options
        OpenCV's flags, as `(cv2.IMWRITE_JPEG_QUALITY, 85)`.

    Raises
    ------
    ValueError
        OpenCV cannot encode the image, which may be too large for the format.
    """
    bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(suffix, np.ascontiguousarray(bgr), list(options))
    if not done:
        raise ValueError(f"an image of shape {pixels.shape} cannot be encoded as {suffix}")
    return bytes(data.tobytes())


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write RGB (H, W, 3) or grey (H, W) pixels as a PNG file, whatever the ending of `path`."""
    path.write_bytes(encode_image(pixels, ".png"))


def sample_id(path: Place) -> str:
    """Return the first 16 hex digits of the SHA-256 of the file's bytes; raises ImageError."""
    return _digest(_read_bytes(path))


def inspect_image(path: Place, bits: int = 16) -> ImageInfo:
    """Read, hash and fully decode one image; raises ImageError as `read_image` does.

    `channels` is what is stored: 1 for grey, 4 for RGBA or CMYK, 3 for a palette.
    """
    data = _read_bytes(path)
    image = _decode(path, data)
    pixels = _to_rgb(image, path, bits)
    channels = 3 if image.mode == "P" else len(image.getbands())
    largest = int(np.array(image).max()) if image.mode.startswith("I") else None
    return ImageInfo(_digest(data), pixels.shape[0], pixels.shape[1], channels, largest)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _read_bytes(path: Place) -> bytes:
    try:
        data = read_bytes(path, LARGEST_FILE)
    except FileNotFoundError:
        raise ImageError(path.absolute(), "no such file") from None
    except OSError as error:
        raise ImageError(path, str(error.strerror or error)) from error
    if not data:
        raise ImageError(path, "the file is empty")
    return data


def _decode(path: Place, data: bytes) -> Image.Image:
    """Decode all pixels of the first frame and turn them as EXIF says."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image) if _has_exif(image) else image.copy()
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise ImageError(path, _reason(error)) from error


def _has_exif(image: Image.Image) -> bool:
    """Tell whether an image has EXIF data that can be read; other programs ignore damaged ones."""
    try:
        return bool(image.getexif())
    except Exception:  # Pillow raises several kinds
        return False


def _to_rgb(image: Image.Image, path: Place, bits: int = 16) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        values, top = _wide_values(image, path), 2**bits - 1
        if values.max() > top:
            reason = f"holds {values.max()}, but {bits} bits (manifest.bits) end at {top}"
            raise ImageError(path, reason)
        grey = ((values * 255 + top // 2) // top).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)  # (H, W, 3)
    if image.mode == "F":
        raise ImageError(path, "floating-point pixels have no known range; save as 8 or 16 bits")
    try:
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except ValueError as error:
        raise ImageError(path, f"colour mode {image.mode} is not understood") from error


def _wide_values(image: Image.Image, path: Place) -> NDArray[np.int32]:
    """Return the pixels of a 16- or 32-bit integer image, which must fit 16 bits."""
    values = np.array(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(path, "32-bit pixels outside 0 to 65535; save as 8 or 16 bits")
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image file, or of a kind that is not understood"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels ({error})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"damaged image file ({error or type(error).__name__})"
