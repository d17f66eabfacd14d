"""The tables of regions and of the crops they were made from, read together and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.io.class_tree import check_tree, has_tree
from pipeline.io.paths import ArtifactError, ArtifactPaths, damaged
from pipeline.io.schemas import CROPS, REGIONS
from pipeline.io.tables import read_parquet


def read_regions(paths: ArtifactPaths, category: str) -> pd.DataFrame:
    """Read the regions of a category, as people merged and split its classes, and check them.

    Returns
    -------
    DataFrame with the columns of `REGIONS`, of the stage `shape` if it ran, or else of `predict`.
    Every row has as many finite probabilities as there are classes, and one of these classes.

    Raises
    ------
    ArtifactError
        A file is missing, damaged or fails a check, or `shape` saw other regions.
    """
    if not has_tree(paths, category):
        return read_predicted(paths, category)
    check_tree(paths, category)
    return _read(paths.shape(category) / "regions.parquet")


def read_predicted(paths: ArtifactPaths, category: str) -> pd.DataFrame:
    """Read the regions as the stage `predict` classified them; otherwise as `read_regions`."""
    return _read(paths.predict(category) / "regions.parquet")


def _read(path: Path) -> pd.DataFrame:
    regions = read_parquet(path, REGIONS)
    if len(regions):
        _check_values(path, regions)
    return regions


def read_regions_and_crops(
    paths: ArtifactPaths, category: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the regions and crops of a category, row by row of the same crop.

    Returns
    -------
    Regions (columns of `REGIONS`) and crops (columns of `CROPS`), both with M rows.

    Raises
    ------
    ArtifactError
        A file is missing or damaged, or the regions were made from other crops.
    """
    regions = read_regions(paths, category)
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    if crops["crop_id"].tolist() != regions["crop_id"].tolist():
        raise ArtifactError(
            f"{paths.predict(category)}: made from other crops; run the stage 'predict' again (or "
            "`dvc repro`)"
        )
    return regions, crops


def n_classes(regions: pd.DataFrame) -> int:
    """Return the number of classes of the model that made `regions`; 0 without regions."""
    return len(regions["probabilities"].iloc[0]) if len(regions) else 0


def _check_values(path: Path, regions: pd.DataFrame) -> None:
    rows = [() if row is None else row for row in regions["probabilities"]]
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1 or widths[0] == 0:
        raise damaged(path, f"has rows with {widths} probabilities, and each needs as many")
    if not np.isfinite(np.stack(rows)).all():
        raise damaged(path, "has probabilities that are not finite")
    outside = ~regions["class"].between(0, widths[0] - 1)
    if outside.any():
        shown = regions.loc[outside].iloc[0]
        raise damaged(
            path,
            f"region {shown['crop_id']} is of class {shown['class']}, and the classes are 0 to "
            f"{widths[0] - 1}",
        )
