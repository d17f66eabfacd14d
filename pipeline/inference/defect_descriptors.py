"""Descriptors of the regions of a category that are not normal, from which classes are counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.descriptors import one_row_a_part, region_descriptors
from pipeline.clustering.normal_images import NormalRule
from pipeline.config.params import Compute
from pipeline.inference.region_features import fitted_rows, normal_of_set, pooled_tokens
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS
from pipeline.io.scores import scores_of_images, scores_of_reference_parts
from pipeline.io.tables import read_parquet


def defect_descriptors(
    category: str,
    image_size: int,
    rule: NormalRule,
    false_alarms: float,
    assumed_normal: float,
    layers: list[int],
    sample: int,
    seed: int,
    compute: Compute,
    paths: ArtifactPaths,
) -> NDArray[np.float64] | None:
    """Return the descriptors (R, L, D) of the regions that are not normal; None if all are.

    Of more than `sample`, those of a sample (`fitted_rows`). Of a part that several images show
    they are the mean.
    """
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    scores = scores_of_images(paths, category, crops)
    known = scores_of_reference_parts(paths, category)
    parts = numbered(read_parts(paths, category), crops["sample_id"])
    rule = "regions" if rule == "none" else rule
    normal, _ = normal_of_set(
        rule,
        crops,
        scores,
        known,
        parts,
        false_alarms=false_alarms,
        assumed_normal=assumed_normal,
    )
    if normal.all():
        return None
    pooled = pooled_tokens(paths, category, compute, layers, image_size=image_size)
    rows = fitted_rows(crops, normal, sample, seed)
    images = pd.factorize(crops["sample_id"])[0]
    return one_row_a_part(region_descriptors(pooled[rows]), images[rows], parts[rows])
