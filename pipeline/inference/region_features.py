"""What `classes`, `predict` and benchmarks need to know about the sub-images of a category (an
edge: it reads artifacts)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.conformal import Limit, normal_limit, part_scores
from pipeline.clustering.descriptors import PooledTokens
from pipeline.clustering.normal_images import NormalRule, known_normal
from pipeline.config.params import Compute
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.networks import crop_arrays, load_vit
from pipeline.io.paths import ArtifactPaths
from pipeline.progress import track


def pooled_tokens(
    paths: ArtifactPaths,
    category: str,
    compute: Compute,
    layers: Sequence[int],
    *,
    image_size: int,
    inside: Literal["masks", "weights"] = "weights",
) -> NDArray[np.float32]:
    """Return the tokens (M, L, D) of the sub-images, averaged with the weights of their pixels.

    Or, for comparison, under their masks.
    """
    device = choose_device(compute.device)
    vit = load_vit(paths, image_size=image_size)
    autocast = Autocast(device, compute.dtype)
    pooling = PooledTokens(vit, layers, device=device, autocast=autocast)
    with track(f"describing {category}") as progress:
        images, second = crop_arrays(paths.crops(category), inside)
        return pooling.over(images, second, size=image_size, progress=progress)


def normal_of_set(
    rule: NormalRule,
    crops: pd.DataFrame,
    scores: NDArray[np.float64],
    references: NDArray[np.float64],
    false_alarms: float,
    parts: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.bool_], Limit]:
    """Return which crops (M,) are normal by `rule`, and up to which score images are normal.

    `scores` (M,) are those of their images, `references` (R,) those of the parts of normal
    references, maybe none. `parts` (M,) numbers the parts of the crops' images (None: each image by
    itself). The limit is -inf unless the rule is ``scores``.
    """
    limit = Limit(-np.inf, "nothing", None, float("nan"))
    if rule == "scores":
        shown = crops["sample_id"] if parts is None else parts
        limit = normal_limit(part_scores(scores, shown), references, false_alarms=false_alarms)
    return known_normal(rule, crops["area_px"], scores, limit.value), limit
