"""Raw maps in blocks: their range, and the rescaled maps that blocks write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.detectors.base import PatchScores, Scores
from pipeline.detectors.normalise import value_range
from pipeline.executor import Local, blocks, map_shards, using
from pipeline.inference.map_scores import raw_maps, rescale_maps
from pipeline.io.arrays import ArraySpec, open_block, shard_items, write_block
from pipeline.io.paths import ArtifactError
from pipeline.progress import Progress

Floats = NDArray[np.float32]
R = TypeVar("R")


def run_blocks(
    function: Callable[[RawBlock, Progress], R],
    scores: Scores,
    count: int,
    block: RawBlock,
    progress: Progress,
) -> list[R]:
    """Run a function over blocks of raw maps, each as `block` says, in whole shards.

    Patch scores in memory travel to where the block runs; a stand-in that reads files stays here.
    """
    step = shard_items(ArraySpec((count, block.map_size, block.map_size), "float32"))
    patches = scores.patch_scores
    here = not isinstance(patches, np.ndarray)
    items = blocks(count, shard=step)
    shards = [
        replace(
            block,
            patches=patches if here else patches[rows.start : rows.stop],
            first=0 if here else rows.start,
            rows=rows,
        )
        for rows in items
    ]
    with using(Local()) if here else nullcontext():
        return map_shards(function, shards, items=items, progress=progress)


@dataclass(frozen=True)
class RawBlock:
    """Raw maps of a block, and where their rescaled ones go.

    Row r of the maps is row r - `first` of `patches`.
    """

    map_size: int
    category: str
    path: Path = Path()
    low: float = 0.0
    high: float = 1.0
    gamma: float = 1.0
    patches: PatchScores | None = None
    first: int = 0
    rows: range = range(0)

    def shards(self, progress: Progress) -> Iterator[tuple[int, Floats]]:
        """Yield number of the first map and raw maps (b, S, S) of each shard."""
        assert self.patches is not None
        step = shard_items(ArraySpec((1, self.map_size, self.map_size), "float32"))
        for start in range(self.rows.start, self.rows.stop, step):
            stop = min(start + step, self.rows.stop)
            some = slice(start - self.first, stop - self.first)
            yield start, raw_maps(Scores(self.patches), some, self.map_size)
            progress(stop - self.rows.start, len(self.rows))


def range_block(block: RawBlock, progress: Progress) -> Floats:
    """Return minima and maxima (2, b) of the raw maps of a block."""
    found = []
    for _, raw in block.shards(progress):
        _check_finite(raw, block.category)
        found.append(np.stack([raw.min(axis=(1, 2)), raw.max(axis=(1, 2))]))
    return np.concatenate(found, axis=1)


def write_map_block(block: RawBlock, progress: Progress) -> Floats:
    """Write the rescaled maps of a block; return their maxima (b,)."""
    array = open_block(block.path)["maps"]
    found = []
    for start, raw in block.shards(progress):
        maps = rescale_maps(raw, block.low, block.high, block.gamma)
        found.append(maps.max(axis=(1, 2)))
        write_block(array, start, maps)
    return np.concatenate(found)


def _check_finite(raw: Floats, category: str) -> None:
    try:
        value_range(raw)  # raises for NaN and infinity
    except ValueError as error:  # NaN in the weights, or a dtype that overflows
        raise ArtifactError(
            f"{category}: {error}: try compute.dtype float32, or other weights"
        ) from error
