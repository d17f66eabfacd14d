"""Finished artifacts of a made-up category, small enough to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pipeline.io import schemas
from pipeline.io.arrays import ArraySpec, create_arrays
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import write_parquet
from pipeline.regions.crops import area_px, cut, resize_mask

HEIGHT, WIDTH, SIDE = 60, 90, 256
PATHS = ("line 1/ä.png", "line 1/b.png", "c.jpg", "d.png")


def small_masks() -> NDArray[np.bool_]:
    """Return masks (4, 32, 32): a ring, two parts that touch at a corner, nothing, two blocks."""
    masks = np.zeros((4, 32, 32), np.bool_)
    masks[0, 4:14, 4:16] = True
    masks[0, 7:10, 8:12] = False
    masks[1, 3:8, 3:8] = True
    masks[1, 8:12, 8:14] = True
    masks[3, 2:12, 2:10] = True
    masks[3, 16:30, 12:30] = True
    return masks


SQUARES = (
    (0, [(5, 3, 50)], [1]),
    (1, [(0, -10, 60)], [2]),
    (2, [(0, -15, 90)], [0]),
    (3, [(20, 10, 70), (0, 0, 40)], [3, 1]),  # they overlap: the first cuts into the other's block
)


def write_discovered(root: Path, *, classes: int = 4) -> ArtifactPaths:
    """Write the artifacts that an export reads, and the images, below `root`."""
    paths, masks = ArtifactPaths(root / "data"), small_masks()
    ids = [f"{i:016x}" for i in range(len(masks))]
    rng = np.random.default_rng(0)
    rows, images, crops, regions, pairs = [], [], [], [], []
    for sample_id, path in zip(ids, PATHS, strict=True):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        file = root / "raw" / "c" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        images.append(pixels)
        rows.append((sample_id, path, "query", HEIGHT, WIDTH, 3, sample_id))
    rows.append(("f" * 16, "../reference.png", "normal", HEIGHT, WIDTH, 3, "f" * 16))
    for i, squares, numbers in SQUARES:
        mask = resize_mask(masks[i], (HEIGHT, WIDTH))
        for k, (square, number) in enumerate(zip(squares, numbers, strict=True)):
            where = np.array(square)
            crop_id = f"{ids[i]}-{k}"
            crops.append((crop_id, ids[i], k, *square, area_px(mask, where), 0.5))
            likely = np.full(classes, 0.1 / (classes - 1), np.float32)
            likely[number] = 0.9
            embedding = np.eye(8, dtype=np.float32)[number]
            regions.append((crop_id, ids[i], number, 0.9, likely, embedding))
            pairs.append(cut(images[i], mask, where, size=SIDE))
    _write(paths, ids, masks, rows, crops, regions)
    specs = {
        "images": ArraySpec((len(pairs), SIDE, SIDE, 3), "uint8"),
        "masks": ArraySpec((len(pairs), SIDE, SIDE), "uint8"),
    }
    with create_arrays(paths.crops("c") / "crops.zarr", specs) as arrays:
        arrays["images"][:] = np.stack([image for image, _ in pairs])
        arrays["masks"][:] = np.stack([mask for _, mask in pairs])
    return paths


def _write(
    paths: ArtifactPaths,
    ids: list[str],
    masks: NDArray[np.bool_],
    rows: list[tuple[object, ...]],
    crops: list[tuple[object, ...]],
    regions: list[tuple[object, ...]],
) -> None:
    scores = [(i, 0.5, 1, 4, np.array([1, 1], np.int32)) for i in ids]
    for path, content, schema in (
        (paths.manifest("c") / "images.parquet", rows, schemas.IMAGES),
        (paths.mebin("c") / "images.parquet", scores, schemas.MEBIN_IMAGES),
        (paths.crops("c") / "crops.parquet", crops, schemas.CROPS),
        (paths.predict("c") / "regions.parquet", regions, schemas.REGIONS),
    ):
        frame = pd.DataFrame(content, columns=schema.names)
        write_parquet(path, frame, schema)
    spec = {"masks": ArraySpec(masks.shape, "bool")}
    with create_arrays(paths.mebin("c") / "masks.zarr", spec) as arrays:
        arrays["masks"][:] = masks
