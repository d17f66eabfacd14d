"""Stage `classes`: how many classes to look for: as said, or estimated from the regions."""

from __future__ import annotations

import logging
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.class_count import best_count, count_candidates
from pipeline.clustering.descriptors import region_descriptors
from pipeline.clustering.normal_images import NormalRule
from pipeline.config.params import Classes, Compute, Key
from pipeline.inference.region_features import normal_of_set, pooled_tokens
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS
from pipeline.io.scores import scores_of_images, scores_of_references
from pipeline.io.tables import read_parquet, write_json

log = logging.getLogger("anomalyncd")

_COLUMNS = ["classes", "eigenvalue", "gap"]


def run(
    category: str,
    options: Classes,
    image_size: Annotated[int, Key("views.image_size")],
    normal: Annotated[NormalRule, Key("predict.normal")],
    false_alarms: Annotated[float, Key("predict.false_alarms")],
    layers: Annotated[list[int], Key("predict.layers")],
    seed: Annotated[int, Key("predict.seed")],
    compute: Compute,
    paths: ArtifactPaths,
) -> None:
    """Write classes.json and candidates.csv of a category.

    Numbers of classes count normal; candidates are empty where the number was given.
    """
    given = options.n_classes(category)
    candidates = []
    if not given:
        descriptors = _descriptors(
            category, image_size, normal, false_alarms, layers, compute, paths
        )
        candidates = [] if descriptors is None else list(count_candidates(descriptors, seed=seed))
    n_classes = given or best_count(candidates) + 1
    if not given:
        log.info("%s: %d classes with normal", category, n_classes)
    rows = [(c.k + 1, c.eigenvalue, c.gap) for c in candidates]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    with replacing_folder(paths.classes(category)) as folder:
        folder.mkdir()
        frame.to_csv(folder / "candidates.csv", index=False, float_format="%.4f")
        write_json(
            folder / "classes.json",
            {
                "n_classes": n_classes,
                "estimated": not given,
                "candidates": frame.to_dict(orient="records"),
            },
        )


def _descriptors(
    category: str,
    image_size: int,
    rule: NormalRule,
    false_alarms: float,
    layers: list[int],
    compute: Compute,
    paths: ArtifactPaths,
) -> NDArray[np.float64] | None:
    """Return the descriptors (M, L, D) of the regions that are not normal; None if all are."""
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    scores = scores_of_images(paths, category, crops)
    known = scores_of_references(paths, category, "image_score")
    rule = "regions" if rule == "none" else rule
    normal, _ = normal_of_set(rule, crops, scores, known, false_alarms)
    if normal.all():
        return None
    pooled = pooled_tokens(paths, category, compute, layers, image_size=image_size)
    return region_descriptors(pooled[~np.asarray(normal)])
