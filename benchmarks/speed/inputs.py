"""What is measured on: artifacts of a finished run, or with --quick small synthetic ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from pipeline.binarization.mebin import ScoreRange, score_range
from pipeline.config.params import Params
from pipeline.io.arrays import open_arrays
from pipeline.io.networks import crop_arrays, load_vit
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, IMAGES, MAP_SCORES
from pipeline.io.tables import read_parquet
from pipeline.mgvit.augmentation import resized_side
from pipeline.mgvit.backbone import create_vit

_IMAGE_SIZE = 64


class Inputs(ABC):
    """Read when asked for. `limit`: at most so many images or crops."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the figures are of."""

    @abstractmethod
    def maps(self, limit: int) -> tuple[list[NDArray[np.float32]], ScoreRange]:
        """Return maps (H, W), spread over the set, and the range of the whole set."""

    @abstractmethod
    def images(self, limit: int) -> list[Path]:
        """Return the image files of `maps`."""

    @abstractmethod
    def crops(self, limit: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return images (M, S, S, 3) and masks (M, S, S) in {0, 1}."""

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """Return the table of all crops."""

    @abstractmethod
    def vit(self) -> VisionTransformer:
        """Return the backbone at the size of training."""


@dataclass(frozen=True)
class Artifacts(Inputs):
    """Those of a category under `artifacts`."""

    category: str
    params: Params
    artifacts: ArtifactPaths

    @property
    def name(self) -> str:
        """The category."""
        return self.category

    def _rows(self, limit: int) -> NDArray[np.int64]:
        total = len(self._scores)
        return np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))

    @cached_property
    def _scores(self) -> pd.DataFrame:
        return read_parquet(self.artifacts.maps(self.category) / "scores.parquet", MAP_SCORES)

    def maps(self, limit: int) -> tuple[list[NDArray[np.float32]], ScoreRange]:
        """Return maps, evenly spread over the set."""
        stored: Any = open_arrays(self.artifacts.maps(self.category) / "maps.zarr")["maps"]
        ends = score_range(self._scores["score"].to_numpy(np.float64))
        return [np.asarray(stored[int(row)]) for row in self._rows(limit)], ends

    def images(self, limit: int) -> list[Path]:
        """Return the files of the same rows."""
        manifest = read_parquet(self.artifacts.manifest(self.category) / "images.parquet", IMAGES)
        paths = manifest.set_index("sample_id")["path"][self._scores["sample_id"]].tolist()
        root = Path(self.params.dataset.root) / self.category
        return [root / paths[row] for row in self._rows(limit)]

    def crops(self, limit: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return crops, evenly spread over the set."""
        images, masks = crop_arrays(self.artifacts.crops(self.category))
        total = images.shape[0]
        rows = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))
        return (
            np.stack([np.asarray(images[int(row)]) for row in rows]),
            np.stack([np.asarray(masks[int(row)]) for row in rows]),
        )

    def table(self) -> pd.DataFrame:
        """Return crops.parquet."""
        return read_parquet(self.artifacts.crops(self.category) / "crops.parquet", CROPS)

    def vit(self) -> VisionTransformer:
        """Return the backbone of the run."""
        return load_vit(self.artifacts, image_size=self.params.views.image_size)


@dataclass(frozen=True)
class Synthetic(Inputs):
    """Small and random, for --quick: figures on it mean nothing."""

    folder: Path
    size: int = 96

    @property
    def name(self) -> str:
        """Say that it is nothing real."""
        return "synthetic"

    def maps(self, limit: int) -> tuple[list[NDArray[np.float32]], ScoreRange]:
        """Return smooth random maps with a few blobs."""
        maps = [blobs(self.size, seed) for seed in range(min(limit, 3))]
        return maps, ScoreRange(float(min(amap.max() for amap in maps)) / 2, 1.0)

    def images(self, limit: int) -> list[Path]:
        """Write random images of several shapes."""
        paths = []
        for i in range(min(limit, 3)):
            rng = np.random.default_rng(i)
            paths.append(self.folder / f"{i}.png")
            pixels = rng.integers(0, 256, (120, 90 + 40 * i, 3), np.uint8)
            Image.fromarray(pixels).save(paths[-1])
        return paths

    def crops(self, limit: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return smooth random crops with masks."""
        n, side = min(limit, 4), resized_side(_IMAGE_SIZE)
        rng = np.random.default_rng(0)
        shape = (side, side, 3)
        images = [cv2.blur(rng.integers(0, 256, shape, np.uint8), (9, 9)) for _ in range(n)]
        masks = [(blobs(side, seed) > 0.5).astype(np.uint8) for seed in range(n)]
        return np.stack(images), np.stack(masks)

    def table(self) -> pd.DataFrame:
        """Return a random table of the crops of a few images."""
        rng = np.random.default_rng(0)
        owners = np.sort(np.r_[np.arange(20), rng.integers(0, 20, 20)])
        return pd.DataFrame(
            {
                "sample_id": [f"image{k}" for k in owners],
                "area_px": rng.integers(0, 9000, len(owners)),
                "score": rng.random(len(owners)),
            }
        )

    def vit(self) -> VisionTransformer:
        """Return a small random network of the same kind."""
        return create_vit("vit_tiny_patch16_224", None, image_size=_IMAGE_SIZE)


def blobs(size: int, seed: int) -> NDArray[np.float32]:
    """Return a smooth random map (size, size) in [0, 1]."""
    noise = np.random.default_rng(seed).random((size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), size / 16)
    low, high = smooth.min(), smooth.max()
    return np.asarray((smooth - low) / (high - low), np.float32)
