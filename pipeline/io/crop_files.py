"""The pixels of crops on disk: `crops.zarr` of the stages `base` and `crops`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.io.arrays import ArraySpec, create_arrays, shard_items

ImageAndMask = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def write_crops(
    path: Path,
    crops: Iterator[ImageAndMask],
    n_crops: int,
    size: int,
    *,
    weighted: bool = False,
) -> None:
    """Write `n_crops` images and masks, one shard at a time.

    Parameters
    ----------
    path
        The Zarr group to write: `images` uint8 (M, S, S, 3) RGB, `masks` uint8 (M, S, S) in
        {0, 1} and, if `weighted`, `weights` uint8 (M, S, S).
    crops
        Images uint8 (S, S, 3) with masks uint8 (S, S) in {0, 1}, or if `weighted` with weights
        uint8 (S, S) that are 0 outside the mask; only a shard is in memory.
    n_crops, size
        M, the number of crops, and S, their side in pixels.
    """
    with create_arrays(path, crop_specs(n_crops, size, weighted=weighted)) as arrays:
        write_rows(arrays, crops, range(n_crops))


def crop_specs(n_crops: int, size: int, *, weighted: bool) -> dict[str, ArraySpec]:
    """Return the arrays of a crops.zarr, of equal shards; see `write_crops`."""
    images = ArraySpec((n_crops, size, size, 3), "uint8")
    masks = ArraySpec((n_crops, size, size), "uint8", shard=shard_items(images))
    specs = {"images": images, "masks": masks}
    return {**specs, "weights": specs["masks"]} if weighted else specs


def write_rows(
    arrays: Mapping[str, zarr.Array], crops: Iterator[ImageAndMask], rows: range
) -> None:
    """Write the next crops as some rows, a shard in memory at a time."""
    step = arrays["images"].shards[0]
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        images, masks = zip(*islice(crops, stop - start), strict=True)
        arrays["images"][start:stop] = np.stack(images)
        inside = np.stack(masks)
        arrays["masks"][start:stop] = inside > 0
        if "weights" in arrays:
            arrays["weights"][start:stop] = inside
