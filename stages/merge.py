"""Stage `merge`: one class per image from the classes of its regions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.config.params import Merge
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.schemas import MERGED
from pipeline.io.tables import write_parquet
from pipeline.regions.merging import defect_class_set, merge_regions, region_class_set


def run(category: str, options: Merge, paths: ArtifactPaths) -> None:
    """Write images.parquet of a category, one row per query image, in the order of the crops."""
    regions, crops = read_regions_and_crops(paths, category)
    index, sample_ids = pd.factorize(regions["sample_id"])
    region_probabilities = np.stack([np.asarray(p) for p in regions["probabilities"]])
    probabilities = merge_regions(
        region_probabilities,
        index.astype(np.int64),
        crops["area_px"].to_numpy(np.float64),
        crops["score"].to_numpy(np.float64),
        rule=options.weights,
        temperature=options.temperature,
        n_images=len(sample_ids),
    )
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
    write_parquet(paths.merge(category) / "images.parquet", frame, MERGED)
