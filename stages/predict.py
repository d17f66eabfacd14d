"""Stage `predict`: the class of every sub-image, without augmentation.

By the trained heads, as in the paper, or by a vote of mixtures over descriptors of the regions of
this very set. Embeddings are the trained network's either way. What was fitted is kept, so that new
images can be classified (`classify`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.descriptors import descriptor_space, l2_normalise
from pipeline.clustering.ensemble import fit_ensemble
from pipeline.clustering.normal_images import known_normal
from pipeline.clustering.novelty import fit_novelty
from pipeline.config.params import Compute, Predict
from pipeline.inference.region_features import normal_of_set, pooled_tokens
from pipeline.io.arrays import ArraySpec, create_arrays
from pipeline.io.files import replacing_folder
from pipeline.io.networks import crop_arrays, load_blocks, load_classifier, trained_sections
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.region_classifier import RegionModel, save_region_model
from pipeline.io.schemas import CROPS, REGIONS
from pipeline.io.scores import scores_of_images, scores_of_references
from pipeline.io.tables import read_parquet, write_parquet
from pipeline.mgvit.prediction import Predictions, predict
from pipeline.mgvit.tokens import FrozenBlocks, iter_plain
from pipeline.progress import track
from pipeline.regions.merging import class_probabilities


@dataclass(frozen=True)
class Seen:
    """The M sub-images of a set as the networks see them.

    `scores` (M,) are those of their images, `references` (R,) those of the normal references;
    `pooled` (M, L, D) tokens are None for the heads.
    """

    crops: pd.DataFrame
    scores: NDArray[np.float64]
    references: NDArray[np.float64]
    network: Predictions
    pooled: NDArray[np.float32] | None
    blocks: FrozenBlocks
    trained: dict[str, Any]


@dataclass(frozen=True)
class Classified:
    """Class probabilities (M, C) of sub-images, and which (M,) are unlike all regions known.

    `descriptors` (M, L, D) are what the classifier told them apart by.
    """

    probabilities: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    descriptors: NDArray[np.float64]


def run(category: str, options: Predict, compute: Compute, paths: ArtifactPaths) -> None:
    """Write regions, descriptors, attention and the classifier's files of a category.

    The network's settings come from model.json.
    """
    seen = look(category, options, compute, paths)
    model = learn(seen, options)
    found = classify(seen, model, options)
    content = {**seen.trained["params"], "predict": options.to_json()}
    with replacing_folder(paths.predict(category)) as folder:  # at once: all are of one run
        folder.mkdir()
        classifier = save_region_model(folder, model, content, seen.trained.get("sha256"))
        write_regions(folder, seen, found.probabilities, options, classifier)
        _write_descriptors(folder, l2_normalise(np.asarray(found.descriptors, np.float32)))


def look(category: str, options: Predict, compute: Compute, paths: ArtifactPaths) -> Seen:
    """Run the networks over the sub-images of a category."""
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    train, views = trained_sections(paths, category)
    blocks = load_blocks(paths, views, compute)
    block, heads, trained = load_classifier(
        paths.train(category), blocks.vit, fold_layerscale=train.fold_layerscale
    )
    images, masks = crop_arrays(paths.crops(category))
    with track(f"predicting {category}") as progress:
        network = predict(
            iter_plain(blocks, images, masks, progress=progress),
            block,
            heads,
            head=int(trained["head"]),
            device=blocks.device,
        )
    pooled = None
    if options.classifier == "mixture":
        pooled = pooled_tokens(
            paths, category, compute, options.layers, image_size=views.image_size
        )
    scores = scores_of_images(paths, category, crops)
    references = scores_of_references(paths, category)
    return Seen(crops, scores, references, network, pooled, blocks, trained)


def learn(seen: Seen, options: Predict) -> RegionModel:
    """Fit the classifier to a set, without labels."""
    normal, limit = normal_of_set(options.normal, seen.crops, seen.scores, seen.references)
    if seen.pooled is None:
        return RegionModel(limit, fit_novelty(seen.network.embeddings[~normal][:, None]))
    space = descriptor_space(seen.pooled[~normal])
    descriptors = space(seen.pooled[~normal])
    vote = fit_ensemble(
        descriptors,
        seen.crops["score"].to_numpy()[~normal],
        int(seen.trained["n_classes"]),
        normal_known=bool(normal.any()),
        dimensions=options.dimensions,
        extra_components=options.extra_components,
        seed=options.seed,
    )
    return RegionModel(limit, fit_novelty(descriptors), space, vote)


def classify(seen: Seen, model: RegionModel, options: Predict) -> Classified:
    """Return the classes of sub-images by a fitted model, each for itself."""
    normal = known_normal(options.normal, seen.crops["area_px"], seen.scores, model.score_limit)
    if model.vote is None or model.space is None or seen.pooled is None:
        descriptors = np.asarray(seen.network.embeddings[:, None], np.float64)
        probabilities = class_probabilities(
            seen.network.logits,
            int(seen.trained["n_base_classes"]),
            temperature=float(seen.trained["params"]["train"]["student_temperature"]),
        )
    else:
        descriptors = model.space(seen.pooled)
        probabilities = model.vote.probabilities(descriptors)
    probabilities[normal] = np.eye(probabilities.shape[1])[0]
    return Classified(probabilities, model.known.unknown(descriptors) & ~normal, descriptors)


def write_regions(
    folder: Path,
    seen: Seen,
    probabilities: NDArray[np.float64],
    options: Predict,
    classifier: str | None = None,
) -> None:
    """Write regions.parquet, with the hash of the `classifier` fitted to them, and attention.zarr.

    Raises `ArtifactError` for probabilities or embeddings that are not finite.
    """
    if not (np.isfinite(probabilities).all() and np.isfinite(seen.network.embeddings).all()):
        raise ArtifactError(
            "probabilities or embeddings of the regions are not finite, and nothing was written: "
            "the network is of no use; set a lower train.lr and run the stage 'train' again"
        )
    frame = pd.DataFrame(
        {
            "crop_id": seen.crops["crop_id"],
            "sample_id": seen.crops["sample_id"],
            "class": probabilities.argmax(1),
            "confidence": probabilities.max(1, initial=0.0),
            "probabilities": list(probabilities),
            "embedding": list(seen.network.embeddings),
        }
    )
    metadata = {
        "head": seen.trained["head"],
        "classifier": options.classifier,
        "classifier_sha256": classifier,
    }
    write_parquet(folder / "regions.parquet", frame, REGIONS, metadata)
    _write_attention(folder, seen.network.attention, seen.blocks)


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
