"""The maps and regions of a category against its ground-truth masks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import Evaluate
from pipeline.evaluation.intervals import Interval, interval
from pipeline.evaluation.labels import Resampling
from pipeline.evaluation.localization import ProCounts, ProCurve, ProPieces, region_rates
from pipeline.executor import blocks, map_shards
from pipeline.io.arrays import group_path, open_arrays
from pipeline.io.images import ImageError, read_mask
from pipeline.io.map_files import mask_to_map
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES, MAP_SCORES, MASKS
from pipeline.io.storage import Place
from pipeline.io.tables import read_parquet
from pipeline.progress import Progress, track
from pipeline.regions.crops import find_regions, resize_mask

log = logging.getLogger("anomalyncd")

_IMAGES = 256
"""Images of a block."""


def mask_metrics(
    category: str,
    options: Evaluate,
    root: Place,
    normal: list[str],
    paths: ArtifactPaths,
    label_of: dict[str, str],
    sampling: Resampling,
) -> tuple[dict[str, float | None], dict[str, Interval | None]]:
    """Return the metrics of maps and regions against masks, and the interval of AUPRO.

    There are none without masks. A true mask comes to the size of the maps without losing thin
    regions (`mask_to_map`). An image that should have a mask and has none is left out.
    """
    table = read_parquet(paths.manifest(category) / "masks.parquet", MASKS)
    if len(table) == 0:
        return {}, {}
    mask_of = dict(zip(table["sample_id"], table["mask_path"], strict=True))
    maps = open_arrays(paths.maps(category) / "maps.zarr")["maps"]
    binary = open_arrays(paths.mebin(category) / "masks.zarr")["masks"]
    ids = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)["sample_id"].tolist()
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    sizes = zip(images["height"].tolist(), images["width"].tolist(), strict=True)
    shapes = dict(zip(images["sample_id"].tolist(), sizes, strict=True))
    rows = [
        TrueMask(i, sample_id, mask_of.get(sample_id), shapes[sample_id])
        for i, sample_id in enumerate(ids)
        if sample_id in mask_of or label_of.get(sample_id) in normal
    ]
    items = blocks(len(rows), shard=_IMAGES)
    resampled = bool(sampling.resamples)
    shards = [
        JudgedBlock(group_path(maps), group_path(binary), root.absolute(),
                    tuple(rows[b.start : b.stop]), resampled)
        for b in items
    ]  # fmt: skip
    curve, pieces = ProCurve(), ProPieces()
    measured, true_boxes, predicted_boxes = [], [], []
    with track(f"evaluating {category}") as progress:
        for found in map_shards(judge_block, shards, items=items, progress=progress):
            curve.join(found.curve)
            pieces.join(found.pieces)
            measured += found.ids
            true_boxes += found.true_boxes
            predicted_boxes += found.predicted_boxes
    fpr, fnr = region_rates(true_boxes, predicted_boxes, iou=options.region_iou)
    metrics = {
        "pixel_auroc": curve.auroc(),
        "aupro": curve.aupro(max_fpr=options.max_fpr),
        "region_fpr": fpr,
        "region_fnr": fnr,
    }
    if not sampling.resamples:
        return metrics, {}
    draws = sampling.draws[:, sampling.columns(measured)]
    return metrics, {"aupro": interval(pieces.aupro(draws, max_fpr=options.max_fpr))}


@dataclass(frozen=True)
class TrueMask:
    """Image `number` of the maps with the file of its true mask; None: nothing of it is defective.

    `shape` is that of the image.
    """

    number: int
    sample_id: str
    file: str | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class JudgedBlock:
    """Images that a block judges, with their maps and masks and the folder of the true masks."""

    maps: Path
    masks: Path
    root: Place
    images: tuple[TrueMask, ...]
    resampled: bool


@dataclass(frozen=True)
class Judged:
    """What the metrics need of some images: counts, and boxes (K, 4) of each."""

    ids: list[str]
    curve: ProCounts
    pieces: ProPieces
    true_boxes: list[NDArray[np.int64]]
    predicted_boxes: list[NDArray[np.int64]]


def judge_block(block: JudgedBlock, progress: Progress) -> Judged:
    """Compare maps and masks of a block with the true masks; one that is damaged is left out."""
    maps, binary = (
        open_arrays(block.maps, check=False)["maps"],
        open_arrays(block.masks, check=False)["masks"],
    )
    curve, pieces = ProCurve(), ProPieces()
    judged = Judged([], curve.counts(), pieces, [], [])
    for done, image in enumerate(block.images, 1):
        mask = _true_mask(image, block.root)
        if mask is not None:
            amap, resized = maps[image.number], mask_to_map(mask, maps.shape[1])
            curve.add(amap, resized)
            if block.resampled:
                pieces.add(amap, resized)
            judged.ids.append(image.sample_id)
            predicted = resize_mask(np.asarray(binary[image.number], bool), image.shape)
            judged.true_boxes.append(find_regions(mask).boxes)
            judged.predicted_boxes.append(find_regions(predicted).boxes)
        progress(done, len(block.images))
    return replace(judged, curve=curve.counts())


def _true_mask(image: TrueMask, root: Place) -> NDArray[np.bool_] | None:
    if image.file is None:
        return np.zeros(image.shape, np.bool_)
    try:
        return read_mask(root / image.file)
    except ImageError as error:
        log.warning("evaluate: %s; its image is left out", error)
        return None
