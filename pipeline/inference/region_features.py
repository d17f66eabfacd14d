"""What `classes`, `predict` and benchmarks need to know about the sub-images of a category (an
edge: it reads artifacts)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.conformal import Limit, normal_limit, part_scores
from pipeline.clustering.descriptors import PooledTokens
from pipeline.clustering.normal_images import NormalRule, known_normal
from pipeline.clustering.sampling import bottom_k
from pipeline.config.params import Compute
from pipeline.config.section import Dtype
from pipeline.executor import blocks, map_shards
from pipeline.io.backbone_weights import saved_sha256
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.networks import crop_arrays, load_vit
from pipeline.io.paths import ArtifactPaths
from pipeline.progress import Progress, track

_CROPS, _BATCH = 256, 32
"""Crops read together, and through the network together."""


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
    where = ArtifactPaths(paths.root.absolute())
    images, _ = crop_arrays(paths.crops(category), inside)
    items = blocks(images.shape[0], shard=_CROPS, batch=_BATCH)
    backbone = saved_sha256(paths.backbone())
    settings = TokenSettings(where, backbone, compute.device, compute.dtype, tuple(layers),
                             image_size, inside)  # fmt: skip
    shards = [TokenBlock(settings, category, rows) for rows in items or [range(0)]]
    with track(f"describing {category}") as progress:
        found = map_shards(token_block, shards, items=items or [range(0)], progress=progress)
    _pooling.cache_clear()
    return np.concatenate(found)


@dataclass(frozen=True)
class TokenSettings:
    """How crops below `paths` are described; `backbone` is the SHA-256 of its weights."""

    paths: ArtifactPaths
    backbone: str | None
    device: str
    dtype: Dtype
    layers: tuple[int, ...]
    image_size: int
    inside: Literal["masks", "weights"]


@dataclass(frozen=True)
class TokenBlock:
    """Rows of the crops of a category."""

    settings: TokenSettings
    category: str
    rows: range


def token_block(block: TokenBlock, progress: Progress) -> NDArray[np.float32]:
    """Return the pooled tokens (m, L, D) of the crops of a block."""
    settings, rows = block.settings, block.rows
    pooling = _pooling(settings)
    images, weights = crop_arrays(
        settings.paths.crops(block.category), settings.inside, check=False
    )
    found = [np.zeros((0, len(settings.layers), int(pooling.vit.embed_dim)), np.float32)]
    for start in range(rows.start, rows.stop, _CROPS):
        some = slice(start, min(start + _CROPS, rows.stop))
        found.append(
            pooling.over(
                images[some],
                weights[some],
                size=settings.image_size,
                batch=_BATCH,
                progress=_after(progress, start - rows.start, len(rows)),
            )
        )
    return np.concatenate(found)


@lru_cache(maxsize=1)
def _pooling(settings: TokenSettings) -> PooledTokens:
    """Return the network, which a worker keeps from block to block."""
    device = choose_device(settings.device)
    vit = load_vit(settings.paths, image_size=settings.image_size)
    autocast = Autocast(device, settings.dtype)
    return PooledTokens(vit, settings.layers, device=device, autocast=autocast)


def _after(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def normal_of_set(
    rule: NormalRule,
    crops: pd.DataFrame,
    scores: NDArray[np.float64],
    references: NDArray[np.float64],
    parts: NDArray[np.int64] | None = None,
    *,
    false_alarms: float,
    assumed_normal: float,
) -> tuple[NDArray[np.bool_], Limit]:
    """Return which crops (M,) are normal by `rule`, and up to which score images are normal.

    `scores` (M,) are those of their images, `references` (R,) those of the parts of normal
    references, maybe none. `parts` (M,) numbers the parts of the crops' images (None: each image by
    itself). The limit is -inf unless the rule is ``scores``.
    """
    limit = Limit(-np.inf, "nothing", None, float("nan"))
    if rule == "scores":
        shown = crops["sample_id"] if parts is None else parts
        limit = normal_limit(
            part_scores(scores, shown),
            references,
            false_alarms=false_alarms,
            assumed_normal=assumed_normal,
        )
    return known_normal(rule, crops["area_px"], scores, limit.value), limit


def fitted_rows(
    crops: pd.DataFrame, normal: NDArray[np.bool_], sample: int, seed: int
) -> NDArray[np.int64]:
    """Return the rows (m,) that are fitted to: at most `sample` of those that are not normal."""
    rows = np.flatnonzero(~normal)
    if len(rows) <= sample:
        return rows
    return rows[bottom_k(crops["crop_id"].iloc[rows].tolist(), sample, seed)]
