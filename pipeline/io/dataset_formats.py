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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.errors import AnomalyNCDError
from pipeline.io.images import is_image_name
from pipeline.io.mask_files import MaskIndex

Split = Literal["query", "normal"]

NORMAL_LIST = "normal_reference_files.txt"
"""Name of the list of normal references that is used where it lies in the root of the images."""


class DatasetError(AnomalyNCDError):
    """A folder that cannot be used as a set of images; the message names it and says what to do."""


@dataclass(frozen=True)
class Entry:
    """One image file: path and mask relative to the root (posix), label None where unknown."""

    path: str
    split: Split
    label: str | None
    mask: str | None = None


@dataclass(frozen=True)
class Scan:
    """What a folder holds by name: entries, and (path, reason) of every file that is not used."""

    layout: str
    entries: tuple[Entry, ...]
    rejected: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Sorted:
    """What one layout makes of the image files; a mask that no entry claims is left over."""

    entries: list[Entry]
    leftover: list[tuple[str, str]]


def scan_folder(
    root: Path,
    *,
    layout: str = "auto",
    normal_label: Sequence[str] = ("good", "MT_Free"),
    exclude_labels: Sequence[str] = ("combined",),
    normal_list: str | None = None,
    normal_root: Path | None = None,
) -> Scan:
    """Sort the files under `root` by their names alone.

    `normal_list` names a text file, relative to `root`, with the normal references: one file name
    or relative path a line (None: `NORMAL_LIST` if there is one; empty: none). `normal_root` is a
    further folder of normal references, anywhere; if it lies inside `root`, its images are no
    queries.
    Images of `exclude_labels` are rejected before everything else; their masks are not listed.

    Raises DatasetError if `root` or `normal_root` is no folder, or the list is missing or names an
    image whose label is not normal.
    """
    if not root.is_dir():
        raise DatasetError(
            f"{root.absolute()} is not a folder: put the images there, or change dataset.root and "
            f"dataset.categories (base.root for the labelled base set). {understood()}"
        )
    files, rejected = _image_files(root)
    references, more = _reference_files(root, normal_root)
    listing = _normal_names(root, normal_list)
    name = detect_layout(root) if layout == "auto" else layout
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
    """Return the layout that `root` looks like, ``folder`` if it is none of the others."""
    flat = any(is_image_name(child) for child in root.iterdir())
    if (root / "test").is_dir() and not flat:
        return "mvtec"
    if any((child / "Imgs").is_dir() for child in root.iterdir() if child.is_dir()):
        return "mtd"
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "class_folders"
    return "folder"


def holds_images(root: Path) -> bool:
    """Tell whether any file is called like an image; raises DatasetError if `root` is no folder."""
    if not root.is_dir():
        raise DatasetError(f"{root.absolute()} is not a folder")
    return bool(_image_files(root)[0])


def understood() -> str:
    """Say in one line which layouts there are, for error messages."""
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
    known = set(proper)
    leftover = [(p, "outside the folders <label>/Imgs") for p in files if p not in known]
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
    """Take off the masks that several images share, and list those of no use."""
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


def _normal_names(root: Path, normal_list: str | None) -> _Listing | None:
    if normal_list == "":
        return None
    path = root / (normal_list or NORMAL_LIST)
    if not path.is_file():
        if normal_list is None:
            return None
        raise DatasetError(f"manifest.normal_list: {path} does not exist")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"manifest.normal_list: {path} is not UTF-8 text ({error})") from error
    names = [line.strip().replace("\\", "/").removeprefix("./") for line in lines]
    return _Listing(normal_list or NORMAL_LIST, tuple(name for name in names if name))


def _apply_list(
    root: Path, entries: Sequence[Entry], listing: _Listing, normal_label: Sequence[str]
) -> tuple[list[Entry], list[tuple[str, str]]]:
    """Turn the listed entries into references; a bare name means the normal images of that name."""
    source = root / listing.path
    by_path = {entry.path: entry for entry in entries}
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(PurePosixPath(entry.path).name, []).append(entry)
    chosen: set[str] = set()
    unknown: list[tuple[str, str]] = []
    for name in listing.names:
        found = [by_path[name]] if name in by_path else by_name.get(name, [])
        normal = [e for e in found if e.label is None or e.label in normal_label]
        if found and not normal:
            raise DatasetError(
                f"{source} lists {name}, whose label {found[0].label!r} is not in "
                f"normal_label {list(normal_label)}"
            )
        if not found:
            unknown.append((name, f"listed in {listing.path}, but there is no such image"))
        chosen |= {entry.path for entry in normal}
    kept = [replace(e, split="normal", mask=None) if e.path in chosen else e for e in entries]
    return kept, unknown


def _reference_files(
    root: Path, normal_root: Path | None
) -> tuple[list[str], list[tuple[str, str]]]:
    """List the images of `normal_root` by their paths relative to `root`, links resolved."""
    if normal_root is None:
        return [], []
    if not normal_root.is_dir():
        raise DatasetError(f"manifest.normal_root: {normal_root.absolute()} is not a folder")
    files, rejected = _image_files(normal_root)
    relative = os.path.relpath(normal_root.resolve(), root.resolve())
    prefix = PurePosixPath(Path(relative).as_posix())
    return (
        [str(prefix / path) for path in files],
        [(str(prefix / path), reason) for path, reason in rejected],
    )


def _image_files(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """List all files under `root` (links followed): sorted image paths, and what is none."""
    images: list[str] = []
    rejected: list[tuple[str, str]] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back: everything below is listed already
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name).relative_to(root)
            reason = _name_problem(path)
            if reason is None:
                images.append(path.as_posix())
            else:
                shown = os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
                rejected.append((shown, reason))
    return sorted(images), rejected


def _name_problem(path: Path) -> str | None:
    if any(part.startswith(".") for part in path.parts):
        return "a hidden file"
    if not is_image_name(path):
        return f"not an image file name (it ends in {path.suffix!r})"
    try:
        path.as_posix().encode("utf-8")
    except UnicodeEncodeError:
        return "the file name is not valid UTF-8; rename it"
    return None


def _top(path: str) -> str:
    return PurePosixPath(path).parts[0]
