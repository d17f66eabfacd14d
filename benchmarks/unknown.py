"""How often `classify` calls regions unknown: each defect class left out in turn.

    python -m benchmarks.unknown bottle

reads params.yaml and data/crops/<category>, learns what is known from two thirds of the regions of
all defect classes but one, and prints how many regions of the class left out are called unknown,
beside those of the last third, and the AUROC of the distance between the two. Means over three
splits. Labels choose what is left out, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from pipeline.clustering.descriptors import descriptor_space
from pipeline.clustering.novelty import fit_novelty
from pipeline.config.params import load_params
from pipeline.inference.region_features import pooled_tokens
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, LABELS
from pipeline.io.tables import read_parquet

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
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data")] = Path("data"),
) -> None:
    """Leave each defect class out of what is known."""
    params, paths = load_params(params_path), ArtifactPaths(data)
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    of = labels.set_index("sample_id")["label"].reindex(crops["sample_id"]).to_numpy()
    defect = (crops["area_px"] > 0).to_numpy() & ~np.isin(of, params.manifest.normal_label)
    pooled = pooled_tokens(
        paths, category, params.compute, params.predict.layers, image_size=params.views.image_size
    )[defect]
    of = of[defect]
    typer.echo(
        "| left out | regions | unknown | unknown of the others | AUROC |\n|---|---|---|---|---|"
    )
    rows = []
    for label in sorted(set(of)):
        runs = [left_out(pooled, of == label, seed) for seed in range(_SPLITS)]
        rows.append(np.mean(runs, axis=0))
        new, old, area = rows[-1]
        typer.echo(f"| {label} | {(of == label).sum()} | {new:.2f} | {old:.2f} | {area:.2f} |")
    new, old, area = np.mean(rows, axis=0)
    typer.echo(f"| mean | {len(of)} | {new:.2f} | {old:.2f} | {area:.2f} |")


if __name__ == "__main__":
    typer.run(main)
