"""Look at a folder of images before it has a params.yaml."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.commands.image_health import sentences, unhealthy
from pipeline.commands.part_hints import suggest_parts
from pipeline.config.params import Base, Manifest
from pipeline.config.section import CATEGORY_RULE, ConfigError, is_category_name
from pipeline.io.dataset_formats import detect_layout, holds_images
from pipeline.io.datasets import Dataset, Sample, collect, unused_bits
from pipeline.io.images import is_image_name
from pipeline.progress import track
from pipeline.terminal import printable

_EXAMPLES = 3


@dataclass(frozen=True)
class Place:
    """Where the images are: `<root>/<category>`; `link` is the folder to link there, if any."""

    root: Path
    categories: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    link: Path | None = None


def locate(images: Path, category: str | None, linked: Path) -> Place:
    """Find the categories: `images` itself, or its subfolders that have a known layout.

    With a `category` other than the name of the folder, the place is below `linked`. Raises
    `ConfigError` for a folder without images and for a name that cannot be a category.
    """
    images = Path(os.path.abspath(images))
    if not images.is_dir():
        raise ConfigError(f"{images} is not a folder: give the folder that holds the images")
    if not holds_images(images):
        raise ConfigError(f"{images} holds no image file (.png, .jpg, ...)")
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
    """Return the subfolders that have a layout with labels or references, and the others."""
    children = sorted(child for child in images.iterdir() if not child.name.startswith("."))
    if detect_layout(images) != "folder" or any(is_image_name(child) for child in children):
        return [], []
    folders = [child for child in children if child.is_dir()]
    inner = [c.name for c in folders if detect_layout(c) != "folder" and holds_images(c)]
    return inner, [c.name for c in folders if c.name not in inner]


def _usable(name: str) -> str:
    if not is_category_name(name):
        raise ConfigError(
            f"{name!r} cannot be a category ({CATEGORY_RULE}): give another with --category"
        )
    return name


def survey(folder: Path, name: str, manifest: Manifest, normals: Path | None) -> Dataset:
    """Read a category as the stage `manifest` will."""
    with track(f"reading {name}") as progress:
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


def describe(name: str, folder: Path, dataset: Dataset) -> Iterator[str]:
    """Yield a few lines about the folder of a category."""
    queries, normals = dataset.split("query"), dataset.split("normal")
    yield f"{name}: {len(queries)} images (layout {dataset.layout}), {_sizes(queries)}"
    yield f"  normal references: {len(normals) or 'none; they are optional'}"
    labels = {sample.label for sample in queries} - {None}
    if labels:
        yield f"  {len(labels)} labels: only `evaluate` and `report` read them"
    yield f"  files skipped: {len(dataset.rejected) or 'none'}"
    yield from _reasons(dataset)
    linked = _outside(folder, dataset)
    if linked:
        yield f"  {linked} files lie outside {folder}: links to them are followed"
    hint = unused_bits(dataset.largest, Manifest().bits)
    if hint is not None:
        yield f"  {hint}"
    bad = unhealthy(folder, [sample.path for sample in queries], Manifest().bits)
    for sentence in sentences(bad, len(queries)):
        yield f"  {printable(sentence)}"
    paths = [sample.path for sample in dataset.samples]
    parts = suggest_parts(paths, label_folders=dataset.layout != "folder")
    if parts is not None:
        yield f"  {parts.sentence()}"
        yield f"    -> {parts.todo()}"


def _outside(folder: Path, dataset: Dataset) -> int:
    """Count the files outside `folder` that links in it lead to, without separate references."""
    paths = {row.path for row in dataset.rejected}
    paths |= {path for s in dataset.samples for path in (s.path, s.mask) if path is not None}
    inner = [path for path in paths if PurePosixPath(path).parts[0] != ".."]
    root = os.path.realpath(folder)
    return sum(
        os.path.commonpath([root, os.path.realpath(os.path.join(root, path))]) != root
        for path in inner
    )


def _sizes(samples: Sequence[Sample]) -> str:
    """Return the most frequent size of the images, and the range."""
    sizes = Counter((sample.width, sample.height) for sample in samples)
    (width, height), most = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"all of {width} x {height} pixels"
    widths, heights = [w for w, _ in sizes], [h for _, h in sizes]
    return (
        f"{min(widths)}-{max(widths)} x {min(heights)}-{max(heights)} pixels, {most} of them "
        f"{width} x {height}"
    )


def _reasons(dataset: Dataset) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for row in dataset.rejected:
        reasons.setdefault(row.reason, []).append(row.path)
    for reason, paths in sorted(reasons.items(), key=lambda item: -len(item[1])):
        more = f" and {len(paths) - _EXAMPLES} more" if len(paths) > _EXAMPLES else ""
        yield f"    {reason}: {', '.join(map(printable, paths[:_EXAMPLES]))}{more}"


def describe_base(base: Path) -> str:
    """Describe the labelled base set; raise `ConfigError` if none of it can be used."""
    options = Base()
    with track(f"reading {base.name}") as progress:
        dataset = collect(
            base,
            layout=options.layout,
            normal_label=options.normal_label,
            progress=progress,
        )
    normal = (None, *options.normal_label)
    labelled = [s for s in dataset.split("query") if s.label not in normal and s.mask is not None]
    if not labelled:
        raise ConfigError(
            f"--base: {base} holds no labelled defect with a mask (read as layout "
            f"{dataset.layout!r}); leave out --base, which is optional"
        )
    labels = {sample.label for sample in labelled}
    return (
        f"base: {len(labelled)} masked defects of {len(labels)} classes (layout {dataset.layout})"
    )
