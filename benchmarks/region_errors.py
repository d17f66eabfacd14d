"""Compare ways of binarizing by the errors of regions: python -m benchmarks.region_errors bottle

Needs `dvc repro maps@<category>` and true masks. Rows as in figures 6 and 9 of the paper, on the
maps that are there: fixed thresholds, Otsu's, and MEBin with more or fewer of them. Arguments after
the category are rows of your own, each with its overrides: "mebin.tau=6 mebin.erode_px=0". Prints
the share of found regions that hit no true one, of true ones that are missed, and how many were
found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.detector_choices import Rows, parse
from pipeline.config.params import Params
from pipeline.config.presets import with_overrides
from pipeline.config.reading import load_params
from pipeline.evaluation.localization import region_rates
from pipeline.inference.map_masks import binarizer
from pipeline.inference.mask_artifacts import threshold_range
from pipeline.io.arrays import open_arrays
from pipeline.io.images import read_mask
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES, MAP_SCORES, MASKS
from pipeline.io.scores import scores_of_references
from pipeline.io.tables import read_parquet
from pipeline.regions.crops import Regions, find_regions, resize_mask

ROWS: Rows = {
    "params.yaml": {},
    **{
        f"threshold {cut}": {"mebin.method": "fixed", "mebin.fixed_threshold": cut}
        for cut in (0.1, 0.3, 0.5, 0.7, 0.9)
    },
    "Otsu": {"mebin.method": "otsu"},
    **{f"MEBin, T = {n}": {"mebin.n_thresholds": n} for n in (32, 64, 128, 256)},
}


class Masked:
    """The maps of a category with the true regions of their images."""

    def __init__(self, category: str, params: Params, paths: ArtifactPaths) -> None:
        self.category = category
        folder, root = paths.manifest(category), Path(params.dataset.root) / category
        self.scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
        self.references = scores_of_references(paths, category, "score")
        self._maps = open_arrays(paths.maps(category) / "maps.zarr")["maps"]
        images = read_parquet(folder / "images.parquet", IMAGES).set_index("sample_id")
        ids = self.scores["sample_id"]
        sizes = images.loc[ids, ["height", "width"]].to_numpy()
        self._shapes = [(int(height), int(width)) for height, width in sizes]
        table = read_parquet(folder / "masks.parquet", MASKS)
        files = dict(zip(table["sample_id"], table["mask_path"], strict=True))
        nothing = find_regions(np.zeros((1, 1), np.bool_))
        self._true = [
            find_regions(read_mask(root / files[name])) if name in files else nothing
            for name in ids
        ]

    def row(self, params: Params) -> str:
        """Return the cells of a row: both errors, and the number of regions."""
        ends = threshold_range(self.category, self.scores, self.references, params.mebin)
        binarize = binarizer(params.mebin, ends)
        found: list[Regions] = []
        for k, shape in enumerate(self._shapes):
            found.append(find_regions(resize_mask(binarize(self._maps[k]).mask, shape)))
        boxes = [[one.boxes for one in regions] for regions in (self._true, found)]
        wrong, missed = region_rates(*boxes, iou=params.evaluate.region_iou)
        rates = ("-" if rate is None else f"{rate:.3f}" for rate in (wrong, missed))
        return f"{'/'.join(rates)} | {sum(len(one.areas) for one in found)}"


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    rows: Annotated[list[str] | None, typer.Argument(help="Overrides of each row.")] = None,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Print a row for each way of binarizing."""
    given = load_params(params)
    product = Masked(category, given, ArtifactPaths(data))
    typer.echo("| row | region_fpr/region_fnr | regions |\n|---|---|---|")
    for name, overrides in (parse(rows) if rows else ROWS).items():
        typer.echo(f"| {name} | {product.row(with_overrides(given, overrides))} |")


if __name__ == "__main__":
    typer.run(main)
