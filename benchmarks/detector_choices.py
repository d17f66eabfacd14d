"""Compare settings of the detectors: python -m benchmarks.detector_choices screw

Needs `dvc repro backbone manifest@<category>`; the first row is params.yaml as it is. Prints the
image AUROC, the share of defective images at or below the limit of `predict.false_alarms` and of
good ones above it, AUPRO, and CPU seconds. `--without-references` compares settings of MuSc on the
queries alone. Arguments after the category are rows of your own in place of the usual ones, each
with its overrides of params.yaml: "maps.resolution=644 maps.tiles=1". Labels serve for the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from ruamel.yaml import YAML
from sklearn.metrics import roc_auc_score

from benchmarks.musc_time import masks_of
from benchmarks.speed.detectors import MAP_SIZE
from pipeline.clustering.conformal import normal_limit, part_scores
from pipeline.config.params import Params
from pipeline.config.presets import with_overrides
from pipeline.config.reading import load_params
from pipeline.detectors.base import Images, References, Scores
from pipeline.detectors.normalise import rescale
from pipeline.evaluation.localization import ProCurve
from pipeline.inference.detectors import new_detector
from pipeline.inference.map_scores import raw_maps
from pipeline.inference.map_settings import settled_for
from pipeline.inference.patch_features import Resources
from pipeline.io.images import read_image
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES, LABELS
from pipeline.io.tables import read_parquet

Rows = Mapping[str, Mapping[str, Any]]

WITH: Rows = {
    "default": {},
    "1 x 1 alone": {"maps.runs": [[3, 1], [5, 1], [8, 1]]},
    "3 x 3 alone": {"maps.runs": [[5, 3]]},
    "644 px": {"maps.resolution": 644},
    "2 x 2 tiles at 336 px": {"maps.resolution": 336, "maps.tiles": 2},
    "squashed to a square": {"maps.aspect": 1.0},
}
WITHOUT: Rows = {
    "default": {},
    "1 x 1 alone": {"maps.neighbourhoods": [1]},
    "3 x 3 alone": {"maps.neighbourhoods": [3]},
    "blocks 5 and 8": {"maps.layers": [5, 8]},
    "ranks 0 to 30 %": {"maps.skip": 0.0, "maps.fraction": 0.3},
}


class Product:
    """The images of a category, or those of every n-th part, with labels and masks."""

    def __init__(self, category: str, params: Params, paths: ArtifactPaths, every: int) -> None:
        self.category, self.paths = category, paths
        folder, self._root = paths.manifest(category), Path(params.dataset.root) / category
        table = read_parquet(folder / "images.parquet", IMAGES)
        kept = sorted(set(table["part"]))[::every]
        self._table = table[table["part"].isin(kept)]
        queries = self._table[self._table["split"] == "query"]
        labels = read_parquet(folder / "labels.parquet", LABELS).set_index("sample_id")["label"]
        good = labels.reindex(queries["sample_id"]).isin(params.manifest.normal_label)
        self.defective = ~good.to_numpy(bool)
        self.parts = pd.factorize(queries["part"])[0]
        self._masks = masks_of(folder, self._root, queries["sample_id"].tolist())

    def images(self, split: str) -> Images:
        """Return the images of a split."""
        rows = self._table[self._table["split"] == split]
        files = [self._root / path for path in rows["path"]]
        return Images(
            rows["sample_id"].tolist(), lambda i: read_image(files[i]), rows["part"].tolist()
        )

    def parts_of(self, names: Sequence[str]) -> NDArray[np.str_]:
        """Return the parts of images by their sample ids."""
        return self._table.set_index("sample_id")["part"].reindex(list(names)).to_numpy(str)

    def aupro(self, maps: NDArray[np.float32], max_fpr: float) -> float:
        """Return the AUPRO of raw maps (N, S, S) of the queries, normalised over the set."""
        curve = ProCurve()
        low, high = float(maps.min()), float(maps.max())
        for amap, mask in zip(maps, self._masks, strict=True):
            curve.add(rescale(amap, low, high), mask)
        return curve.aupro(max_fpr=max_fpr) or float("nan")


def measure(product: Product, params: Params, *, references: bool) -> str:
    """Fit the detector of `params` and return the cells of a row."""
    started = time.process_time()
    scores, known = detect(product, params, references=references)
    maps = raw_maps(scores, slice(0, len(product.defective)), MAP_SIZE)
    values = scores.image_scores(maps.max(axis=(1, 2))).astype(float)
    normal = np.zeros(0)
    if known.names:
        normal = part_scores(
            known.scores.image_scores(np.zeros(0, np.float32)), product.parts_of(known.names)
        )
    limit = normal_limit(
        part_scores(values, product.parts),
        normal,
        false_alarms=params.predict.false_alarms,
        assumed_normal=params.predict.assumed_normal,
    )
    bad = product.defective
    missed, alarms = (values[bad] <= limit.value).mean(), (values[~bad] > limit.value).mean()
    pro = product.aupro(maps, params.evaluate.max_fpr)
    cells = (roc_auc_score(bad, values), missed, alarms, pro)
    text = "/".join(f"{value:.{3 if k in (0, 3) else 2}f}" for k, value in enumerate(cells))
    return f"{text} | {limit.basis} | {time.process_time() - started:.0f}"


def detect(product: Product, params: Params, *, references: bool) -> tuple[Scores, References]:
    """Return the scores of the queries, and of references if they are to be used."""
    resources = Resources(product.paths.backbone(), params.compute, product.category)
    detector = new_detector(params.maps, resources)
    if references:
        detector.fit(product.images("normal"))
    return detector.score_run(product.images("query")), (
        detector.score_references() if references else References()
    )


def parse(rows: Sequence[str]) -> Rows:
    """Read rows of overrides, separated by spaces."""
    yaml = YAML(typ="safe", pure=True)
    split = {row: [one.partition("=") for one in row.split()] for row in rows}
    return {row: {key: yaml.load(value) for key, _, value in of} for row, of in split.items()}


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    rows: Annotated[list[str] | None, typer.Argument(help="Overrides of each row.")] = None,
    without_references: Annotated[bool, typer.Option(help="MuSc on the queries alone.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Every n-th part only.")] = 1,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Print a row for each choice of settings."""
    paths, given = ArtifactPaths(data), load_params(params)
    product = Product(category, given, paths, every)
    usual = WITHOUT if without_references else WITH
    fixed = {"maps.method": "musc"} if without_references else {}
    typer.echo("| row | AUROC/missed/false alarms/AUPRO | limit by | CPU s |\n|---|---|---|---|")
    for name, overrides in (parse(rows) if rows else usual).items():
        options = with_overrides(given, {**fixed, **overrides})
        maps = settled_for(category, options.maps, paths)
        options = options.model_copy(update={"maps": maps})
        typer.echo(f"| {name} | {measure(product, options, references=not without_references)} |")


if __name__ == "__main__":
    typer.run(main)
