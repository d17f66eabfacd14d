"""Measure the estimate of `classes.count: auto`: python -m benchmarks.count bottle

reads what `benchmarks.classifiers` reads, and prints the estimate beside the true number (that of
params.yaml), and NMI/ARI/F1 over images with either, means over seeds. Labels are used for the
metrics alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.case import load_case
from benchmarks.classifiers import VOTE, image_classes, metrics
from pipeline.clustering.class_count import best_count, count_candidates
from pipeline.clustering.descriptors import region_descriptors


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Compare the estimated number of classes with the true one."""
    case = load_case(category, params, data)
    described = region_descriptors(case.pooled[~case.normal()])
    candidates = count_candidates(described, seed=case.params.predict.seed)
    typer.echo(" ".join(f"{c.k + 1}:{c.gap:.2f}" for c in candidates))
    true, estimate = case.n_classes, best_count(candidates) + 1
    found = {}
    for number in {true, estimate}:
        classes = [image_classes(case, VOTE, seed, number) for seed in range(seeds)]
        mean = np.mean([metrics(case.image_labels, predicted) for predicted in classes], axis=0)
        found[number] = "/".join(f"{value:.3f}" for value in mean)
    typer.echo("| data | true | estimate | with the true number | with the estimate |")
    typer.echo(f"| {category} | {true} | {estimate} | {found[true]} | {found[estimate]} |")


if __name__ == "__main__":
    typer.run(main)
