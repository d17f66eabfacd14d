"""Stage `mebin`: a binary mask of every query image from its anomaly map."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd

from pipeline.binarization.mebin import ScoreRange
from pipeline.config.detection import Mebin
from pipeline.inference.map_masks import Binarizer, pass_through
from pipeline.inference.mask_artifacts import threshold_range, write_masks
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.scores import scores_of_references
from pipeline.io.tables import params_of, read_parquet, write_parquet
from pipeline.progress import track

log = logging.getLogger("anomalyncd")


def run(category: str, options: Mebin, paths: ArtifactPaths) -> None:
    """Write `masks.zarr` and `images.parquet` of one category, rows in the order of the maps.

    The table's metadata keep the method, rule, tau, s_min and s_max, and the raw range of the maps.
    Maps made from ground-truth masks pass through unchanged and uneroded, whatever the method.
    """
    source = paths.maps(category)
    scores = read_parquet(source / "scores.parquet", schemas.MAP_SCORES)
    group = open_arrays(source / "maps.zarr")
    maps = group["maps"]
    if len(scores) != maps.shape[0]:
        raise ArtifactError(
            f"{source}: {len(scores)} scores and {maps.shape[0]} maps; run the stage 'maps' again"
        )
    ground_truth = group.attrs.get("method") == "ground_truth"
    if ground_truth:
        ends = ScoreRange(0.0, 1.0)
    else:
        known = scores_of_references(paths, category, "score")
        ends = threshold_range(category, scores, known, options)
    binarize = pass_through if ground_truth else Binarizer(options, ends)
    metadata = {
        "method": "ground_truth" if ground_truth else options.method,
        "rule": options.rule,
        "tau": options.tau,
        "s_min": ends.s_min,
        "s_max": ends.s_max,
        "raw_min": group.attrs.get("raw_min"),
        "raw_max": group.attrs.get("raw_max"),
        "gamma": group.attrs.get("gamma", 1.0),
        "bank_sha256": group.attrs.get("bank_sha256"),
        "backbone_sha256": group.attrs.get("backbone_sha256"),
        "params": {**params_of(source / "scores.parquet"), "mebin": _shaping(options)},
    }
    with replacing_folder(paths.mebin(category)) as folder:
        folder.mkdir()
        ids = scores["sample_id"].tolist()
        with track(f"mebin {category}") as progress:
            rows = write_masks(folder / "masks.zarr", ids, maps, binarize, progress)
        frame = pd.DataFrame(rows, columns=schemas.MEBIN_IMAGES.names)
        write_parquet(folder / "images.parquet", frame, schemas.MEBIN_IMAGES, metadata)
    found = int((frame["n_regions"] > 0).sum())
    log.info("mebin %s: %d of %d images have regions", category, found, len(frame))


def _shaping(options: Mebin) -> dict[str, Any]:
    """Return the section as far as it shapes the masks: the report has a column of its own."""
    content = options.to_json()
    if options.method != "fixed":
        del content["fixed_threshold"]
    return content
