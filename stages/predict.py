"""Stage `predict`: the class of every region, without augmentation.

By the trained heads, as in the paper, or by an ensemble of mixtures over descriptors of the regions
of this very set, which needs no trained network. What was fitted is kept, so that new images can be
classified (`pipeline.inference`).
"""

from __future__ import annotations

import logging

import numpy as np

from pipeline.config.params import Compute, Predict
from pipeline.curation.examples import examples_path, taught_classes
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
from pipeline.io.networks import crop_arrays, network_digest, read_description, stored_views
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_classifier import save_region_model
from pipeline.io.schemas import CROPS
from pipeline.io.scores import scores_of_images, scores_of_reference_parts
from pipeline.io.tables import read_parquet
from pipeline.progress import track

log = logging.getLogger("anomalyncd")


def run(category: str, options: Predict, compute: Compute, paths: ArtifactPaths) -> None:
    """Write regions, descriptors, attention and the classifier's files of a category.

    The number of classes and the size of the views come from model.json. Regions that people have
    classified (data/examples/<category>.csv) keep the classes that they were given, and there are
    more classes than that number if need be; without them nothing depends on people.
    """
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    scores = scores_of_images(paths, category, crops)
    references = scores_of_reference_parts(paths, category)
    parts = numbered(read_parts(paths, category), crops["sample_id"])
    described = read_description(paths.train(category))
    network = load_network(paths, category, compute) if options.classifier == "heads" else None
    seen = _seen(category, options, compute, paths, network)
    taught = taught_classes(paths, category, crops)
    if network is not None and taught.known.any():
        log.warning("%s is not used: heads do not learn from it", examples_path(paths, category))
        taught = taught.none()
    n_classes = max(described["n_classes"], len(taught.names))
    model = fit_regions(seen, crops, scores, references, n_classes, options, parts, taught.classes)
    if options.normal == "scores":
        report_limit(category, model.normal, len(references), options.false_alarms)
    classes = classify_regions(seen, crops["area_px"], scores, model, options)
    known = taught.known
    classes.probabilities[known] = np.eye(n_classes)[taught.classes[known]]
    params = {**described["params"], "predict": options.to_json()}
    digest = network_digest(paths.train(category))
    with replacing_folder(paths.predict(category)) as folder:  # at once: all are of one run
        folder.mkdir()
        metadata = {
            "head": described["head"] if network else None,
            "classifier": options.classifier,
            "classifier_sha256": save_region_model(folder, model, params, digest),
        }
        if known.any():
            metadata["taught"] = {
                "names": {str(k): name for k, name in enumerate(taught.names) if k},
                "crop_ids": crops["crop_id"][known].tolist(),
            }
        write_regions(folder, crops, classes.probabilities, classes.embeddings, metadata)
        blocks = network.blocks if network else None
        write_attention(folder, seen.attention, blocks)
        shown = shown_rows(classes.probabilities, seen.attention)
        write_plain_attention(folder, crop_arrays(paths.crops(category)), shown, blocks)
        write_descriptors(folder, classes.descriptors)


def _seen(
    category: str,
    options: Predict,
    compute: Compute,
    paths: ArtifactPaths,
    network: TrainedNetwork | None,
) -> Seen:
    """Return what the classifier of `predict.classifier` sees of the regions."""
    if network is None:
        size = stored_views(paths, category).image_size
        tokens = pooled_tokens(paths, category, compute, options.layers, image_size=size)
        return Seen(pooled=tokens)
    with track(f"predicting {category}") as progress:
        predictions = network(*crop_arrays(paths.crops(category)), progress=progress)
    return seen_by_heads(network, predictions)
