"""Stage `ours`: the pipeline's own classifiers as rows of the comparison, without labels."""

from __future__ import annotations

from typing import Annotated

from pipeline.config.params import Compute, Merge, Predict
from pipeline.config.section import Key
from pipeline.inference.own_rows import run_own_rows
from pipeline.inference.peer_rows import number_of_classes
from pipeline.io.paths import ArtifactPaths
from pipeline.io.peer_files import write_predictions
from pipeline.io.provenance import git_commit


def run(
    category: str,
    options: Predict,
    merging: Merge,
    seeds: Annotated[int, Key("compare.seeds")],
    compute: Compute,
    paths: ArtifactPaths,
) -> None:
    """Write ours.parquet of a category: heads and mixtures, with and without the normal rule."""
    n_classes = number_of_classes(paths, category)
    runs = run_own_rows(paths, category, n_classes, seeds, options, merging, compute)
    write_predictions(paths.ours(category) / "ours.parquet", runs, git_commit())
