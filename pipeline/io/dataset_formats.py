"""Folder layouts: which file is a query, a normal reference, a mask, and what its label is.

Nothing is opened here except a list of normal references; `pipeline.io.datasets` decodes the files.

==================  ===============================================================================
layout              files
==================  ===============================================================================
``mvtec``           ``train/<normal label>/*`` (references), ``test/<label>/*`` (queries),
                    ``ground_truth/<label>/<stem>_mask.png``, which one image alone may have
``mtd``             ``<label>/Imgs/*.jpg`` with a ``.png`` mask of the same name beside each
``class_folders``   ``images/<label>/*`` with masks ``masks/<label>/<stem>.*``
``folder``          images at any depth, all of them queries, without labels
``auto``            the first of the above that fits
==================  ===============================================================================
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.errors import AnomalyNCDError
from pipeline.io.file_list import image_files
from pipeline.io.images import is_image_name
from pipeline.io.inventory import locate
from pipeline.io.mask_files import MaskIndex
from pipeline.io.storage import Place, read_bytes

Split = Literal["query", "normal"]

NORMAL_LIST = "normal_reference_files.txt"
"""Name of the list of normal references that is used where it lies in the root of the images."""


LARGEST_LIST = 256 * 2**20
"""Bytes of a list of normal references."""


class DatasetError(AnomalyNCDError):
    """A folder cannot be used as a set of images; the message names it and says what to do."""


@dataclass(frozen=True)
class Entry:
    """One image file: path and mask relative to the root (posix), label None where unknown."""

    path: str
    split: Split
    label: str | None
    mask: str | None = None


@dataclass(frozen=True)
class Scan:
    """The files of a folder by name: entries, and (path, reason) of every unused file."""

    layout: str
    entries: tuple[Entry, ...]
    rejected: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Sorted:
    """The image files as one layout sorts them; `leftover` holds masks that no entry claims."""

    entries: list[Entry]
    leftover: list[tuple[str, str]]


def scan_folder(
    root: Place,
    *,
    layout: str = "auto",
    normal_label: Sequence[str] = ("good", "MT_Free"),
    exclude_labels: Sequence[str] = ("combined",),
    normal_list: str | None = None,
    normal_root: Place | None = None,
) -> Scan:
    """Sort the files under `root` by their names; no image is opened.

    Parameters
    ----------
    root
        The folder of a category, a prefix in a bucket, or a folder with an inventory of either.
    layout
        One of the layouts above.
    normal_label
        Labels that mean normal.
    exclude_labels
        Images of these labels are rejected first; their masks are not listed.
    normal_list
        A text file, relative to `root`, with one file name or relative path of a normal reference
        per line (None: `NORMAL_LIST`, if it exists; empty: no list).
    normal_root
        A further folder of normal references, in the same bucket if `root` lies in one; if it lies
        inside `root`, its images are not queries.

    Returns
    -------
    Entries by path, and every unused file with the reason.

    Raises
    ------
    DatasetError
        `root` or `normal_root` is not a folder, the layout is unknown, or the list is missing or
        names an image whose label is not normal.
    """
    root, names = locate(root)
    if isinstance(root, Path) and not root.is_dir():
        raise DatasetError(
            f"{root.absolute()} is not a folder: put the images there, or change dataset.root and "
            f"dataset.categories (base.root for the labelled base set). {understood()}"
        )
    files, rejected = image_files(root, names)
    references, more = _reference_files(root, normal_root)
    listing = _normal_names(root, names, normal_list)
    name = layout
    if layout == "auto":
        name = _layout_of(names or ()) if names is not None else detect_layout(Path(str(root)))
    if name not in _LAYOUTS:
        raise DatasetError(f"layout {name!r} is unknown. {understood()}")
    inside = set(references)
    result = _LAYOUTS[name]([path for path in files if path not in inside], normal_label)

    kept = [entry for entry in result.entries if entry.label not in exclude_labels]
    rejected += [
        (entry.path, f"its label {entry.label!r} is one of manifest.exclude_labels")
        for entry in result.entries
        if entry.label in exclude_labels
    ]
    rejected += result.leftover
    if listing is not None:
        kept, unknown = _apply_list(root, kept, listing, normal_label)
        rejected = [row for row in rejected if row[0] != listing.path] + unknown
    kept += [Entry(path, "normal", None) for path in references]
    kept.sort(key=lambda entry: entry.path)
    return Scan(name, tuple(kept), tuple(sorted({*rejected, *more})))


def detect_layout(root: Path) -> str:
    """Return the layout of `root`, ``folder`` if no other fits."""
    flat = any(is_image_name(child) for child in root.iterdir())
    if (root / "test").is_dir() and not flat:
        return "mvtec"
    if any((child / "Imgs").is_dir() for child in root.iterdir() if child.is_dir()):
        return "mtd"
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "class_folders"
    return "folder"


def _layout_of(names: Iterable[str]) -> str:
    """Return the layout of files by their names, as `detect_layout` does of a folder."""
    parts = [PurePosixPath(name).parts for name in names]
    tops = {p[0] for p in parts if len(p) > 1}
    flat = any(len(p) == 1 and is_image_name(PurePosixPath(p[0])) for p in parts)
    if "test" in tops and not flat:
        return "mvtec"
    if any(len(p) > 2 and p[1] == "Imgs" for p in parts):
        return "mtd"
    return "class_folders" if {"images", "masks"} <= tops else "folder"


def holds_images(root: Path) -> bool:
    """Tell whether any file has the name of an image; DatasetError if `root` is not a folder."""
    if not root.is_dir():
        raise DatasetError(f"{root.absolute()} is not a folder")
    return bool(image_files(root)[0])


def understood() -> str:
    """Return one line about the layouts, for error messages."""
    return (
        "Layouts: mvtec (train/good, test/<label>, ground_truth/<label>), mtd (<label>/Imgs/*.jpg "
        "with .png masks), class_folders (images/<label>, masks/<label>), folder (images at any "
        "depth, no labels)"
    )


def _mvtec(files: Sequence[str], normal_label: Sequence[str]) -> _Sorted:
    masks = MaskIndex(p for p in files if _top(p) == "ground_truth")
    entries: list[Entry] = []
    leftover: list[tuple[str, str]] = []
    for path in files:
        inner = PurePosixPath(*PurePosixPath(path).parts[1:])
        label = inner.parts[0] if len(inner.parts) > 1 else None
        if _top(path) == "test":
            entries.append(Entry(path, "query", label, masks.claim(path, "ground_truth" / inner)))
        elif _top(path) == "train" and (label is None or label in normal_label):
            entries.append(Entry(path, "normal", label))
        elif _top(path) == "train":
            leftover.append((path, f"its label {label!r} is not in normal_label"))
        elif _top(path) != "ground_truth":
            leftover.append((path, "outside the folders train, test and ground_truth"))
    return _with_masks(entries, leftover, masks)


def _mtd(files: Sequence[str], normal_label: Sequence[str]) -> _Sorted:
    parts = {path: PurePosixPath(path).parts for path in files}
    proper = [p for p in files if len(parts[p]) == 3 and parts[p][1] == "Imgs"]
    masks = MaskIndex(p for p in proper if p.lower().endswith(".png"))
    entries = [
        Entry(p, "query", parts[p][0], masks.claim(p, PurePosixPath(p)))
        for p in proper
        if not p.lower().endswith(".png")
    ]
    inside = set(proper)
    leftover = [(p, "outside the folders <label>/Imgs") for p in files if p not in inside]
    return _with_masks(entries, leftover, masks)


def _class_folders(files: Sequence[str], normal_label: Sequence[str]) -> _Sorted:
    masks = MaskIndex(p for p in files if _top(p) == "masks")
    entries: list[Entry] = []
    leftover: list[tuple[str, str]] = []
    for path in files:
        inner = PurePosixPath(*PurePosixPath(path).parts[1:])
        label = inner.parts[0] if len(inner.parts) > 1 else None
        if _top(path) == "images":
            entries.append(Entry(path, "query", label, masks.claim(path, "masks" / inner)))
        elif _top(path) != "masks":
            leftover.append((path, "outside the folders images and masks"))
    return _with_masks(entries, leftover, masks)


def _folder(files: Sequence[str], normal_label: Sequence[str]) -> _Sorted:
    return _Sorted([Entry(path, "query", None) for path in files], [])


def _with_masks(
    entries: Sequence[Entry], leftover: list[tuple[str, str]], masks: MaskIndex
) -> _Sorted:
    """Remove masks that several images share, and list the unused ones."""
    shared = masks.shared()
    kept = [replace(e, mask=None) if e.mask in shared else e for e in entries]
    return _Sorted(kept, leftover + masks.left_over())


_LAYOUTS: dict[str, Callable[[Sequence[str], Sequence[str]], _Sorted]] = {
    "mvtec": _mvtec,
    "mtd": _mtd,
    "class_folders": _class_folders,
    "folder": _folder,
}


@dataclass(frozen=True)
class _Listing:
    """A list of normal references: its own path and the names in it."""

    path: str
    names: tuple[str, ...]


def _normal_names(
    root: Place, known: Sequence[str] | None, normal_list: str | None
) -> _Listing | None:
    if normal_list == "":
        return None
    name = normal_list or NORMAL_LIST
    path = root / name
    there = path.is_file() if isinstance(path, Path) else name in (known or ())
    if not there:
        if normal_list is None:
            return None
        raise DatasetError(f"manifest.normal_list: {path} does not exist")
    try:
        text = read_bytes(path, LARGEST_LIST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"manifest.normal_list: {path} is not UTF-8 text ({error})") from error
    except OSError as error:
        raise DatasetError(f"manifest.normal_list: {path}: {error.strerror or error}") from error
    names = [line.strip().replace("\\", "/").removeprefix("./") for line in text.splitlines()]
    return _Listing(normal_list or NORMAL_LIST, tuple(name for name in names if name))


def _apply_list(
    root: Place, entries: Sequence[Entry], listing: _Listing, normal_label: Sequence[str]
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Turn the listed entries into references; a bare name stands for all normal images of it."""
    source = root / listing.path
    by_path = {entry.path: entry for entry in entries}
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(PurePosixPath(entry.path).name, []).append(entry)
    chosen: set[str] = set()
    unknown: list[tuple[str, str]] = []
    for name in listing.names:
        matches = [by_path[name]] if name in by_path else by_name.get(name, [])
        normal = [e for e in matches if e.label is None or e.label in normal_label]
        if matches and not normal:
            raise DatasetError(
                f"{source} lists {name}, whose label {matches[0].label!r} is not in "
                f"normal_label {list(normal_label)}"
            )
        if not matches:
            unknown.append((name, f"listed in {listing.path}, but there is no such image"))
        chosen |= {entry.path for entry in normal}
    kept = [replace(e, split="normal", mask=None) if e.path in chosen else e for e in entries]
    return kept, unknown


def _reference_files(
    root: Place, normal_root: Place | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """List the images of `normal_root` by their paths relative to `root`, links resolved."""
    if normal_root is None:
        return [], []
    normal_root, names = locate(normal_root)
    if isinstance(normal_root, Path) and not normal_root.is_dir():
        raise DatasetError(f"manifest.normal_root: {normal_root.absolute()} is not a folder")
    files, rejected = image_files(normal_root, names)
    prefix = PurePosixPath(_relative(normal_root, root))
    return (
        [str(prefix / path) for path in files],
        [(str(prefix / path), reason) for path, reason in rejected],
    )


def _relative(normal_root: Place, root: Place) -> str:
    if isinstance(root, Path) and isinstance(normal_root, Path):
        return Path(os.path.relpath(normal_root.resolve(), root.resolve())).as_posix()
    if isinstance(root, Path) or isinstance(normal_root, Path) or root.bucket != normal_root.bucket:
        raise DatasetError(
            f"manifest.normal_root: references at {normal_root} and images at {root} must lie in "
            "one bucket, or both on this machine"
        )
    return posixpath.relpath("/" + normal_root.key, "/" + root.key)


def _top(path: str) -> str:
    return PurePosixPath(path).parts[0]
