"""Stage `predict`: the class of every region, without augmentation.

By the trained heads, as in the paper, or by an ensemble of mixtures over descriptors of the regions
of this very set. Embeddings are the trained network's either way. What was fitted is kept, so that
new images can be classified (`pipeline.inference`).
"""

from __future__ import annotations

import numpy as np

from pipeline.clustering.descriptors import l2_normalise
from pipeline.config.params import Compute, Predict
from pipeline.inference.plain_attention import shown_rows, write_plain_attention
from pipeline.inference.region_artifacts import (
    report_limit,
    write_attention,
    write_descriptors,
    write_regions,
)
from pipeline.inference.region_classes import (
    Seen,
    TrainedNetwork,
    classify_regions,
    fit_regions,
    load_network,
    seen_by_heads,
)
from pipeline.inference.region_features import pooled_tokens
from pipeline.io.files import replacing_folder
from pipeline.io.networks import crop_arrays
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_classifier import save_region_model
from pipeline.io.schemas import CROPS
from pipeline.io.scores import scores_of_images, scores_of_reference_parts
from pipeline.io.tables import read_parquet
from pipeline.mgvit.prediction import Predictions
from pipeline.progress import track


def run(category: str, options: Predict, compute: Compute, paths: ArtifactPaths) -> None:
    """Write regions, descriptors, attention and the classifier's files of a category.

    The network's settings come from model.json.
    """
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    scores = scores_of_images(paths, category, crops)
    references = scores_of_reference_parts(paths, category)
    parts = numbered(read_parts(paths, category), crops["sample_id"])
    network = load_network(paths, category, compute)
    with track(f"predicting {category}") as progress:
        predictions = network(*crop_arrays(paths.crops(category)), progress=progress)
    seen = _seen(category, options, compute, paths, network, predictions)
    model = fit_regions(seen, crops, scores, references, network.n_classes, options, parts)
    if options.normal == "scores":
        report_limit(category, model.normal, len(references), options.false_alarms)
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
        write_attention(folder, predictions.attention, network.blocks)
        shown = shown_rows(classes.probabilities, predictions.attention)
        blocks = network.blocks if options.classifier == "heads" else None
        write_plain_attention(folder, crop_arrays(paths.crops(category)), shown, blocks)
        write_descriptors(folder, l2_normalise(np.asarray(classes.descriptors, np.float32)))


def _seen(
    category: str,
    options: Predict,
    compute: Compute,
    paths: ArtifactPaths,
    network: TrainedNetwork,
    predictions: Predictions,
) -> Seen:
    """Return what the classifier of `predict.classifier` sees of the regions."""
    if options.classifier == "heads":
        return seen_by_heads(network, predictions)
    size = network.blocks.masking.image_size
    return Seen(pooled=pooled_tokens(paths, category, compute, options.layers, image_size=size))
