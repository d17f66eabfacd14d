"""Stage `base`: sub-images of the labelled base set, cropped from their ground-truth masks."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.config.params import Base, Crops
from pipeline.inference.base_crops import base_pixels, base_table, find_base_crops
from pipeline.io import schemas
from pipeline.io.crop_files import write_crops
from pipeline.io.dataset_formats import holds_images
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import write_parquet
from pipeline.progress import track

log = logging.getLogger("anomalyncd")


def run(options: Base, cutting: Crops, paths: ArtifactPaths) -> None:
    """Write `base/crops.parquet` and `base/crops.zarr`; no row if base.root holds no image."""
    root = Path(options.root)
    with track("base") as progress:
        crops = find_base_crops(root, options, cutting, progress) if holds_images(root) else []
    with replacing_folder(paths.base()) as folder:
        folder.mkdir()
        write_parquet(folder / "crops.parquet", base_table(crops), schemas.BASE_CROPS)
        pixels = (base_pixels(root, crop, cutting.size) for crop in crops)
        write_crops(folder / "crops.zarr", pixels, len(crops), cutting.size)
    log.info("base: %d labelled sub-images", len(crops))
