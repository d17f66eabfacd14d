"""What is measured on: the artifacts of a finished run (`dvc repro crops@<category>`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer

from pipeline.binarization.mebin import ScoreRange, score_range
from pipeline.config.detection import Mebin
from pipeline.config.params import Params
from pipeline.io.arrays import open_arrays
from pipeline.io.networks import crop_arrays, load_vit
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, IMAGES, MAP_SCORES
from pipeline.io.tables import read_parquet


def spread(total: int, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` of the rows 0 to total - 1, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))


@dataclass(frozen=True)
class Inputs:
    """Artifacts of a category, read when asked for. `limit`: at most so many, evenly spread."""

    category: str
    params: Params
    paths: ArtifactPaths

    @cached_property
    def _scores(self) -> pd.DataFrame:
        return read_parquet(self.paths.maps(self.category) / "scores.parquet", MAP_SCORES)

    @property
    def root(self) -> Path:
        """The folder of the images."""
        return Path(self.params.dataset.root) / self.category

    def maps(self, limit: int) -> tuple[list[NDArray[np.float32]], ScoreRange]:
        """Return maps (H, W), and the range of the whole set."""
        stored: Any = open_arrays(self.paths.maps(self.category) / "maps.zarr")["maps"]
        rows = spread(len(self._scores), limit)
        options = Mebin()
        scores = self._scores["score"].to_numpy(np.float64)
        ends = score_range(scores, rule=options.rule, floor=options.floor)
        return [np.asarray(stored[int(row)]) for row in rows], ends

    def images(self, limit: int) -> list[Path]:
        """Return the image files of `maps`."""
        manifest = read_parquet(self.paths.manifest(self.category) / "images.parquet", IMAGES)
        files = manifest.set_index("sample_id")["path"][self._scores["sample_id"]].tolist()
        return [self.root / files[row] for row in spread(len(files), limit)]

    def crops(self, limit: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return images (M, S, S, 3) and masks (M, S, S) in {0, 1}."""
        arrays = crop_arrays(self.paths.crops(self.category))
        rows = spread(arrays[0].shape[0], limit)
        images, masks = (np.stack([np.asarray(a[int(row)]) for row in rows]) for a in arrays)
        return images, masks

    def table(self) -> pd.DataFrame:
        """Return the table of all crops."""
        return read_parquet(self.paths.crops(self.category) / "crops.parquet", CROPS)

    def vit(self, image_size: int | None = None) -> VisionTransformer:
        """Return the backbone, without a size at that of the crops' views."""
        return load_vit(self.paths, image_size=image_size or self.params.views.image_size)
