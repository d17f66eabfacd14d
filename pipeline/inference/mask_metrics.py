"""The maps and regions of a category against its ground-truth masks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import Evaluate
from pipeline.evaluation.intervals import Interval, interval
from pipeline.evaluation.labels import Resampling
from pipeline.evaluation.localization import ProCurve, ProPieces, region_rates
from pipeline.io.arrays import open_arrays
from pipeline.io.images import ImageError, read_mask
from pipeline.io.map_files import mask_to_map
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES, MAP_SCORES, MASKS
from pipeline.io.tables import read_parquet
from pipeline.progress import track
from pipeline.regions.crops import find_regions, resize_mask

log = logging.getLogger("anomalyncd")


def mask_metrics(
    category: str,
    options: Evaluate,
    root: Path,
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
    curve, pieces = ProCurve(), ProPieces()
    measured, true_boxes, predicted_boxes = [], [], []
    with track(f"evaluating {category}") as progress:
        for i, sample_id, mask in _true_masks(ids, root, mask_of, label_of, shapes, normal):
            resized = mask_to_map(mask, maps.shape[1])
            curve.add(maps[i], resized)
            if sampling.resamples:
                pieces.add(maps[i], resized)
            measured.append(sample_id)
            predicted = resize_mask(np.asarray(binary[i], bool), shapes[sample_id])
            true_boxes.append(find_regions(mask).boxes)
            predicted_boxes.append(find_regions(predicted).boxes)
            progress(i + 1, len(ids))
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


def _true_masks(
    ids: list[str],
    root: Path,
    mask_of: dict[str, str],
    label_of: dict[str, str],
    shapes: dict[str, tuple[int, int]],
    normal: list[str],
) -> Iterator[tuple[int, str, NDArray[np.bool_]]]:
    for i, sample_id in enumerate(ids):
        if sample_id in mask_of:
            try:
                mask = read_mask(root / mask_of[sample_id])
            except ImageError as error:
                log.warning("evaluate: %s; its image is left out", error)
                continue
            yield i, sample_id, mask
        elif label_of.get(sample_id) in normal:
            yield i, sample_id, np.zeros(shapes[sample_id], np.bool_)
