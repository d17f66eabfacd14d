"""What the stage `predict` writes of the regions, and says of the limit of normal images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.conformal import Limit
from pipeline.evaluation.promise import promise_of, promise_words
from pipeline.io.arrays import ArraySpec, create_arrays
from pipeline.io.paths import ArtifactError
from pipeline.io.schemas import REGIONS
from pipeline.io.tables import write_parquet
from pipeline.mgvit.tokens import FrozenBlocks

log = logging.getLogger("anomalyncd")


def report_limit(category: str, limit: Limit, n_references: int, asked: float) -> None:
    """Log what the limit of normal images rests on, and warn where it promises less than asked.

    Several references of one part count as one.
    """
    if limit.basis == "nothing":
        log.warning(
            "%s: no image is called normal by its score: there are no normal references, and the "
            "scores do not fall into two modes. Add references for a limit with a known rate",
            category,
        )
    elif limit.basis == "lowest":
        log.warning(
            "%s: without normal references, and as the scores do not fall into two modes, the "
            "lowest scores, up to %.3g, are called normal, and looks decide about the other "
            "regions. Add references for a limit with a known rate, or set "
            "predict.assumed_normal to the share of good images that you expect",
            category,
            limit.value,
        )
    elif limit.false_alarms is not None and limit.false_alarms > asked:
        log.warning(
            "%s: %d normal references cannot promise fewer than %.0f %% false alarms; "
            "predict.false_alarms is %g: add references. As it is, %s",
            category,
            n_references,
            100 * limit.false_alarms,
            asked,
            promise_words(promise_of(n_references, asked)),
        )
    else:
        log.info("%s: images score up to %.3g if normal, by %s", category, limit.value, limit.basis)
        if limit.basis == "references":
            log.info("%s: %s", category, promise_words(promise_of(n_references, asked)))


def write_regions(
    folder: Path,
    crops: pd.DataFrame,
    probabilities: NDArray[np.float64],
    embeddings: NDArray[np.floating[Any]],
    metadata: dict[str, object],
) -> None:
    """Write regions.parquet; the metadata name the classifier that was fitted to them by its hash.

    Raises `ArtifactError` for probabilities or embeddings that are not finite.
    """
    if not (np.isfinite(probabilities).all() and np.isfinite(embeddings).all()):
        raise ArtifactError(
            "probabilities or embeddings of the regions are not finite, and nothing was written: "
            "the network is of no use; set a lower train.lr and run the stage 'train' again"
        )
    frame = pd.DataFrame(
        {
            "crop_id": crops["crop_id"],
            "sample_id": crops["sample_id"],
            "class": probabilities.argmax(1),
            "confidence": probabilities.max(1, initial=0.0),
            "probabilities": list(probabilities),
            "embedding": list(embeddings.astype(np.float32)),
        }
    )
    write_parquet(folder / "regions.parquet", frame, REGIONS, metadata)


def write_descriptors(folder: Path, rows: NDArray[np.float32]) -> None:
    """Write the unit descriptors (M, L, D)."""
    specs = {"descriptors": ArraySpec(rows.shape, "float16")}
    with create_arrays(folder / "descriptors.zarr", specs) as arrays:
        arrays["descriptors"][:] = rows.astype(np.float16)


def write_attention(
    folder: Path, attention: NDArray[np.float32] | None, blocks: FrozenBlocks | None
) -> None:
    """Write the class token's attention to the patches, (M, h, w), without the prefix tokens'.

    Without a network (`blocks` None) there are no rows.
    """
    patches, size = np.zeros((0, 1, 1), np.float32), 0
    if blocks is not None:
        vit, size = blocks.vit, blocks.masking.image_size
        grid = tuple(int(n) for n in vit.patch_embed.grid_size)
        if attention is not None:
            patches = attention[:, int(vit.num_prefix_tokens) :].reshape(-1, *grid)
    specs = {"attention": ArraySpec(patches.shape, "float16")}
    with create_arrays(folder / "attention.zarr", specs, {"image_size": size}) as arrays:
        arrays["attention"][:] = patches.astype(np.float16)
