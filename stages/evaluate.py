"""Stage `evaluate`: classes and maps against labels and masks, where there are any."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import Evaluate, Key
from pipeline.evaluation.clustering import image_auroc
from pipeline.evaluation.labels import class_metrics, combined_metrics, region_metrics
from pipeline.evaluation.localization import ProCurve, region_rates
from pipeline.io.arrays import open_arrays
from pipeline.io.images import ImageError, read_mask
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions
from pipeline.io.schemas import IMAGES, LABELS, MAP_SCORES, MASKS, MERGED
from pipeline.io.tables import read_parquet, write_json
from pipeline.progress import track
from pipeline.regions.crops import find_regions, resize_mask

log = logging.getLogger("anomalyncd")

_NULL = {
    "nmi": None,
    "ari": None,
    "f1": None,
    "image_auroc": None,
    "image_score_auroc": None,
    "pixel_auroc": None,
    "aupro": None,
    "normal_precision": None,
    "normal_recall": None,
    "defect_nmi": None,
    "defect_ari": None,
    "defect_f1": None,
    "region_nmi": None,
    "region_ari": None,
    "region_f1": None,
    "region_fpr": None,
    "region_fnr": None,
    "combined_n": None,
    "combined_multi": None,
}


def run(
    category: str,
    options: Evaluate,
    root: Annotated[str, Key("dataset.root")],
    normal: Annotated[list[str], Key("manifest.normal_label")],
    paths: ArtifactPaths,
) -> None:
    """Write metrics.json of a category; what needs missing labels or masks is null.

    Images with several defect types (`evaluate.combined_label`, kept with an empty
    `manifest.exclude_labels`) count as one more label in all figures but `combined_*`, which are
    null without such images.
    """
    merged = read_parquet(paths.merge(category) / "images.parquet", MERGED)
    regions = read_regions(paths, category)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    label_of = dict(zip(labels["sample_id"], labels["label"], strict=True))
    metrics: dict[str, Any] = {**_NULL, "n_query": len(merged), "n_regions": len(regions)}
    if len(labels):
        metrics |= class_metrics(merged, label_of, normal)
        metrics |= region_metrics(regions, label_of, normal)
        metrics |= _score_figures(category, paths, label_of, normal)
        metrics |= combined_metrics(merged, label_of, options.combined_label)
    else:
        log.info("evaluate %s: there are no labels; only counts are written", category)
    metrics |= _mask_figures(category, options, Path(root) / category, normal, paths, label_of)
    write_json(paths.evaluate(category) / "metrics.json", metrics)


def _score_figures(
    category: str, paths: ArtifactPaths, label_of: dict[str, str], normal: list[str]
) -> dict[str, float | None]:
    scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    scores = scores[scores["sample_id"].isin(label_of.keys())]
    anomalous = [label_of[s] not in normal for s in scores["sample_id"]]
    return {
        "image_auroc": image_auroc(anomalous, scores["score"]),
        "image_score_auroc": image_auroc(anomalous, scores["image_score"]),
    }


def _mask_figures(
    category: str,
    options: Evaluate,
    root: Path,
    normal: list[str],
    paths: ArtifactPaths,
    label_of: dict[str, str],
) -> dict[str, float | None]:
    """Figures against masks; an image that should have one and has none is left out of them."""
    table = read_parquet(paths.manifest(category) / "masks.parquet", MASKS)
    if len(table) == 0:
        return {}
    mask_of = dict(zip(table["sample_id"], table["mask_path"], strict=True))
    maps = open_arrays(paths.maps(category) / "maps.zarr")["maps"]
    binary = open_arrays(paths.mebin(category) / "masks.zarr")["masks"]
    ids = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)["sample_id"].tolist()
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    sizes = zip(images["height"].tolist(), images["width"].tolist(), strict=True)
    shapes = dict(zip(images["sample_id"].tolist(), sizes, strict=True))
    curve = ProCurve()
    true_boxes, predicted_boxes = [], []
    with track(f"evaluating {category}") as progress:
        for i, sample_id, mask in _true_masks(ids, root, mask_of, label_of, shapes, normal):
            curve.add(maps[i], resize_mask(mask, maps.shape[1:]))
            predicted = resize_mask(np.asarray(binary[i], bool), shapes[sample_id])
            true_boxes.append(find_regions(mask).boxes)
            predicted_boxes.append(find_regions(predicted).boxes)
            progress(i + 1, len(ids))
    fpr, fnr = region_rates(true_boxes, predicted_boxes, iou=options.region_iou)
    return {
        "pixel_auroc": curve.auroc(),
        "aupro": curve.aupro(max_fpr=options.max_fpr),
        "region_fpr": fpr,
        "region_fnr": fnr,
    }


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
                yield i, sample_id, read_mask(root / mask_of[sample_id])
            except ImageError as error:
                log.warning("evaluate: %s; its image is left out", error)
        elif label_of.get(sample_id) in normal:
            yield i, sample_id, np.zeros(shapes[sample_id], np.bool_)
