"""Anomaly scores of images and of normal references, as written by `maps`."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.conformal import part_scores
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import MAP_SCORES, REFERENCE_SCORES
from pipeline.io.tables import read_parquet


def scores_of_images(
    paths: ArtifactPaths, category: str, crops: pd.DataFrame
) -> NDArray[np.float64]:
    """Return for each crop (M,) the detector's score of its image, `image_score`."""
    scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    rows = pd.Index(scores["sample_id"]).get_indexer(crops["sample_id"])
    if (rows < 0).any():
        raise ArtifactError(f"{paths.crops(category)}: made from other maps; run `crops` again")
    return np.asarray(scores["image_score"].to_numpy(np.float64)[rows])


def scores_of_references(
    paths: ArtifactPaths, category: str, column: Literal["score", "image_score"]
) -> NDArray[np.float64]:
    """Return scores (R,) of the normal references; none where the maps have none.

    `score` is the maximum of the map, `image_score` the detector's own.
    """
    table = read_parquet(paths.maps(category) / "references.parquet", REFERENCE_SCORES)
    return np.asarray(table[column].to_numpy(np.float64))


def scores_of_reference_parts(paths: ArtifactPaths, category: str) -> NDArray[np.float64]:
    """Return one `image_score` for each part of the normal references: its highest, (R,)."""
    table = read_parquet(paths.maps(category) / "references.parquet", REFERENCE_SCORES)
    return part_scores(
        table["image_score"], numbered(read_parts(paths, category), table["sample_id"])
    )
