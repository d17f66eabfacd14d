"""Stage `crops`: the sub-images of every query image, cut around the regions of its mask."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.params import Crops, Key
from pipeline.inference.mask_squares import squares_of, stable_count
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.crop_files import ImageAndMask, write_crops
from pipeline.io.files import replacing_folder
from pipeline.io.images import read_image
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.stored import NUMBER, check_fields
from pipeline.io.tables import image_bits, read_metadata, read_parquet, write_parquet
from pipeline.progress import Progress, track
from pipeline.regions.crops import area_px, crop_scores, cut, resize_mask

log = logging.getLogger("anomalyncd")

_METADATA = {"method": (str,), "rule": (str,), "tau": (int,), "s_min": NUMBER, "s_max": NUMBER}
_THREADS = 2
_AHEAD = 16
"""Images whose sub-images are held in memory at a time."""


@dataclass(frozen=True)
class _Image:
    """A query image: its file, size as shown, and the squares (K, 3) with their areas and
    scores; `bits` are the significant ones of 16-bit pixels."""

    sample_id: str
    path: Path
    shape: tuple[int, int]
    squares: NDArray[np.int64]
    areas_px: list[int]
    scores: NDArray[np.float64]
    bits: int


def run(
    category: str, options: Crops, root: Annotated[str, Key("dataset.root")], paths: ArtifactPaths
) -> None:
    """Write `crops.parquet` and `crops.zarr` of one category.

    Images are in the order of the maps, the sub-images of each by falling mask area. With
    crops.enabled off, each image has one: the whole of it, with its whole mask.
    """
    masks = open_arrays(paths.mebin(category) / "masks.zarr")["masks"]
    with track(f"crops {category}: squares") as progress:
        images = _find(category, options, Path(root) / category, paths, masks, progress)
    with replacing_folder(paths.crops(category)) as folder:
        folder.mkdir()
        rows = [row for image in images for row in _rows(image)]
        frame = pd.DataFrame(rows, columns=schemas.CROPS.names)
        params = {"params": {"crops": options.to_json()}}
        write_parquet(folder / "crops.parquet", frame, schemas.CROPS, params)
        with track(f"crops {category}: cutting") as progress:
            pairs = _cut_all(images, masks, options.size, progress)
            write_crops(folder / "crops.zarr", pairs, len(rows), options.size)
    log.info("crops %s: %d sub-images of %d images", category, len(rows), len(images))


def _find(
    category: str,
    options: Crops,
    root: Path,
    paths: ArtifactPaths,
    masks: Any,
    progress: Progress,
) -> list[_Image]:
    """Place the squares of every image; nothing is decoded yet."""
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
    bits = image_bits(paths.manifest(category))
    for i, row in enumerate(table.itertuples()):
        shape = (int(manifest["height"].iloc[i]), int(manifest["width"].iloc[i]))
        mask = resize_mask(masks[i], shape)
        squares = squares_of(mask, options, _n_stable(row, metadata))
        scores = crop_scores(
            maps[i], squares, shape, s_min=metadata["s_min"], s_max=metadata["s_max"]
        )
        areas = [area_px(mask, square) for square in squares]
        path = root / str(manifest["path"].iloc[i])
        images.append(_Image(str(row.sample_id), path, shape, squares, areas, scores, bits))
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


def _rows(image: _Image) -> Iterator[tuple[object, ...]]:
    for k, (square, area, score) in enumerate(
        zip(image.squares.tolist(), image.areas_px, image.scores.tolist(), strict=True)
    ):
        yield f"{image.sample_id}-{k}", image.sample_id, k, *square, area, score


def _cut_all(
    images: list[_Image], masks: Any, size: int, progress: Progress
) -> Iterator[ImageAndMask]:
    """Yield image and mask of every sub-image; a few images are decoded ahead."""
    jobs = list(enumerate(images))
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(jobs), _AHEAD):
            batch = jobs[start : start + _AHEAD]
            for pairs in pool.map(lambda job: _cut(job[1], masks[job[0]], size), batch):
                yield from pairs
            progress(start + len(batch), len(jobs))


def _cut(image: _Image, mask: NDArray[np.bool_], size: int) -> list[ImageAndMask]:
    pixels = read_image(image.path, image.bits)
    if pixels.shape[:2] != image.shape:
        raise ArtifactError(
            f"{image.path}: is {pixels.shape[:2]} (height, width), the manifest says "
            f"{image.shape}; run the stage 'manifest' again"
        )
    resized = resize_mask(mask, image.shape)
    return [cut(pixels, resized, square, size=size) for square in image.squares]
