"""Measure how often `classify` calls regions unknown: python -m benchmarks.unknown bottle

leaves each defect class out in turn, learns what is known from two thirds of the other regions, and
prints how many regions of the class left out are called unknown, beside those of the last third,
and the AUROC of the distance between the two. Means over three splits. Labels are used only to
choose the held-out class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.case import LAYERS, load_case
from pipeline.clustering.descriptors import descriptor_space
from pipeline.clustering.novelty import fit_novelty

_SPLITS = 3


def left_out(
    pooled: NDArray[np.float32], strange: NDArray[np.bool_], seed: int
) -> tuple[float, float, float]:
    """Return the shares of `strange` (M,) and of held-out other regions that are unknown; AUROC."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~strange))
    held, rest = np.split(order, [len(order) // 3])
    space = descriptor_space(pooled[rest])
    known = fit_novelty(space(pooled[rest]))
    new, old = (known.distances(space(pooled[rows])) for rows in (strange, held))
    area = roc_auc_score(np.repeat([1, 0], [len(new), len(old)]), np.concatenate([new, old]))
    return float((new > known.limit).mean()), float((old > known.limit).mean()), float(area)


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Leave each defect class out of what is known."""
    case = load_case(category, params, data)
    normal = np.isin(case.labels, case.params.manifest.normal_label)
    defect = (case.crops["area_px"] > 0).to_numpy() & ~normal
    columns = [LAYERS.index(layer) for layer in case.params.predict.layers]
    pooled, labels = case.pooled[defect][:, columns], case.labels[defect]
    typer.echo(
        "| left out | regions | unknown | unknown of the others | AUROC |\n|---|---|---|---|---|"
    )
    rows = []
    for label in sorted(set(labels)):
        runs = [left_out(pooled, labels == label, seed) for seed in range(_SPLITS)]
        rows.append(np.mean(runs, axis=0))
        new, old, area = rows[-1]
        typer.echo(f"| {label} | {(labels == label).sum()} | {new:.2f} | {old:.2f} | {area:.2f} |")
    new, old, area = np.mean(rows, axis=0)
    typer.echo(f"| mean | {len(labels)} | {new:.2f} | {old:.2f} | {area:.2f} |")


if __name__ == "__main__":
    typer.run(main)
