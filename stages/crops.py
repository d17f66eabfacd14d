"""Stage `crops`: the sub-images of every query image, cut around the regions of its mask."""

from __future__ import annotations

import logging
from typing import Annotated

import pandas as pd

from pipeline.config.params import Crops
from pipeline.config.section import Key
from pipeline.inference.query_crops import crop_rows, place_squares, write_query_crops
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.files import replacing_folder
from pipeline.io.inventory import images_at
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import write_parquet
from pipeline.progress import track

log = logging.getLogger("anomalyncd")


def run(
    category: str, options: Crops, root: Annotated[str, Key("dataset.root")], paths: ArtifactPaths
) -> None:
    """Write `crops.parquet` and `crops.zarr` of one category.

    Images are in the order of the maps, the sub-images of each by falling mask area. With
    crops.enabled off, each image has one: the whole of it, with its whole mask.
    """
    masks = open_arrays(paths.mebin(category) / "masks.zarr")["masks"]
    maps = open_arrays(paths.maps(category) / "maps.zarr")["maps"]
    with track(f"crops {category}: squares") as progress:
        images = place_squares(category, options, images_at(root, category), paths, masks, progress)
    with replacing_folder(paths.crops(category)) as folder:
        folder.mkdir()
        rows = [row for image in images for row in crop_rows(image)]
        frame = pd.DataFrame(rows, columns=schemas.CROPS.names)
        params = {"params": {"crops": options.to_json()}}
        write_parquet(folder / "crops.parquet", frame, schemas.CROPS, params)
        with track(f"crops {category}: cutting") as progress:
            target = folder / "crops.zarr"
            write_query_crops(target, images, masks, maps, options.size, progress)
    log.info("crops %s: %d sub-images of %d images", category, len(rows), len(images))
