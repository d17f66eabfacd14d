"""Stage `evaluate`: classes and maps against labels and masks, where there are any."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import pandas as pd

from pipeline.config.params import Evaluate
from pipeline.config.section import Key
from pipeline.evaluation.intervals import Interval
from pipeline.evaluation.labels import (
    NO_METRICS,
    Resampling,
    class_metrics,
    combined_metrics,
    label_intervals,
    part_metrics,
    region_metrics,
    score_metrics,
)
from pipeline.inference.mask_metrics import mask_metrics
from pipeline.io.inventory import images_at
from pipeline.io.part_table import read_parts
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions
from pipeline.io.schemas import LABELS, MAP_SCORES, MERGED, PART_VERDICTS
from pipeline.io.tables import read_metadata, read_parquet, write_json

log = logging.getLogger("anomalyncd")


def run(
    category: str,
    options: Evaluate,
    root: Annotated[str, Key("dataset.root")],
    normal: Annotated[list[str], Key("manifest.normal_label")],
    paths: ArtifactPaths,
) -> None:
    """Write metrics.json of a category; what needs missing labels or masks is null.

    `intervals` holds the ends of the central 95 % of each metric over resamples of the parts.
    Images with several defect types (`evaluate.combined_label`, kept with an empty
    `manifest.exclude_labels`) count as one more label in all figures but `combined_*`, which are
    null without such images.
    """
    merged = read_parquet(paths.merge(category) / "images.parquet", MERGED)
    regions = read_regions(paths, category)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    label_of = dict(zip(labels["sample_id"], labels["label"], strict=True))
    part_of = read_parts(paths, category)
    sampling = Resampling({s: part_of[s] for s in merged["sample_id"]}, options.bootstrap)
    ends: dict[str, Interval | None] = {}
    metrics: dict[str, Any] = {**NO_METRICS, "n_query": len(merged), "n_regions": len(regions)}
    if len(labels):
        metrics |= class_metrics(merged, label_of, normal)
        metrics |= region_metrics(regions, label_of, normal)
        metrics |= _without_taught(category, merged, regions, label_of, normal, paths)
        scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
        metrics |= score_metrics(scores, label_of, normal)
        metrics |= combined_metrics(merged, label_of, options.combined_label)
        if options.bootstrap:
            ends |= label_intervals(merged, scores, label_of, normal, sampling)
        if len(set(part_of.values())) < len(part_of):
            verdicts = read_parquet(paths.merge(category) / "parts.parquet", PART_VERDICTS)
            metrics |= part_metrics(verdicts, label_of, part_of, normal)
    else:
        log.info("evaluate %s: there are no labels; only counts are written", category)
    folder = images_at(root, category)
    found, more = mask_metrics(category, options, folder, normal, paths, label_of, sampling)
    metrics |= found
    ends |= more
    metrics["intervals"] = {
        name: value._asdict() for name, value in ends.items() if value is not None
    }
    write_json(paths.evaluate(category) / "metrics.json", metrics)


def _without_taught(
    category: str,
    merged: pd.DataFrame,
    regions: pd.DataFrame,
    label_of: dict[str, str],
    normal: list[str],
    paths: ArtifactPaths,
) -> dict[str, Any]:
    """Return metrics over images of which people classified no region, if they did of others.

    The classes of the others are partly the people's own, so metrics over all images flatter the
    run.
    """
    taught = read_metadata(paths.predict(category) / "regions.parquet").get("taught")
    if not taught:
        return {}
    ids = set(regions.loc[regions["crop_id"].isin(taught["crop_ids"]), "sample_id"])
    rest = merged[~merged["sample_id"].isin(ids)]
    log.warning(
        "evaluate %s: people classified regions of %d of %d images, which were fixed in the fit; "
        "untaught_* are over the other images",
        *(category, len(ids), len(merged)),
    )
    found = class_metrics(rest, label_of, normal) if len(rest) else {}
    counts = {"n_taught_regions": len(taught["crop_ids"]), "n_taught_images": len(ids)}
    return counts | {f"untaught_{name}": value for name, value in found.items()}
