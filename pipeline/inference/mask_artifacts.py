"""The masks of a category on disk: between which scores thresholds are sought, and the masks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange, reference_floor, score_range
from pipeline.binarization.thresholds import checked_map
from pipeline.config.detection import Mebin
from pipeline.inference.map_masks import Binarize
from pipeline.io.arrays import ArraySpec, create_arrays, shard_items
from pipeline.io.paths import ArtifactError
from pipeline.progress import Progress

log = logging.getLogger("anomalyncd")


def write_masks(
    path: Path, ids: list[str], maps: Any, binarize: Binarize, progress: Progress
) -> list[tuple[object, ...]]:
    """Binarize map by map and write the masks a shard at a time; return the table's rows."""
    spec = ArraySpec(maps.shape, "bool")
    step = shard_items(spec)
    rows: list[tuple[object, ...]] = []
    with create_arrays(path, {"masks": spec}) as arrays:
        for start in range(0, len(ids), step):
            masks = np.zeros((min(step, len(ids) - start), *maps.shape[1:]), np.bool_)
            for i, sample_id in enumerate(ids[start : start + step]):
                found = binarize(_checked(maps[start + i], sample_id))
                masks[i] = found.mask
                # NaN is written as null.
                rows.append(
                    (sample_id, found.threshold, found.n_regions, found.run_length, found.counts)
                )
                progress(start + i + 1, len(ids))
            arrays["masks"][start : start + len(masks)] = masks
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
