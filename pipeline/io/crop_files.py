"""crops.zarr: the pixels and masks of sub-images."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.io.arrays import ArraySpec, create_arrays, shard_items

Crop = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Pixels (S, S, 3) and mask (S, S) of a sub-image."""


def write_crops(path: Path, crops: Iterable[Crop], n_crops: int, size: int) -> None:
    """Write `n_crops` sub-images of `size` pixels a side, a shard at a time."""
    specs = {
        "images": ArraySpec((n_crops, size, size, 3), "uint8"),
        "masks": ArraySpec((n_crops, size, size), "uint8"),
    }
    step = min(shard_items(spec) for spec in specs.values())
    remaining = iter(crops)
    with create_arrays(path, specs) as arrays:
        for start in range(0, n_crops, step):
            block = list(islice(remaining, min(step, n_crops - start)))
            stop = start + len(block)
            arrays["images"][start:stop] = np.stack([image for image, _ in block])
            arrays["masks"][start:stop] = np.stack([mask for _, mask in block])
