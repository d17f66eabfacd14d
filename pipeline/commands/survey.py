"""What a folder of images holds, before there is a project for it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.config.params import CATEGORY_RULE, Base, ConfigError, Manifest, is_category_name
from pipeline.io.dataset_formats import detect_layout, holds_images
from pipeline.io.datasets import Dataset, Rejected, Sample, collect, unused_bits
from pipeline.io.images import is_image_name
from pipeline.progress import track
from pipeline.terminal import printable

_EXAMPLES = 3


@dataclass(frozen=True)
class Place:
    """Where the images are: `<root>/<category>` for each category; `link`: what to link there."""

    root: Path
    categories: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    link: Path | None = None


def locate(images: Path, category: str | None, linked: Path) -> Place:
    """Find the categories: `images` itself, or those of its folders that have a known layout.

    A `category` other than the name of the folder is to be linked below `linked`. Raises
    `ConfigError` for a folder without images and a name that cannot be used.
    """
    images = Path(os.path.abspath(images))
    if not images.is_dir():
        raise ConfigError(f"{images} is not a folder: give the folder that holds the images")
    if not holds_images(images):
        raise ConfigError(f"{images} holds no file with the name of an image (.png, .jpg, ...)")
    inner, others = _inner_categories(images)
    if inner:
        chosen = [name for name in inner if category in (None, name)]
        if not chosen:
            raise ConfigError(f"--category: {category!r} is none of {', '.join(inner)}")
        return Place(images, tuple(_usable(name) for name in chosen), tuple(others))
    if category is None or category == images.name:
        return Place(images.parent, (_usable(images.name),))
    return Place(linked, (_usable(category),), link=images)


def _inner_categories(images: Path) -> tuple[list[str], list[str]]:
    """Return the folders with a layout of labels or references of their own, and the others."""
    children = sorted(child for child in images.iterdir() if not child.name.startswith("."))
    if detect_layout(images) != "folder" or any(is_image_name(child) for child in children):
        return [], []
    folders = [child for child in children if child.is_dir()]
    inner = [c.name for c in folders if detect_layout(c) != "folder" and holds_images(c)]
    return inner, [c.name for c in folders if c.name not in inner]


def _usable(name: str) -> str:
    if not is_category_name(name):
        raise ConfigError(
            f"{name!r} cannot be a category ({CATEGORY_RULE}): give another by --category"
        )
    return name


def survey(folder: Path, name: str, manifest: Manifest, normals: Path | None) -> Dataset:
    """Read a category as the stage `manifest` will."""
    with track(f"looking at {name}") as progress:
        return collect(
            folder,
            layout=manifest.layout,
            normal_label=manifest.normal_label,
            exclude_labels=manifest.exclude_labels,
            normal_list=manifest.normal_list,
            normal_root=normals,
            bits=manifest.bits,
            progress=progress,
        )


def describe(name: str, folder: Path, found: Dataset) -> Iterator[str]:
    """Say what the folder of a category holds, in a few lines."""
    queries, normals = found.split("query"), found.split("normal")
    yield f"{name}: {len(queries)} images to sort (layout {found.layout}), {_sizes(queries)}"
    yield f"  normal references: {len(normals) or 'none; they are optional'}"
    labels = {sample.label for sample in queries} - {None}
    if labels:
        yield f"  {len(labels)} labels were seen: only `evaluate` and `report` will read them"
    yield f"  files not used: {len(found.rejected) or 'none'}"
    yield from _reasons(found.rejected)
    linked = _outside(folder, found)
    if linked:
        yield f"  {linked} files lie outside {folder}: links lead there, and are followed"
    hint = unused_bits(found.largest, Manifest().bits)
    if hint is not None:
        yield f"  {hint}"


def _outside(folder: Path, found: Dataset) -> int:
    """Count the files that links in `folder` lead to; separate references are not among them."""
    paths = {row.path for row in found.rejected}
    paths |= {path for s in found.samples for path in (s.path, s.mask) if path is not None}
    inner = [path for path in paths if PurePosixPath(path).parts[0] != ".."]
    root = os.path.realpath(folder)
    return sum(
        os.path.commonpath([root, os.path.realpath(os.path.join(root, path))]) != root
        for path in inner
    )


def _sizes(samples: Sequence[Sample]) -> str:
    """Say how large the images are: the most frequent size, and the range."""
    sizes = Counter((sample.width, sample.height) for sample in samples)
    (width, height), most = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"all of {width} x {height} pixels"
    widths, heights = [w for w, _ in sizes], [h for _, h in sizes]
    return (
        f"{min(widths)}-{max(widths)} x {min(heights)}-{max(heights)} pixels, {most} of them "
        f"{width} x {height}"
    )


def _reasons(rejected: Sequence[Rejected]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for row in rejected:
        reasons.setdefault(row.reason, []).append(row.path)
    for reason, paths in sorted(reasons.items(), key=lambda item: -len(item[1])):
        more = f" and {len(paths) - _EXAMPLES} more" if len(paths) > _EXAMPLES else ""
        yield f"    {reason}: {', '.join(map(printable, paths[:_EXAMPLES]))}{more}"


def describe_base(base: Path) -> str:
    """Say what the labelled base set holds; raise `ConfigError` if nothing of it can be used."""
    options = Base()
    with track(f"looking at {base.name}") as progress:
        found = collect(
            base,
            layout=options.layout,
            normal_label=options.normal_label,
            progress=progress,
        )
    normal = (None, *options.normal_label)
    labelled = [s for s in found.split("query") if s.label not in normal and s.mask is not None]
    if not labelled:
        raise ConfigError(
            f"--base: {base} holds no labelled defect with a mask (read as layout "
            f"{found.layout!r}); it is optional, leave it out if there is none"
        )
    labels = {sample.label for sample in labelled}
    return f"base: {len(labelled)} masked defects of {len(labels)} classes (layout {found.layout})"
