"""This pipeline's own classifiers as rows of the comparison, with and without its normal rule."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch

from pipeline.config.params import Compute, Merge, Predict
from pipeline.inference.fresh_process import NotComputedError, in_fresh_process, timed
from pipeline.inference.peer_rows import LIMIT_S, SeedResults, merged, stack_seeds
from pipeline.inference.region_classes import (
    Seen,
    classify_regions,
    fit_regions,
    load_network,
    seen_by_heads,
)
from pipeline.io.networks import crop_arrays
from pipeline.io.paths import ArtifactPaths
from pipeline.io.peer_files import Cost, RowRun, open_array
from pipeline.io.provenance import last_run
from pipeline.io.schemas import CROPS
from pipeline.io.scores import scores_of_images, scores_of_references
from pipeline.io.tables import read_parquet
from pipeline.peers.base import Assignment

log = logging.getLogger("anomalyncd")

Classifier = Literal["mixture", "heads"]


def own_settings(options: Predict) -> dict[str, Predict]:
    """Return section `predict` of each own row; those named `_free` have no rule for normal."""
    rows: dict[str, Predict] = {}
    kinds: tuple[Classifier, ...] = ("mixture", "heads")
    for kind in kinds:
        changes = {"classifier": kind}
        rows[kind] = options.model_copy(update=changes)
        rows[f"{kind}_free"] = options.model_copy(update={**changes, "normal": "none"})
    return rows


def run_own_rows(
    paths: ArtifactPaths,
    category: str,
    n_classes: int,
    n_seeds: int,
    options: Predict,
    merging: Merge,
    compute: Compute,
) -> list[RowRun]:
    """Run every own row over a category: the mixtures by `n_seeds` seeds, the heads as trained."""
    crops = sorted_crops(paths, category)
    runs = []
    for key, settings in own_settings(options).items():
        seeds = list(range(n_seeds)) if settings.classifier == "mixture" else [0]
        work = (paths, category, n_classes, seeds, settings, compute)
        try:
            measured = in_fresh_process(compute_own_row, work, limit_s=LIMIT_S)
        except NotComputedError as error:
            log.warning("%s: skipped: %s", key, error)
            nothing = np.zeros((0, 0), np.int64)
            runs.append(RowRun(key, "crop", [], [], nothing, None, None, skipped=str(error)))
            continue
        found = measured.value
        training = 0.0 if settings.classifier == "mixture" else _training_seconds(paths, category)
        cost = Cost(
            seconds=round(found.seconds + training, 3),
            host_mib=measured.host_mib,
            gpu_mib=measured.gpu_mib,
            device="cpu" if measured.gpu_mib is None else "cuda",
            threads=found.threads,
        )
        classes, soft = stack_seeds(found.results)
        ids, images = merged(crops["crop_id"].tolist(), classes, soft, crops, merging)
        labels = images.argmax(2).astype(np.int64)
        runs.append(RowRun(key, "crop", ids, seeds, labels, images, cost))
    return runs


def compute_own_row(
    paths: ArtifactPaths,
    category: str,
    n_classes: int,
    seeds: Sequence[int],
    options: Predict,
    compute: Compute,
) -> SeedResults:
    """Classify the sub-images of a category, in the order of `sorted_crops`.

    Raises ValueError if the heads were trained for another number of classes.
    """
    crops = sorted_crops(paths, category)
    seen = _seen(paths, category, n_classes, options, compute, crops)
    scores = scores_of_images(paths, category, crops)
    references = scores_of_references(paths, category, "image_score")

    def classify(seed: int) -> Assignment:
        settings = options.model_copy(update={"seed": seed})
        model = fit_regions(seen, crops, scores, references, n_classes, settings)
        found = classify_regions(seen, crops["area_px"], scores, model, settings)
        soft = found.probabilities.astype(np.float32)
        return Assignment(soft.argmax(1).astype(np.int64), soft)

    done = [timed(classify, seed) for seed in seeds]
    seconds = float(np.mean([seconds for _, seconds in done]))
    return SeedResults([result for result, _ in done], seconds, torch.get_num_threads())


def sorted_crops(paths: ArtifactPaths, category: str) -> pd.DataFrame:
    """Return crops.parquet sorted by crop id, as the features are."""
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    return crops.sort_values("crop_id", kind="stable").reset_index(drop=True)


def _seen(
    paths: ArtifactPaths,
    category: str,
    n_classes: int,
    options: Predict,
    compute: Compute,
    crops: pd.DataFrame,
) -> Seen:
    if options.classifier == "mixture":
        pooled = open_array(paths.features(category), "crop_pooled")
        return Seen(pooled=np.asarray(pooled, np.float32))
    network = load_network(paths, category, compute)
    if network.n_classes != n_classes:
        raise ValueError(f"the heads were trained for {network.n_classes} classes")
    seen = seen_by_heads(network, network(*crop_arrays(paths.crops(category))))
    assert seen.probabilities is not None
    assert seen.embeddings is not None
    stored = read_parquet(paths.crops(category) / "crops.parquet", CROPS)["crop_id"]
    rows = pd.Index(stored).get_indexer(crops["crop_id"])
    return Seen(probabilities=seen.probabilities[rows], embeddings=seen.embeddings[rows])


def _training_seconds(paths: ArtifactPaths, category: str) -> float:
    record = last_run("train", category, paths)
    return 0.0 if record is None else float(record["wall_s"])
