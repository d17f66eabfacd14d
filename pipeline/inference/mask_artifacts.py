"""The masks of a category on disk: between which scores thresholds are sought, and the masks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange, reference_floor, score_range
from pipeline.binarization.thresholds import checked_map
from pipeline.config.detection import Mebin
from pipeline.executor import blocks, map_shards
from pipeline.inference.map_masks import Binarize
from pipeline.io.arrays import (
    ArraySpec,
    create_arrays,
    group_path,
    open_arrays,
    open_block,
    shard_items,
    write_block,
)
from pipeline.io.paths import ArtifactError
from pipeline.progress import Progress

log = logging.getLogger("anomalyncd")


@dataclass(frozen=True)
class MaskBlock:
    """Maps of a maps.zarr whose masks a block writes into a masks.zarr; `ids` are its samples."""

    maps: Path
    masks: Path
    start: int
    ids: tuple[str, ...]
    binarize: Binarize


def write_masks(
    path: Path, ids: list[str], maps: zarr.Array, binarize: Binarize, progress: Progress
) -> list[tuple[object, ...]]:
    """Binarize maps and write the masks, in blocks of whole shards; return the table's rows."""
    spec = ArraySpec(maps.shape, "bool")
    items = blocks(len(ids), shard=shard_items(spec))
    with create_arrays(path, {"masks": spec}) as arrays:
        source, target = group_path(maps), group_path(arrays["masks"])
        shards = [
            MaskBlock(source, target, block.start, tuple(ids[block.start : block.stop]), binarize)
            for block in items
        ]
        rows = map_shards(mask_block, shards, items=items, progress=progress)
    return [row for block in rows for row in block]


def mask_block(block: MaskBlock, progress: Progress) -> list[tuple[object, ...]]:
    """Binarize the maps of a block, a shard in memory at a time; return its rows."""
    maps, masks = open_arrays(block.maps, check=False)["maps"], open_block(block.masks)["masks"]
    step = masks.shards[0]
    rows: list[tuple[object, ...]] = []
    for first in range(0, len(block.ids), step):
        ids = block.ids[first : first + step]
        shard = np.zeros((len(ids), *maps.shape[1:]), np.bool_)
        for i, sample_id in enumerate(ids):
            found = block.binarize(_checked(maps[block.start + first + i], sample_id))
            shard[i] = found.mask
            # NaN is written as null.
            rows.append(
                (sample_id, found.threshold, found.n_regions, found.run_length, found.counts)
            )
            progress(len(rows), len(block.ids))
        write_block(masks, block.start + first, shard)
    return rows


def _checked(amap: NDArray[np.float32], sample_id: str) -> NDArray[np.float32]:
    """Return a map that is finite and in [0, 1]; raise `ArtifactError` for any other."""
    try:
        checked_map(amap)
    except ValueError as error:
        raise ArtifactError(f"map of sample {sample_id}: {error}") from error
    return amap


def threshold_range(
    category: str, scores: pd.DataFrame, references: NDArray[np.float64], options: Mebin
) -> ScoreRange:
    """Return where thresholds are sought; the published rule knows no references."""
    values = scores["score"].to_numpy(np.float64)
    floor = options.floor
    if floor is None and options.rule == "paper":
        floor = reference_floor(values, references)
        if floor is not None:
            log.info("mebin %s: no normal image; floor %.3f is of the references", category, floor)
    try:
        return score_range(values, rule=options.rule, floor=floor)
    except ValueError as error:
        raise ArtifactError(f"{category}: {error}") from error
