"""The sub-images of the query images of a category: placed by their masks, then cut out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange
from pipeline.config.params import Crops
from pipeline.inference.mask_squares import squares_of, stable_count
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.crop_files import ImageAndMask
from pipeline.io.images import read_listed
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.stored import NUMBER, check_fields
from pipeline.io.tables import image_bits, read_metadata, read_parquet
from pipeline.progress import Progress
from pipeline.regions.crops import area_px, crop_scores, cut, resize_mask
from pipeline.regions.weights import map_weights

_METADATA = {"method": (str,), "rule": (str,), "tau": (int,), "s_min": NUMBER, "s_max": NUMBER}
_THREADS = 2
_AHEAD = 16
"""Images whose sub-images are held in memory at a time."""


@dataclass(frozen=True)
class PlacedImage:
    """A query image: its file, size as shown, and the squares (K, 3) with their areas and
    scores; `bits` are the significant ones of 16-bit pixels, `ends` the range of the thresholds."""

    sample_id: str
    path: Path
    shape: tuple[int, int]
    squares: NDArray[np.int64]
    areas_px: list[int]
    scores: NDArray[np.float64]
    bits: int
    ends: ScoreRange


def place_squares(
    category: str,
    options: Crops,
    root: Path,
    paths: ArtifactPaths,
    masks: Any,
    progress: Progress,
) -> list[PlacedImage]:
    """Place the squares of every query image below `root`; nothing is decoded yet.

    `masks` (N, h, w) are those of masks.zarr. Raises `ArtifactError` where manifest, maps and masks
    are not of the same images.
    """
    table_path = paths.mebin(category) / "images.parquet"
    table = read_parquet(table_path, schemas.MEBIN_IMAGES)
    metadata = read_metadata(table_path)
    check_fields(table_path, metadata, _METADATA)
    manifest = _queries(category, paths, table)
    maps = open_arrays(paths.maps(category) / "maps.zarr")["maps"]
    if not len(table) == masks.shape[0] == maps.shape[0]:
        raise ArtifactError(
            f"{category}: {maps.shape[0]} maps, {masks.shape[0]} masks and {len(table)} rows in "
            f"{table_path}; run the stages 'maps' and 'mebin' again"
        )
    images = []
    ends = ScoreRange(metadata["s_min"], metadata["s_max"])
    bits = image_bits(paths.manifest(category))
    for i, row in enumerate(table.itertuples()):
        shape = (int(manifest["height"].iloc[i]), int(manifest["width"].iloc[i]))
        mask = resize_mask(masks[i], shape)
        squares = squares_of(mask, options, _n_stable(row, metadata))
        scores = crop_scores(maps[i], squares, shape, s_min=ends.s_min, s_max=ends.s_max)
        areas = [area_px(mask, square) for square in squares]
        path = root / str(manifest["path"].iloc[i])
        images.append(
            PlacedImage(str(row.sample_id), path, shape, squares, areas, scores, bits, ends)
        )
        progress(i + 1, len(table))
    return images


def _queries(category: str, paths: ArtifactPaths, table: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest's rows in the order of `table`, which must hold exactly the queries."""
    path = paths.manifest(category) / "images.parquet"
    images = read_parquet(path, schemas.IMAGES)
    queries = images[images["split"] == "query"].set_index("sample_id")
    if set(queries.index) != set(table["sample_id"]):
        raise ArtifactError(
            f"{path}: its query images are not those of the masks; run the stages 'maps' and "
            "'mebin' again"
        )
    return queries.loc[table["sample_id"]]


def _n_stable(row: Any, metadata: dict[str, Any]) -> int:
    """Return the stable number of regions of a row of `mebin`'s table."""
    return stable_count(
        int(row.n_regions),
        row.counts,
        method=metadata["method"],
        tau=metadata["tau"],
        rule=metadata["rule"],
    )


def crop_rows(image: PlacedImage) -> Iterator[tuple[object, ...]]:
    """Yield the rows of crops.parquet of an image."""
    for k, (square, area, score) in enumerate(
        zip(image.squares.tolist(), image.areas_px, image.scores.tolist(), strict=True)
    ):
        yield f"{image.sample_id}-{k}", image.sample_id, k, *square, area, score


def cut_crops(
    images: list[PlacedImage], masks: Any, maps: Any, size: int, progress: Progress
) -> Iterator[ImageAndMask]:
    """Yield image and weights of every sub-image; a few images are decoded ahead.

    `masks` (N, h, w) and `maps` (N, h, w) are those of masks.zarr and maps.zarr.
    """
    jobs = list(enumerate(images))
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(jobs), _AHEAD):
            batch = jobs[start : start + _AHEAD]
            for pairs in pool.map(
                lambda job: _cut(job[1], masks[job[0]], maps[job[0]], size), batch
            ):
                yield from pairs
            progress(start + len(batch), len(jobs))


def _cut(
    image: PlacedImage, mask: NDArray[np.bool_], amap: NDArray[np.float32], size: int
) -> list[ImageAndMask]:
    pixels = read_listed(image.path, image.sample_id, image.bits)
    inside = resize_mask(mask, image.shape)
    weights = map_weights(amap, inside, s_min=image.ends.s_min, s_max=image.ends.s_max)
    return [cut(pixels, weights, square, size=size) for square in image.squares]
