"""The sub-images of the query images of a category: placed by their masks, then cut out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange
from pipeline.config.params import Crops
from pipeline.executor import blocks, map_shards
from pipeline.inference.mask_squares import squares_of, stable_count
from pipeline.io import schemas
from pipeline.io.arrays import create_arrays, group_path, open_arrays, open_block, shard_items
from pipeline.io.crop_files import ImageAndMask, crop_specs, write_rows
from pipeline.io.images import read_listed
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.storage import Place
from pipeline.io.stored import NUMBER, check_fields
from pipeline.io.tables import image_bits, read_metadata, read_parquet
from pipeline.progress import Progress
from pipeline.regions.crops import area_px, crop_scores, cut, resize_mask
from pipeline.regions.weights import map_weights

_METADATA = {"method": (str,), "rule": (str,), "tau": (int,), "s_min": NUMBER, "s_max": NUMBER}
_THREADS = 2
_MAPS_OF_A_BLOCK = 256
_AHEAD = 16
"""Images whose sub-images are held in memory at a time."""


@dataclass(frozen=True)
class PlacedImage:
    """A query image: its file, size as shown, and the squares (K, 3) with their areas and
    scores; `bits` are the significant ones of 16-bit pixels, `ends` the range of the thresholds."""

    sample_id: str
    path: Place
    shape: tuple[int, int]
    squares: NDArray[np.int64]
    areas_px: list[int]
    scores: NDArray[np.float64]
    bits: int
    ends: ScoreRange


def place_squares(
    category: str,
    options: Crops,
    root: Place,
    paths: ArtifactPaths,
    masks: zarr.Array,
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
    ends = ScoreRange(metadata["s_min"], metadata["s_max"])
    heights, widths = manifest["height"].tolist(), manifest["width"].tolist()
    shapes = list(zip(heights, widths, strict=True))
    stable = [_n_stable(row, metadata) for row in table.itertuples()]
    items = blocks(len(table), shard=_MAPS_OF_A_BLOCK)
    shards = [
        SquareBlock(
            group_path(maps), group_path(masks), b.start, tuple(shapes[b.start : b.stop]),
            tuple(stable[b.start : b.stop]), options, ends,
        )
        for b in items
    ]  # fmt: skip
    found = map_shards(square_block, shards, items=items, progress=progress)
    bits, folder = image_bits(paths.manifest(category)), root.absolute()
    rows = zip(
        table["sample_id"],
        manifest["path"],
        shapes,
        (squares for block in found for squares in block),
        strict=True,
    )
    return [
        PlacedImage(str(sample_id), folder / str(path), shape, *squares, bits, ends)
        for sample_id, path, shape, squares in rows
    ]


@dataclass(frozen=True)
class SquareBlock:
    """Images whose squares a block places: their sizes, and stable numbers of regions."""

    maps: Path
    masks: Path
    start: int
    shapes: tuple[tuple[int, int], ...]
    stable: tuple[int, ...]
    options: Crops
    ends: ScoreRange


Squares = tuple[NDArray[np.int64], list[int], NDArray[np.float64]]
"""Of an image: squares (K, 3), their areas and their scores."""


def square_block(block: SquareBlock, progress: Progress) -> list[Squares]:
    """Place the squares of the images of a block."""
    maps, masks = (
        open_arrays(block.maps, check=False)["maps"],
        open_arrays(block.masks, check=False)["masks"],
    )
    found = []
    for i, (shape, stable) in enumerate(zip(block.shapes, block.stable, strict=True)):
        mask = resize_mask(masks[block.start + i], shape)
        squares = squares_of(mask, block.options, stable)
        ends, amap = block.ends, maps[block.start + i]
        scores = crop_scores(amap, squares, shape, s_min=ends.s_min, s_max=ends.s_max)
        found.append((squares, [area_px(mask, square) for square in squares], scores))
        progress(i + 1, len(block.shapes))
    return found


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


def write_query_crops(
    path: Path,
    images: Sequence[PlacedImage],
    masks: zarr.Array,
    maps: zarr.Array,
    size: int,
    progress: Progress,
) -> None:
    """Cut image and weights of every sub-image and write crops.zarr, in blocks of its shards.

    `masks` (N, h, w) and `maps` (N, h, w) are those of masks.zarr and maps.zarr. An image whose
    sub-images are of two blocks is decoded twice.
    """
    owners = np.repeat(np.arange(len(images)), [len(image.squares) for image in images])
    specs = crop_specs(len(owners), size, weighted=True)
    items = blocks(len(owners), shard=shard_items(specs["images"]))
    with create_arrays(path, specs) as arrays:
        target = group_path(arrays["images"])
        shards = []
        for rows in items:
            first, last = int(owners[rows.start]), int(owners[rows.stop - 1])
            before = rows.start - int(np.searchsorted(owners, first))
            some = tuple(images[first : last + 1])
            shards.append(
                CutBlock(group_path(maps), group_path(masks), target, first, some, before, rows,
                         size)
            )  # fmt: skip
        map_shards(cut_block, shards, items=items, progress=progress)


@dataclass(frozen=True)
class CutBlock:
    """Rows of a crops.zarr, and the images that they are cut from, the first of them number
    `start`; `before` sub-images of that one are of the block before."""

    maps: Path
    masks: Path
    crops: Path
    start: int
    images: tuple[PlacedImage, ...]
    before: int
    rows: range
    size: int


def cut_block(block: CutBlock, progress: Progress) -> None:
    """Cut the sub-images of a block and write them."""
    crops = islice(_pairs(block, progress), block.before, block.before + len(block.rows))
    write_rows(open_block(block.crops), crops, block.rows)


def _pairs(block: CutBlock, progress: Progress) -> Iterator[ImageAndMask]:
    """Yield image and weights of every sub-image; a few images are decoded ahead."""
    maps, masks = (
        open_arrays(block.maps, check=False)["maps"],
        open_arrays(block.masks, check=False)["masks"],
    )
    jobs = list(enumerate(block.images, block.start))
    done = -block.before
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(jobs), _AHEAD):
            batch = jobs[start : start + _AHEAD]
            for pairs in pool.map(
                lambda job: _cut(job[1], masks[job[0]], maps[job[0]], block.size), batch
            ):
                yield from pairs
            done += sum(len(image.squares) for _, image in batch)
            progress(min(done, len(block.rows)), len(block.rows))


def _cut(
    image: PlacedImage, mask: NDArray[np.bool_], amap: NDArray[np.float32], size: int
) -> list[ImageAndMask]:
    pixels = read_listed(image.path, image.sample_id, image.bits)
    inside = resize_mask(mask, image.shape)
    weights = map_weights(amap, inside, s_min=image.ends.s_min, s_max=image.ends.s_max)
    return [cut(pixels, weights, square, size=size) for square in image.squares]
