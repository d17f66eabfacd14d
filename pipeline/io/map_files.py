"""Anomaly maps of other programs: found by relative name, read and checked."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import AnomalyNCDError
from pipeline.file_checks import file_problem
from pipeline.io.images import FORMATS, IMAGE_SUFFIXES
from pipeline.io.mask_files import same_text

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
TAGS = ("_map", "_mask")
"""Optional endings of a map's name."""

LARGEST_MAP = 2**30
"""Largest size in bytes of a file, of an array in it, and of a map as float32."""

_SHOWN = 5
Parts = tuple[str, ...]


class MapFileError(AnomalyNCDError):
    """Map files that are missing, surplus, ambiguous or broken; the message names them."""


def find_maps(
    root: Path, category: str, queries: Sequence[str], others: Iterable[str] = ()
) -> list[Path]:
    """Find the map file of each query image.

    A map belongs to the image of the same relative path (``test/hole/007.png`` ->
    ``test/hole/007.tiff``), or else to the only image whose path ends like the map's
    (``hole/007.npy``, ``007.npy``). Suffixes, Unicode composition of accents, and ``_map`` or
    ``_mask`` at the end of the map's name are ignored.

    Parameters
    ----------
    root, category
        Maps are below ``root/<category>`` if it is a folder, else below `root`.
    queries
        Image paths relative to the category's folder (posix).
    others
        Images that need no map (references, rejected files); their maps are skipped.

    Returns
    -------
    The files, in the order of `queries`.

    Raises
    ------
    MapFileError
        An image has no map or several, or a map fits several images or none.
    """
    base = root / category if (root / category).is_dir() else root
    if not base.is_dir():
        raise MapFileError(
            f"{root.absolute()} is not a folder: set maps.precomputed_root to the folder of maps"
        )
    wanted = {_key(path): path for path in queries}
    if len(wanted) < len(queries):
        raise MapFileError(
            f"{category}: images that differ only in suffix, or in how accents are encoded, cannot "
            "be told apart"
        )
    tails = (_tails(wanted), _tails({_key(path) for path in others} - set(wanted)))
    maps: dict[Parts, list[str]] = {key: [] for key in wanted}
    surplus, ambiguous = [], []
    for name in _map_names(base):
        owners = _owners(_key(name), tails)
        if not owners:
            surplus.append(name)
        elif len(owners) > 1:
            ambiguous.append(name)
        elif (owner := next(iter(owners))) in maps:
            maps[owner].append(name)
    missing = [wanted[key] for key, names in maps.items() if not names]
    several = [" and ".join(names) for names in maps.values() if len(names) > 1]
    _complain(
        base,
        {
            "images without a map": missing,
            "maps of no image": surplus,
            "maps that fit several images": ambiguous,
            "several maps of one image": several,
        },
    )
    return [base / maps[_key(path)][0] for path in queries]


def _key(path: str) -> Parts:
    return PurePosixPath(same_text(path)).with_suffix("").parts


def _tails(keys: Iterable[Parts]) -> Mapping[Parts, set[Parts]]:
    """Return the keys by each of their endings, including whole keys."""
    tails = defaultdict(set)
    for key in keys:
        for start in range(len(key)):
            tails[key[start:]].add(key)
    return tails


def _owners(key: Parts, by_tail: Sequence[Mapping[Parts, set[Parts]]]) -> set[Parts]:
    """Return the images that a map's key may mean: whole paths before endings, queries first."""
    keys = [key, *((*key[:-1], key[-1].removesuffix(t)) for t in TAGS if key[-1].endswith(t))]
    for candidate in keys:
        for tails in by_tail:
            if candidate in tails.get(candidate, set()):
                return {candidate}
        for tails in by_tail:
            if candidate in tails:
                return tails[candidate]
    return set()


def _map_names(base: Path) -> list[str]:
    """List the files below `base` that look like maps, hidden ones left out, sorted."""
    names = []
    for folder, folders, files in os.walk(base):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = PurePosixPath(name).suffix.lower()
            if not name.startswith(".") and suffix in IMAGE_SUFFIXES | ARRAY_SUFFIXES:
                names.append(Path(folder, name).relative_to(base).as_posix())
    return sorted(names)


def _complain(base: Path, problems: Mapping[str, Sequence[str]]) -> None:
    lines = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}")
    if lines:
        raise MapFileError(f"maps below {base} do not fit the query images; " + "; ".join(lines))


def read_map(path: Path) -> NDArray[np.float32]:
    """Read one anomaly map.

    8- and 16-bit images are divided by 255 and 65535; floating-point images and arrays are not
    scaled. Colour images must have equal channels; alpha is dropped. An .npz file must hold one
    array. Axes of length 1 are dropped.

    Returns
    -------
    float32 (H, W), finite.

    Raises
    ------
    MapFileError
        The file is not such a map, has NaN or infinity, is not a regular file, or exceeds
        `LARGEST_MAP`.
    """
    try:
        problem = file_problem(path, LARGEST_MAP)
        if problem is not None:
            raise MapFileError(f"{path}: {problem}")
        values = _array(path) if path.suffix.lower() in ARRAY_SUFFIXES else _image(path)
    except MapFileError:
        raise
    except Exception as error:  # decoders raise nearly anything on broken bytes
        raise MapFileError(f"{path}: not a readable map ({error})") from error
    if values.dtype.kind not in "biuf":
        raise MapFileError(f"{path}: values of type {values.dtype} are no anomaly map")
    shape, values = values.shape, np.squeeze(values) if values.ndim > 2 else values
    if values.ndim != 2 or values.size == 0:
        raise MapFileError(f"{path}: an array of shape {shape} is no map of (height, width)")
    if 4 * values.size > LARGEST_MAP:
        raise MapFileError(f"{path}: {shape} values are too many for a map; make it smaller")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise MapFileError(f"{path}: holds NaN or infinity (or values too large for float32)")
    return values


def _array(path: Path) -> NDArray[Any]:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        if len(content.files) != 1:
            raise MapFileError(f"{path}: holds {len(content.files)} arrays, expected one")
        declared = content.zip.infolist()[0].file_size  # zipfile never inflates more than this
        if declared > LARGEST_MAP:
            raise MapFileError(
                f"{path}: its array takes {declared / 2**20:.0f} MiB, over the limit of "
                f"{LARGEST_MAP / 2**20:.0f} MiB"
            )
        return np.asarray(content[content.files[0]])


def _image(path: Path) -> NDArray[Any]:
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        if image.mode in ("L", "F") or image.mode.startswith("I"):
            values = np.array(image)
        elif image.mode == "1":
            values = np.array(image.convert("L"))
        else:
            colours = np.array(image.convert("RGB"))
            if np.ptp(colours, axis=2).any():
                raise MapFileError(f"{path}: a map in colours; save it in grey")
            values = colours[:, :, 0]
    if values.dtype.kind == "f":
        return values
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > 65535):
        raise MapFileError(f"{path}: 32-bit pixels outside 0 to 65535; save as 16 bits or .npy")
    return values / (255 if values.dtype == np.uint8 else 65535)


def resize_map(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resize (H, W) to (size, size), bilinearly."""
    if values.shape == (size, size):
        return values
    return np.asarray(cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def mask_to_map(mask: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
    """Resize a mask (H, W) to a map (size, size) of zeros and ones without losing thin defects.

    Per axis: if it shrinks, a map pixel is one if any of its mask pixels is; if it grows, it has
    the value of the nearest mask pixel. So no region vanishes.
    """
    for axis in (0, 1):
        length = mask.shape[axis]
        if length >= size:
            starts = np.arange(size) * length // size
            mask = np.logical_or.reduceat(mask, starts, axis=axis)
        else:
            nearest = ((np.arange(size) + 0.5) * length / size).astype(np.int64)
            mask = np.take(mask, nearest, axis=axis)
    return mask.astype(np.float32)
