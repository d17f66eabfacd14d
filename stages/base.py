"""Stage `base`: sub-images of the labelled base set, cropped from their ground-truth masks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.params import Base, Crops
from pipeline.io import schemas
from pipeline.io.crop_files import write_crops
from pipeline.io.dataset_formats import DatasetError, holds_images
from pipeline.io.datasets import Sample, collect
from pipeline.io.files import replacing_folder
from pipeline.io.images import read_image, read_mask
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import write_parquet
from pipeline.progress import Progress, track
from pipeline.regions.crops import area_px, cut, region_squares, whole_image

log = logging.getLogger("anomalyncd")


@dataclass(frozen=True)
class _Crop:
    """The k-th square (x0, y0, side) of a base image."""

    sample: Sample
    k: int
    square: NDArray[np.int64]
    area_px: int


def run(options: Base, cutting: Crops, paths: ArtifactPaths) -> None:
    """Write `base/crops.parquet` and `base/crops.zarr`; no row if base.root holds no image."""
    root = Path(options.root)
    with track("base") as progress:
        crops = _find_crops(root, options, cutting, progress) if holds_images(root) else []
    with replacing_folder(paths.base()) as folder:
        folder.mkdir()
        write_parquet(folder / "crops.parquet", _table(crops), schemas.BASE_CROPS)
        pixels = (_pixels(root, crop, cutting.size) for crop in crops)
        write_crops(folder / "crops.zarr", pixels, len(crops), cutting.size)
    log.info("base: %d labelled sub-images", len(crops))


def _find_crops(root: Path, options: Base, cutting: Crops, progress: Progress) -> list[_Crop]:
    """Find the squares of every labelled defect image that has a mask with something in it."""
    dataset = collect(
        root,
        layout=options.layout,
        normal_label=options.normal_label,
        progress=progress,
    )
    for row in dataset.rejected:
        log.warning("base: %s is not used: %s", row.path, row.sentence())
    defects = [s for s in dataset.split("query") if s.label not in (None, *options.normal_label)]
    crops = [
        crop for sample in defects for crop in _squares(root, sample, cutting, options.per_image)
    ]
    without = len(defects) - len({crop.sample.sample_id for crop in crops})
    if without:
        log.warning("base: %d defect images are not used: no mask, or nothing in it", without)
    if not crops:
        raise DatasetError(
            f"base.root: {root} (read as layout {dataset.layout!r}) holds no labelled defect image "
            "with a mask; an empty folder there means: train without a base set"
        )
    return crops


def _squares(root: Path, sample: Sample, options: Crops, keep: int) -> list[_Crop]:
    mask = _mask(root, sample)
    if mask is None or not mask.any():
        return []
    if options.enabled:
        squares = region_squares(
            mask,
            padding=options.padding,
            smallest_side=options.smallest_side,
            merge_distance=options.merge_distance,
            keep=keep,
        )
    else:
        squares = whole_image(mask.shape)[None]
    return [_Crop(sample, k, square, area_px(mask, square)) for k, square in enumerate(squares)]


def _mask(root: Path, sample: Sample) -> NDArray[np.bool_] | None:
    return None if sample.mask is None else read_mask(root / sample.mask)


def _table(crops: list[_Crop]) -> pd.DataFrame:
    """One row a crop; there is no anomaly map, so the score is missing."""
    rows = [
        (
            f"{crop.sample.sample_id}-{crop.k}",
            crop.sample.sample_id,
            crop.k,
            *(int(value) for value in crop.square),
            crop.area_px,
            None,
            crop.sample.label,
        )
        for crop in crops
    ]
    return pd.DataFrame(rows, columns=schemas.BASE_CROPS.names)


def _pixels(root: Path, crop: _Crop, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image, mask = read_image(root / crop.sample.path), _mask(root, crop.sample)
    assert mask is not None  # no square without a mask
    return cut(image, mask, crop.square, size=size)
