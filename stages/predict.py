"""Stage `predict`: the class of every sub-image, without augmentation.

By the trained heads, as in the paper, or by an ensemble of mixtures over descriptors of the regions
of this very set. Embeddings are the trained network's either way. What was fitted is kept, so that
new images can be classified (`pipeline.inference`).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.conformal import Limit
from pipeline.clustering.descriptors import l2_normalise
from pipeline.config.params import Compute, Predict
from pipeline.inference.region_classes import (
    Seen,
    TrainedNetwork,
    classify_regions,
    fit_regions,
    load_network,
    seen_by_heads,
)
from pipeline.inference.region_features import pooled_tokens
from pipeline.io.arrays import ArraySpec, create_arrays
from pipeline.io.files import replacing_folder
from pipeline.io.networks import crop_arrays
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.region_classifier import save_region_model
from pipeline.io.schemas import CROPS, REGIONS
from pipeline.io.scores import scores_of_images, scores_of_references
from pipeline.io.tables import read_parquet, write_parquet
from pipeline.mgvit.prediction import Predictions
from pipeline.mgvit.tokens import FrozenBlocks
from pipeline.progress import track

log = logging.getLogger("anomalyncd")


def run(category: str, options: Predict, compute: Compute, paths: ArtifactPaths) -> None:
    """Write regions, descriptors, attention and the classifier's files of a category.

    The network's settings come from model.json.
    """
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    scores = scores_of_images(paths, category, crops)
    references = scores_of_references(paths, category, "image_score")
    network = load_network(paths, category, compute)
    with track(f"predicting {category}") as progress:
        predictions = network(*crop_arrays(paths.crops(category)), progress=progress)
    seen = _seen(category, options, compute, paths, network, predictions)
    model = fit_regions(seen, crops, scores, references, network.n_classes, options)
    if options.normal == "scores":
        _report_limit(category, model.normal, len(references), options.false_alarms)
    classes = classify_regions(seen, crops["area_px"], scores, model, options)
    params = {**network.description["params"], "predict": options.to_json()}
    with replacing_folder(paths.predict(category)) as folder:  # at once: all are of one run
        folder.mkdir()
        digest = save_region_model(folder, model, params, network.description.get("sha256"))
        metadata = {
            "head": network.description["head"],
            "classifier": options.classifier,
            "classifier_sha256": digest,
        }
        write_regions(folder, crops, classes.probabilities, predictions, metadata)
        _write_attention(folder, predictions.attention, network.blocks)
        _write_descriptors(folder, l2_normalise(np.asarray(classes.descriptors, np.float32)))


def _report_limit(category: str, limit: Limit, n_references: int, asked: float) -> None:
    """Log what the limit of normal images rests on, and warn where it promises less than asked."""
    if limit.basis == "nothing":
        log.warning(
            "%s: no image is called normal by its score: there are no normal references, and the "
            "scores do not fall into two modes. Add references for a limit with a known rate",
            category,
        )
    elif limit.false_alarms is not None and limit.false_alarms > asked:
        log.warning(
            "%s: %d normal references cannot promise fewer than %.0f %% false alarms; "
            "predict.false_alarms is %g: add references",
            category,
            n_references,
            100 * limit.false_alarms,
            asked,
        )
    else:
        log.info("%s: images score up to %.3g if normal, by %s", category, limit.value, limit.basis)


def _seen(
    category: str,
    options: Predict,
    compute: Compute,
    paths: ArtifactPaths,
    network: TrainedNetwork,
    predictions: Predictions,
) -> Seen:
    """Return what the classifier of `predict.classifier` sees of the sub-images."""
    if options.classifier == "heads":
        return seen_by_heads(network, predictions)
    size = network.blocks.masking.image_size
    return Seen(pooled=pooled_tokens(paths, category, compute, options.layers, image_size=size))


def write_regions(
    folder: Path,
    crops: pd.DataFrame,
    probabilities: NDArray[np.float64],
    predictions: Predictions,
    metadata: dict[str, object],
) -> None:
    """Write regions.parquet; the metadata name the classifier that was fitted to them by its hash.

    Raises `ArtifactError` for probabilities or embeddings that are not finite.
    """
    if not (np.isfinite(probabilities).all() and np.isfinite(predictions.embeddings).all()):
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
            "embedding": list(predictions.embeddings),
        }
    )
    write_parquet(folder / "regions.parquet", frame, REGIONS, metadata)


def _write_descriptors(folder: Path, rows: NDArray[np.float32]) -> None:
    """Write the unit descriptors (M, L, D)."""
    specs = {"descriptors": ArraySpec(rows.shape, "float16")}
    with create_arrays(folder / "descriptors.zarr", specs) as arrays:
        arrays["descriptors"][:] = rows.astype(np.float16)


def _write_attention(
    folder: Path, attention: NDArray[np.float32] | None, blocks: FrozenBlocks
) -> None:
    """Write the class token's attention to the patches, (M, h, w), without the prefix tokens'."""
    vit = blocks.vit
    grid = tuple(int(n) for n in vit.patch_embed.grid_size)
    patches = np.zeros((0, *grid), np.float16)
    if attention is not None:
        patches = attention[:, int(vit.num_prefix_tokens) :].astype(np.float16).reshape(-1, *grid)
    specs = {"attention": ArraySpec(patches.shape, "float16")}
    attributes = {"image_size": blocks.masking.image_size}
    with create_arrays(folder / "attention.zarr", specs, attributes) as arrays:
        arrays["attention"][:] = patches
