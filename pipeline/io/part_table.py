"""The parts of a category's images, as the manifest names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import IMAGES
from pipeline.io.tables import read_parquet


def read_parts(paths: ArtifactPaths, category: str) -> Mapping[str, str]:
    """Return the part of each image of a category, by sample id."""
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    return dict(zip(images["sample_id"].tolist(), images["part"].tolist(), strict=True))


def numbered(parts: Mapping[str, str], ids: Iterable[str]) -> NDArray[np.int64]:
    """Return a number (N,) for the part of each sample id, equal where the part is.

    Numbers count from 0, by first occurrence. Raises `ArtifactError` for an unknown id.
    """
    try:
        names = [parts[sample_id] for sample_id in ids]
    except KeyError as error:
        raise ArtifactError(
            f"the manifest has no image {error.args[0]!r}: run the stages after it again"
        ) from None
    return np.asarray(pd.factorize(np.array(names, object))[0], np.int64)
