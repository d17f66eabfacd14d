"""Stage `classes`: how many classes to look for: as given, or estimated from the regions."""

from __future__ import annotations

import logging
from typing import Annotated

import pandas as pd

from pipeline.clustering.class_count import best_count, count_candidates
from pipeline.clustering.normal_images import NormalRule
from pipeline.config.params import Classes, Compute
from pipeline.config.section import Key
from pipeline.inference.defect_descriptors import defect_descriptors
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import write_json

log = logging.getLogger("anomalyncd")

_COLUMNS = ["classes", "eigenvalue", "gap"]


def run(
    category: str,
    options: Classes,
    image_size: Annotated[int, Key("views.image_size")],
    normal: Annotated[NormalRule, Key("predict.normal")],
    false_alarms: Annotated[float, Key("predict.false_alarms")],
    assumed_normal: Annotated[float, Key("predict.assumed_normal")],
    layers: Annotated[list[int], Key("predict.layers")],
    sample: Annotated[int, Key("predict.sample")],
    seed: Annotated[int, Key("predict.seed")],
    compute: Compute,
    paths: ArtifactPaths,
) -> None:
    """Write classes.json and candidates.csv of a category.

    Numbers of classes count normal; candidates are empty where the number was given.
    """
    given = options.n_classes(category)
    candidates = []
    if not given:
        descriptors = defect_descriptors(
            category,
            image_size,
            normal,
            false_alarms,
            assumed_normal,
            layers,
            sample,
            seed,
            compute,
            paths,
        )
        candidates = [] if descriptors is None else list(count_candidates(descriptors, seed=seed))
    n_classes = given or best_count(candidates) + 1
    if not given:
        log.info("%s: %d classes with normal", category, n_classes)
    rows = [(c.k + 1, c.eigenvalue, c.gap) for c in candidates]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    with replacing_folder(paths.classes(category)) as folder:
        folder.mkdir()
        frame.to_csv(folder / "candidates.csv", index=False, float_format="%.4f")
        write_json(
            folder / "classes.json",
            {
                "n_classes": n_classes,
                "estimated": not given,
                "candidates": frame.to_dict(orient="records"),
            },
        )
