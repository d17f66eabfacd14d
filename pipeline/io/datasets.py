"""A folder of images as checked records: each file is decoded once, each rejection has a reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from pipeline.executor import blocks, map_shards
from pipeline.io.dataset_formats import (
    DatasetError,
    Entry,
    Scan,
    Split,
    scan_folder,
    understood,
)
from pipeline.io.images import ImageError, ImageInfo, inspect_image, read_mask
from pipeline.io.inventory import source_of
from pipeline.io.parts import is_part_file, parts_of
from pipeline.io.storage import CONNECTIONS, BucketPath, Place
from pipeline.progress import Progress, silent

T = TypeVar("T")
R = TypeVar("R")

_CAMERA_BITS = (8, 10, 12)
_DUPLICATE = "the same bytes as another file"
_WORKERS = min(4, os.cpu_count() or 1)
_BLOCK = 256
"""Files of a block."""


@dataclass(frozen=True)
class Sample:
    """One usable image; path and mask are relative to the root, posix; label None where unknown.

    Images of the same `part` show one thing: exposures or views of it.
    """

    sample_id: str
    path: str
    split: Split
    height: int
    width: int
    channels: int
    label: str | None
    mask: str | None
    part: str


class Rejected(NamedTuple):
    """A file that is not used and why; `duplicate_of` is the file that is used in its place."""

    path: str
    reason: str
    duplicate_of: str | None = None

    def sentence(self) -> str:
        """Return the reason for people to read."""
        if self.duplicate_of is None:
            return self.reason
        return f"the same bytes as {self.duplicate_of}, which is used"


@dataclass(frozen=True)
class Dataset:
    """Samples in the order of their ids, which is independent of path and label; rejected by path.

    `largest` is the largest value in all 16-bit grey images; None if there are none.
    """

    layout: str
    samples: tuple[Sample, ...]
    rejected: tuple[Rejected, ...]
    largest: int | None = None

    def split(self, name: Split) -> list[Sample]:
        """Return the samples of one split, in order."""
        return [sample for sample in self.samples if sample.split == name]


def collect(
    root: Place,
    *,
    layout: str = "auto",
    normal_label: Sequence[str] = ("good", "MT_Free"),
    exclude_labels: Sequence[str] = ("combined",),
    normal_list: str | None = None,
    normal_root: Place | None = None,
    part: str | None = None,
    bits: int = 16,
    progress: Progress = silent,
) -> Dataset:
    """Scan a folder and decode every image and query mask once.

    Parameters
    ----------
    root, layout, normal_label, exclude_labels, normal_list, normal_root
        See `scan_folder`.
    part
        Which images show one part (`pipeline.io.parts`); None: each one its own.
    bits
        Significant bits of 16-bit grey images (see `read_image`).
    progress
        Called after each image.

    Returns
    -------
    Usable samples, and the rejected files with reasons: not an image or not decodable, an excluded
    label, a mask that cannot be decoded, belongs to no image or has another size (its image stays,
    without a mask), and duplicates. Of files with the same bytes a query is kept before a
    reference, so that no query is compared with itself, then the first by path.

    Raises
    ------
    DatasetError
        There is no usable query image, or `part` cannot be used.
    """
    scan = scan_folder(
        root,
        layout=layout,
        normal_label=normal_label,
        exclude_labels=exclude_labels,
        normal_list=normal_list,
        normal_root=normal_root,
    )
    root = source_of(root)
    rejected = [Rejected(*row) for row in scan.rejected]
    infos = _inspect_all(root, scan.entries, bits, progress)
    samples = _unique(scan.entries, infos, rejected)
    samples = _with_sound_masks(root, samples, rejected)
    if not any(sample.split == "query" for sample in samples):
        raise DatasetError(_no_queries(root, scan, rejected))
    if part is not None:
        samples, rejected = _with_parts(root, samples, rejected, part)
    samples.sort(key=lambda sample: sample.sample_id)
    wide = [i.largest for i in infos if isinstance(i, ImageInfo) and i.largest is not None]
    return Dataset(
        scan.layout,
        tuple(samples),
        tuple(sorted(rejected)),
        largest=max(wide, default=None),
    )


def unused_bits(largest: int | None, bits: int) -> str | None:
    """Return a hint if 16-bit images leave the upper bits unused, else None."""
    enough = [n for n in _CAMERA_BITS if largest is not None and largest < 2**n]
    if not enough or enough[0] >= bits:
        return None
    return (
        f"the 16-bit images hold no value above {largest}, so they become nearly black: set "
        f"manifest.bits to {enough[0]} if the camera has {enough[0]} bits"
    )


@dataclass(frozen=True)
class FileBlock:
    """Image files that a block decodes, and the significant bits of their 16-bit pixels."""

    files: tuple[Place, ...]
    bits: int


def _inspect_all(
    root: Place, entries: Sequence[Entry], bits: int, progress: Progress
) -> list[ImageInfo | str]:
    """Return facts of every file, or why it cannot be used."""
    folder, items = root.absolute(), blocks(len(entries), shard=_BLOCK)
    shards = [FileBlock(tuple(folder / entries[i].path for i in b), bits) for b in items]
    found = map_shards(inspect_block, shards, items=items, progress=progress)
    return [info for block in found for info in block]


def inspect_block(block: FileBlock, progress: Progress) -> list[ImageInfo | str]:
    """Decode the files of a block; return the facts of each, or why it cannot be used."""
    return _parallel(lambda file: _inspect(file, block.bits), block.files, block.files, progress)


def _inspect(file: Place, bits: int) -> ImageInfo | str:
    try:
        return inspect_image(file, bits)
    except ImageError as error:
        return error.reason


def _unique(
    entries: Iterable[Entry], infos: Iterable[ImageInfo | str], rejected: list[Rejected]
) -> list[Sample]:
    """Keep one sample per id; add the others, and unreadable files, to `rejected`."""
    kept: dict[str, Sample] = {}
    pairs = sorted(
        zip(entries, infos, strict=True), key=lambda p: (p[0].split != "query", p[0].path)
    )
    for entry, info in pairs:
        if isinstance(info, str):
            rejected.append(Rejected(entry.path, info))
        elif info.sample_id in kept:
            rejected.append(Rejected(entry.path, _DUPLICATE, kept[info.sample_id].path))
        else:
            kept[info.sample_id] = Sample(
                sample_id=info.sample_id,
                path=entry.path,
                split=entry.split,
                height=info.height,
                width=info.width,
                channels=info.channels,
                label=entry.label,
                mask=entry.mask,
                part=info.sample_id,
            )
    return list(kept.values())


def _with_sound_masks(
    root: Place, samples: Sequence[Sample], rejected: list[Rejected]
) -> list[Sample]:
    """Remove unusable masks from their samples and add them to `rejected`."""
    folder, items = root.absolute(), blocks(len(samples), shard=_BLOCK)
    shards = [MaskFileBlock(folder, tuple(samples[b.start : b.stop])) for b in items]
    found = map_shards(mask_problems, shards, items=items)
    problems = [problem for block in found for problem in block]
    sound: list[Sample] = []
    for sample, problem in zip(samples, problems, strict=True):
        if sample.mask is not None and problem is not None:
            rejected.append(Rejected(sample.mask, problem))
            sample = replace(sample, mask=None)
        sound.append(sample)
    return sound


@dataclass(frozen=True)
class MaskFileBlock:
    """Samples below a folder whose masks a block decodes."""

    root: Place
    samples: tuple[Sample, ...]


def mask_problems(block: MaskFileBlock, progress: Progress) -> list[str | None]:
    """Return why the mask of each sample cannot be used; None where it can, or there is none."""
    places = [block.root]
    return _parallel(
        lambda sample: _mask_problem(block.root, sample), block.samples, places, progress
    )


def _with_parts(
    root: Place, samples: Sequence[Sample], rejected: Sequence[Rejected], rule: str
) -> tuple[list[Sample], list[Rejected]]:
    """Name the parts of samples; a file that lists them is no longer rejected."""
    paths = [sample.path for sample in samples]
    found = parts_of(root, paths, [*paths, *(row.path for row in rejected)], rule)
    own = rule if is_part_file(rule) else None
    return (
        [replace(sample, part=found.get(sample.path, sample.part)) for sample in samples],
        [row for row in rejected if row.path != own],
    )


def _mask_problem(root: Place, sample: Sample) -> str | None:
    if sample.mask is None:
        return None
    try:
        height, width = read_mask(root / sample.mask).shape
    except ImageError as error:
        return error.reason
    if (height, width) == (sample.height, sample.width):
        return None
    return (
        f"the mask has {height} x {width} pixels, its image {sample.path} "
        f"{sample.height} x {sample.width}; the image is used without a mask"
    )


def _no_queries(root: Place, scan: Scan, rejected: Sequence[Rejected]) -> str:
    shown = "".join(f"\n  {row.path}: {row.sentence()}" for row in sorted(rejected)[:5])
    files = f" {len(rejected)} files were rejected, among them:{shown}\n" if shown else " "
    return (
        f"{root} holds no usable query image (read as layout {scan.layout!r}).{files}{understood()}"
    )


def _parallel(
    work: Callable[[T], R], items: Sequence[T], places: Sequence[Place], progress: Progress
) -> list[R]:
    """Do the work on all items; `places` say whether processors limit it, or a network."""
    results: list[R] = []
    far = any(isinstance(place, BucketPath) for place in places[:1])
    with ThreadPoolExecutor(CONNECTIONS if far else _WORKERS) as pool:
        for result in pool.map(work, items):
            results.append(result)
            progress(len(results), len(items))
    return results
