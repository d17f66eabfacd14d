"""Anomaly scores of images and of normal references, as written by `maps`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import MAP_SCORES, REFERENCE_SCORES
from pipeline.io.tables import read_parquet


def scores_of_images(
    paths: ArtifactPaths, category: str, crops: pd.DataFrame
) -> NDArray[np.float64]:
    """Return the anomaly score of each crop's image, float64 (M,)."""
    scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    rows = pd.Index(scores["sample_id"]).get_indexer(crops["sample_id"])
    if (rows < 0).any():
        raise ArtifactError(f"{paths.crops(category)}: made from other maps; run `crops` again")
    return np.asarray(scores["score"].to_numpy(np.float64)[rows])


def scores_of_references(paths: ArtifactPaths, category: str) -> NDArray[np.float64]:
    """Return the anomaly scores of the normal references, float64 (R,); empty without any."""
    table = read_parquet(paths.maps(category) / "references.parquet", REFERENCE_SCORES)
    return np.asarray(table["score"].to_numpy(np.float64))
