"""The table of regions, as `predict` wrote it (an edge: it reads an artifact)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.io.paths import damaged
from pipeline.io.schemas import REGIONS
from pipeline.io.tables import read_parquet


def read_regions(path: Path) -> pd.DataFrame:
    """Read regions.parquet and check its values.

    Every row has as many probabilities as there are classes, all finite, and one of these classes.
    Raises `ArtifactError`.
    """
    frame = read_parquet(path, REGIONS)
    if len(frame) == 0:
        return frame
    rows = [() if row is None else row for row in frame["probabilities"]]
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1 or widths[0] == 0:
        raise damaged(path, f"has rows with {widths} probabilities, and each needs as many")
    if not np.isfinite(np.stack(rows)).all():
        raise damaged(path, "has probabilities that are not finite")
    outside = ~frame["class"].between(0, widths[0] - 1)
    if outside.any():
        shown = frame.loc[outside].iloc[0]
        raise damaged(
            path,
            f"region {shown['crop_id']} is of class {shown['class']}, and the classes are 0 to "
            f"{widths[0] - 1}",
        )
    return frame
