"""Do defects pasted on references tell which neighbourhood sizes a product needs?

python -m benchmarks.pasted screw --cache /tmp/distances

Needs `dvc repro backbone manifest@<category>`. Held-out references, the same with a defect each
(`benchmarks.paste`) and the queries are compared with the banks of `maps.runs`. Rows are
ways to join the sizes: the image AUROC of pasted against clean references, then what
`detector_choices` prints of the queries, whose labels serve for that alone. `--cache` keeps the
distances for another run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.detector_choices import Product
from benchmarks.paste import paste
from benchmarks.speed.detectors import MAP_SIZE
from pipeline.clustering.conformal import normal_limit, part_scores
from pipeline.config.params import Params
from pipeline.config.reading import load_params
from pipeline.detectors.base import Images, Scores
from pipeline.detectors.calibration import Calibration, by_size, calibrate, contrast
from pipeline.inference.map_scores import on_grid, raw_maps
from pipeline.inference.map_settings import settled_for
from pipeline.inference.nearest_patches import NearestPatches
from pipeline.inference.patch_features import Resources
from pipeline.io.files import replacing
from pipeline.io.paths import ArtifactPaths

Floats = NDArray[np.float32]


class Found(NamedTuple):
    """Distances of every run (K, N, P), the grid of the P patches, and parts of the references."""

    queries: Floats
    references: Floats
    pasted: Floats
    grid: NDArray[np.int64]
    parts: NDArray[np.str_]


class Held(NearestPatches):
    """The detector, which keeps the distances that it scored last: after `fit` the references'."""

    runs: Sequence[Floats] = ()

    def _scores(self, runs: Sequence[Floats], grid: tuple[int, int]) -> Scores:
        self.runs = runs
        return super()._scores(runs, grid)


def compare(product: Product, params: Params) -> Found:
    """Compare queries, references and the same with defects with the banks of the references."""
    options = settled_for(product.category, params.maps, product.paths)
    resources = Resources(product.paths.backbone(), params.compute, product.category)
    detector = Held(options, resources)
    normals = product.images("normal")
    times = [time.process_time()]
    detector.fit(normals)
    times.append(time.process_time())
    known = detector.score_references().names
    references = np.stack(detector.runs)
    rows = [list(normals.names).index(name) for name in known]
    defective = [pasted(normals, row, options.seed, options.smallest_defect) for row in rows]
    detector.score(Images(known, lambda i: defective[i], normals.take(rows).parts))
    with_defects = np.stack(detector.runs)
    times.append(time.process_time())
    scores = detector.score(product.images("query"))
    times.append(time.process_time())
    spent = "/".join(f"{seconds:.0f}" for seconds in np.diff(times))
    typer.echo(f"CPU s of fit/pasted/queries: {spent}")
    grid = np.array(scores.patch_scores[:1].shape[1:])
    return Found(np.stack(detector.runs), references, with_defects, grid, product.parts_of(known))


def pasted(normals: Images, row: int, seed: int, smallest: float) -> NDArray[np.uint8]:
    """Return a reference with a defect, perhaps a patch of another one."""
    rng = np.random.default_rng([seed, row])
    other = (row + int(rng.integers(1, len(normals)))) % len(normals)
    return paste(normals.read(row), normals.read(other), rng, smallest=smallest)


def separation(normal: Floats, abnormal: Floats) -> float:
    """Return the AUROC of scores of abnormal images over those of normal ones."""
    known = np.r_[np.zeros(len(normal)), np.ones(len(abnormal))]
    return float(roc_auc_score(known, np.r_[normal, abnormal]))


class Fusion(NamedTuple):
    """Weights of the sizes, in rising order; the mean of image scores instead of the largest."""

    weights: tuple[float, ...]
    mean: bool = False


def fused(
    runs: Iterable[Floats], sizes: Sequence[int], calibration: Calibration, how: Fusion
) -> tuple[Floats, Floats]:
    """Return patch scores (N, P) and image scores (N,)."""
    maps = by_size(list(runs), sizes, calibration.runs)
    weights = np.array(how.weights)
    kept = np.flatnonzero(weights > 0)
    patches = np.average([maps[k] for k in kept], axis=0, weights=weights[kept])
    columns = np.array(
        [
            (contrast(maps[k]) - calibration.scores[k].mean) / calibration.scores[k].spread
            for k in kept
        ]
    )
    share = weights[kept] / weights[kept].max()
    images = np.average(columns, axis=0, weights=share) if how.mean else columns.max(axis=0)
    return np.asarray(patches, np.float32), np.asarray(images, np.float32)


def fusions(found: Found, sizes: Sequence[int], calibration: Calibration) -> dict[str, Fusion]:
    """Return the rows: the default, each size alone, and what pasted defects say."""
    distinct = sorted(set(sizes))

    def auroc(how: Fusion) -> float:
        return separation(
            *(fused(of, sizes, calibration, how)[1] for of in (found.references, found.pasted))
        )

    both = Fusion((1.0,) * len(distinct))
    alone = {
        f"{size} x {size} alone": Fusion(tuple(float(size == other) for other in distinct))
        for size in distinct
    }
    values = np.array([auroc(how) for how in alone.values()])
    rows = {"default": both} | alone
    rows["mean of sizes"] = Fusion(both.weights, mean=True)
    rows["the better alone"] = list(alone.values())[int(values.argmax())]
    rows["the best of default and alone"] = max([both, *alone.values()], key=auroc)
    for power in (1, 2, 4):
        weights = np.maximum(2 * values - 1, 1e-3) ** power
        rows[f"weighed, power {power}"] = Fusion(tuple(weights / weights.sum()), mean=True)
    return rows


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    every: Annotated[int, typer.Option(min=1, help="Every n-th part only.")] = 1,
    cache: Annotated[Path | None, typer.Option(help="Keeps the distances here.")] = None,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    given = load_params(params)
    product = Product(category, given, ArtifactPaths(data), every)
    file = None if cache is None else cache / f"{category}_{every}.npz"
    if file is not None and file.exists():
        with np.load(file) as stored:
            found = Found(**stored)
    else:
        found = compare(product, given)
        if file is not None:
            with replacing(file) as aside, aside.open("wb") as out:
                np.savez(out, allow_pickle=False, **found._asdict())
    sizes = [size for _, size in given.maps.runs]
    calibration = calibrate(list(found.references), sizes)
    typer.echo("| row | weights | pasted | AUROC/missed/false alarms/AUPRO |\n|---|---|---|---|")
    for name, how in fusions(found, sizes, calibration).items():
        patches, images = fused(found.queries, sizes, calibration, how)
        normal, abnormal = (
            fused(of, sizes, calibration, how)[1] for of in (found.references, found.pasted)
        )
        weights = "/".join(f"{weight:.2f}" for weight in how.weights)
        cells = metrics(product, given, patches, images, normal, found)
        typer.echo(f"| {name} | {weights} | {separation(normal, abnormal):.3f} | {cells} |")


def metrics(
    product: Product,
    params: Params,
    patches: Floats,
    images: Floats,
    normal: Floats,
    found: Found,
) -> str:
    """Return image AUROC, shares of defects missed and of false alarms, and AUPRO."""
    rows, columns = (int(side) for side in found.grid)
    maps = raw_maps(Scores(on_grid(patches, (rows, columns))), slice(0, len(patches)), MAP_SIZE)
    limit = normal_limit(
        part_scores(images.astype(float), product.parts),
        part_scores(normal.astype(float), found.parts),
        false_alarms=params.predict.false_alarms,
    )
    bad = product.defective
    missed, alarms = (images[bad] <= limit.value).mean(), (images[~bad] > limit.value).mean()
    pro = product.aupro(maps, params.evaluate.max_fpr)
    return f"{roc_auc_score(bad, images):.3f}/{missed:.2f}/{alarms:.2f}/{pro:.3f}"


if __name__ == "__main__":
    typer.run(main)
