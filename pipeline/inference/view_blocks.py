"""Views of crops in blocks: each writes its tokens into a file of its own, joined in order."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import Compute, Views
from pipeline.executor import blocks, map_shards
from pipeline.io.networks import augmentations, crop_arrays, load_blocks
from pipeline.io.paths import ArtifactPaths
from pipeline.mgvit.tokens import FrozenBlocks, Picked, iter_augmented
from pipeline.progress import Progress, track

Index = NDArray[np.int64]

_CROPS, _BATCH = 256, 32
"""Crops of a block, a multiple of the views that go through the network together."""


@dataclass(frozen=True)
class ViewSettings:
    """How views are made; `views` and `compute` are the sections as JSON."""

    paths: ArtifactPaths
    backbone: str
    views: str
    compute: str


@dataclass(frozen=True)
class ViewBlock:
    """Crops `rows` of a folder, the first of them sample number `first`; `path` is for tokens."""

    settings: ViewSettings
    crops: Path
    rows: tuple[int, ...]
    first: int
    path: Path


def write_views(
    path: Path,
    settings: ViewSettings,
    sets: Sequence[tuple[str, Path, Index]],
) -> Index:
    """Write the tokens of the views of all crops to `path`, set after set.

    `sets` are name, folder and rows of crops; samples are numbered through. Returns the numbers of
    tokens of each view (R,).
    """
    lengths, first = [np.zeros(0, np.int64)], 0
    with path.open("wb") as joined:
        for name, crops, rows in sets:
            items = blocks(len(rows), shard=_CROPS, batch=_BATCH)
            shards = [
                ViewBlock(
                    settings,
                    crops.absolute(),
                    tuple(rows[block.start : block.stop].tolist()),
                    first + block.start,
                    path.absolute().with_name(f"{first + block.start}.part"),
                )
                for block in items
            ]
            with track(f"views of {name}") as progress:
                lengths += map_shards(view_block, shards, items=items, progress=progress)
            for shard in shards:
                with shard.path.open("rb") as part:
                    shutil.copyfileobj(part, joined, 2**24)
                shard.path.unlink()
            first += len(rows)
    _frozen.cache_clear()
    return np.concatenate(lengths)


def view_block(block: ViewBlock, progress: Progress) -> Index:
    """Write the tokens of the views of a block; return how many each has."""
    views = Views.model_validate_json(block.settings.views)
    images, masks = crop_arrays(block.crops, check=False)
    rows = np.array(block.rows, np.int64)
    lengths = []
    with block.path.open("wb") as file:
        for piece in iter_augmented(
            _frozen(block.settings),
            Picked(images, rows),
            Picked(masks, rows),
            n_views=views.count,
            seed=views.seed,
            augmentations=augmentations(views),
            batch=_BATCH,
            first_sample=block.first,
            progress=progress,
        ):
            piece.flat.tofile(file)
            lengths.append(np.diff(piece.offsets))
    return np.concatenate(lengths)


@lru_cache(maxsize=1)
def _frozen(settings: ViewSettings) -> FrozenBlocks:
    """Return the network, which a worker keeps from block to block."""
    views = Views.model_validate_json(settings.views)
    return load_blocks(settings.paths, views, Compute.model_validate_json(settings.compute))
