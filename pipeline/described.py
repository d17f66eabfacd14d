"""What `classes`, `predict` and benchmarks need to know about the sub-images of a category (an
edge: it reads artifacts)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import MAP_SCORES, REFERENCE_SCORES, ArtifactError, Layout, read_parquet
from pipeline.config import Train
from pipeline.descriptors import PooledTokens
from pipeline.model_store import Autocast, choose_device, crop_arrays, load_vit
from pipeline.normality import Rule, known_normal, normal_limit
from pipeline.progress import track


def pooled_tokens(
    layout: Layout, category: str, train: Train, layers: Sequence[int]
) -> NDArray[np.float32]:
    """Return the tokens (M, L, D) of the sub-images, averaged under their masks."""
    device = choose_device(train.device)
    vit = load_vit(layout, image_size=train.image_size)
    autocast = Autocast(device, train.precision)
    pooling = PooledTokens(vit, layers, device=device, autocast=autocast)
    with track(f"describing {category}") as progress:
        return pooling.over(
            *crop_arrays(layout.crops(category)), size=train.image_size, progress=progress
        )


def scores_of_images(layout: Layout, category: str, crops: pd.DataFrame) -> NDArray[np.float64]:
    """Return for each of the sub-images (M,) the anomaly score of its image."""
    scores = read_parquet(layout.maps(category) / "scores.parquet", MAP_SCORES)
    rows = pd.Index(scores["sample_id"]).get_indexer(crops["sample_id"])
    if (rows < 0).any():
        raise ArtifactError(f"{layout.crops(category)}: made from other maps; run `crops` again")
    return np.asarray(scores["score"].to_numpy(np.float64)[rows])


def scores_of_references(layout: Layout, category: str) -> NDArray[np.float64]:
    """Return the anomaly scores (R,) of the normal references; none where the maps have none."""
    table = read_parquet(layout.maps(category) / "references.parquet", REFERENCE_SCORES)
    return np.asarray(table["score"].to_numpy(np.float64))


def normal_of_set(
    rule: Rule,
    crops: pd.DataFrame,
    scores: NDArray[np.float64],
    references: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], float]:
    """Return which sub-images (M,) are normal by `rule`, and up to which score images are normal.

    `scores` (M,) are those of their images, `references` (R,) those of the normal references, maybe
    none. The limit is -inf unless the rule is ``scores``.
    """
    limit = -np.inf
    if rule == "scores":
        first = ~crops["sample_id"].duplicated().to_numpy()
        limit = normal_limit(scores[first], references)
    return known_normal(rule, crops["area_px"], scores, limit), limit
