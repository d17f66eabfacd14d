"""How well `classes.count: auto` counts: python -m benchmarks.count bottle

reads params.yaml, data/maps/<category> and data/crops/<category>, and prints the estimate beside
the true number (that of params.yaml), and NMI/ARI/F1 over images with either, means over seeds.
Labels are used for the figures alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from benchmarks.classifiers import LAYERS, VOTE, figures, image_classes
from pipeline.clustering.class_count import best_count, count_candidates
from pipeline.clustering.descriptors import region_descriptors
from pipeline.config.params import ConfigError, load_params
from pipeline.inference.region_features import normal_of_set, pooled_tokens
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, LABELS
from pipeline.io.scores import scores_of_images, scores_of_references
from pipeline.io.tables import read_parquet


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data")] = Path("data"),
) -> None:
    """Compare the estimated number of classes with the true one."""
    params, paths = load_params(params_path), ArtifactPaths(data)
    true = params.classes.n_classes(category)
    if true is None:
        raise ConfigError("classes.count is auto: give the true number to compare with")
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    of = labels.set_index("sample_id")["label"].reindex(pd.unique(crops["sample_id"])).tolist()
    scores = scores_of_images(paths, category, crops)
    pooled = pooled_tokens(
        paths, category, params.compute, LAYERS, image_size=params.views.image_size
    )
    known = scores_of_references(paths, category)
    normal, _ = normal_of_set(params.predict.normal, crops, scores, known)
    candidates = count_candidates(region_descriptors(pooled[~normal]), seed=params.predict.seed)
    estimate = best_count(candidates) + 1
    typer.echo(" ".join(f"{c.k + 1}:{c.gap:.2f}" for c in candidates))
    found = {}
    for number in sorted({true, estimate}):
        content = params.model_dump(by_alias=True)
        content["classes"]["count"] = number
        changed = type(params).model_validate(content)
        runs = [
            figures(
                of,
                image_classes(changed, category, crops, scores, known, pooled, VOTE, seed),
                np.ones(len(of), np.bool_),
            )
            for seed in range(seeds)
        ]
        found[number] = "/".join(f"{value:.3f}" for value in np.mean(runs, axis=0))
    typer.echo("| data | true | estimate | with the true number | with the estimate |")
    typer.echo(f"| {category} | {true} | {estimate} | {found[true]} | {found[estimate]} |")


if __name__ == "__main__":
    typer.run(main)
