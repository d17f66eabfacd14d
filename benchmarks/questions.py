"""Measure in which order people find wrong regions first: python -m benchmarks.questions bottle

after `dvc repro predict@bottle`. Prints how many of the first 10, 20 and 40 regions that are not
normal have another class than the label of their image (classes matched to labels one to one), and
how many fine clusters they are from, in the order of the review page, by falling margin alone, and
at random (mean). Labels judge, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.case import load_case
from pipeline.clustering.class_tree import grow_tree
from pipeline.evaluation.clustering import match_clusters
from pipeline.io.region_table import n_classes, read_predicted
from pipeline.report.questions import question_order

FIRST = (10, 20, 40)
_DRAWS = 200


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Compare orders in which regions are looked at."""
    case = load_case(category, params, data)
    regions = read_predicted(case.paths, category)
    p = np.stack([np.asarray(row, np.float64) for row in regions["probabilities"]])
    classes, labels = p.argmax(1), case.labels
    names = match_clusters(labels, classes)
    wrong = np.array([names.get(k) != label for k, label in zip(classes, labels, strict=True)])
    x = np.stack([np.asarray(row) for row in regions["embedding"]])
    tree = grow_tree(x, classes, n_classes(regions))
    fine = tree.nearest(x)[np.arange(len(x)), classes]
    shown = np.flatnonzero(classes > 0)
    top = np.sort(p, axis=1)
    orders = {
        "of the page": question_order(p, fine, case.parts),
        "by margin": np.argsort(top[:, -1] - top[:, -2], kind="stable"),
    }
    rng = np.random.default_rng(0)
    draws = [rng.permutation(shown) for _ in range(_DRAWS)]
    typer.echo(f"{category}: {wrong[shown].sum()} of {len(shown)} regions are wrong\n")
    typer.echo("| order | " + " | ".join(f"first {n}: wrong, clusters" for n in FIRST) + " |")
    typer.echo("|---" * (len(FIRST) + 1) + "|")
    for name, order in orders.items():
        typer.echo(_row(name, [order[np.isin(order, shown)]], wrong, fine))
    typer.echo(_row("random", draws, wrong, fine))


def _row(
    name: str,
    orders: list[NDArray[np.int64]],
    wrong: NDArray[np.bool_],
    fine: NDArray[np.int64],
) -> str:
    cells = [
        f"{np.mean([wrong[o[:n]].sum() for o in orders]):.1f}, "
        f"{np.mean([len(set(fine[o[:n]])) for o in orders]):.1f}"
        for n in FIRST
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    typer.run(main)
