"""Stage `merge`: one class per image, and per part, from the classes of the regions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.params import Merge
from pipeline.io.files import replacing_folder
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.schemas import MERGED, PART_VERDICTS
from pipeline.io.tables import write_parquet
from pipeline.regions.merging import (
    defect_class_set,
    merge_regions,
    part_verdicts,
    region_class_set,
)


def run(category: str, options: Merge, paths: ArtifactPaths) -> None:
    """Write images.parquet and parts.parquet of a category.

    One row per query image, in the order of the crops, and one per part of them
    (`manifest.part`).
    """
    regions, crops = read_regions_and_crops(paths, category)
    index, sample_ids = pd.factorize(regions["sample_id"])
    probabilities = _merged(regions, crops, index, options)
    classes = regions["class"].to_numpy(np.int64)
    class_sets = region_class_set(classes, index, n_images=len(sample_ids))
    frame = pd.DataFrame(
        {
            "sample_id": sample_ids,
            "class": probabilities.argmax(1),
            "confidence": probabilities.max(1),
            "probabilities": list(probabilities.astype(np.float32)),
            "region_classes": class_sets,
            "class_set": defect_class_set(class_sets),
        }
    )
    parts = _parts(frame, read_parts(paths, category), regions, crops, options)
    with replacing_folder(paths.merge(category)) as folder:
        folder.mkdir()
        write_parquet(folder / "images.parquet", frame, MERGED)
        write_parquet(folder / "parts.parquet", parts, PART_VERDICTS)


def _merged(
    regions: pd.DataFrame, crops: pd.DataFrame, index: NDArray[np.int64], options: Merge
) -> NDArray[np.float64]:
    """Return the probabilities (N, C) of the things, images or parts, that `index` numbers."""
    return merge_regions(
        np.stack([np.asarray(p) for p in regions["probabilities"]]),
        index.astype(np.int64),
        crops["area_px"].to_numpy(np.float64),
        crops["score"].to_numpy(np.float64),
        rule=options.weights,
        temperature=options.temperature,
        n_images=int(index.max()) + 1,
    )


def _parts(
    images: pd.DataFrame,
    part_of: Mapping[str, str],
    regions: pd.DataFrame,
    crops: pd.DataFrame,
    options: Merge,
) -> pd.DataFrame:
    """Return a row for each part of the images, merged from all its regions as an image is."""
    of_region = numbered(part_of, regions["sample_id"])
    of_image = numbered(part_of, images["sample_id"])  # in the same order: the same numbers
    probabilities = _merged(regions, crops, of_region, options)
    classes = images["class"].to_numpy(np.int64)
    verdicts = part_verdicts(classes, of_image, probabilities)
    return pd.DataFrame(
        {
            "part": list(dict.fromkeys(part_of[s] for s in images["sample_id"])),
            "class": verdicts,
            "confidence": probabilities[np.arange(len(verdicts)), verdicts],
            "probabilities": list(probabilities.astype(np.float32)),
            "n_images": np.bincount(of_image),
            "n_defective": np.bincount(of_image, classes != 0).astype(np.int64),
        }
    )
