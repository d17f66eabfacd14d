"""Patch features of a category's images, as the stage `maps` takes them, and its true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.speed.inputs import Artifacts, blobs
from pipeline.detectors.features import Array, extract, squash, upsample
from pipeline.detectors.normalise import rescale
from pipeline.evaluation.localization import ProCurve
from pipeline.io.images import read_image, read_mask
from pipeline.io.map_files import mask_to_map
from pipeline.io.networks import load_vit
from pipeline.io.schemas import IMAGES, MASKS
from pipeline.io.tables import read_parquet
from pipeline.mgvit.backbone import forward_features, normalization
from pipeline.mgvit.precision import autocast_for
from pipeline.progress import track

_CPU = "cpu"
_MAP_SIZE = 256


@dataclass(frozen=True)
class Patches:
    """Layer-normalised tokens (N, P, D) of each layer, and masks (S, S) of the N images."""

    layers: tuple[Array, ...]
    grid: tuple[int, int]
    masks: list[NDArray[np.float32]]

    def aupro(self, scores: NDArray[np.float32]) -> float:
        """Return the AUPRO up to 30 % of patch scores (N, P), normalised over the set."""
        maps = rescale(upsample(scores, self.grid, _MAP_SIZE), float(scores.min()), scores.max())
        curve = ProCurve()
        for amap, mask in zip(maps, self.masks, strict=True):
            curve.add(amap, mask)
        return float(curve.aupro() or 0.0)


def synthetic_patches(n: int, *, patches: int = 16, width: int = 12, seed: int = 0) -> Patches:
    """Return random patches with a defect in every other image."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n, patches, width)).astype(np.float32)
    side = round(patches**0.5)
    masks = [(blobs(_MAP_SIZE, k) > 0.7).astype(np.float32) for k in range(n)]
    return Patches((tokens,), (side, side), masks)


def real_patches(inputs: Artifacts, split: str, limit: int | None = None) -> Patches:
    """Run the backbone over the images of a split, or over `limit` of them, evenly spread."""
    manifest = inputs.artifacts.manifest(inputs.category)
    images = read_parquet(manifest / "images.parquet", IMAGES)
    images = images[images["split"] == split]
    if limit is not None and limit < len(images):
        images = images.iloc[np.linspace(0, len(images) - 1, limit).astype(int)]
    layers, grid = _tokens(inputs, images)
    return Patches(layers, grid, _masks(inputs, images) if split == "query" else [])


def _tokens(inputs: Artifacts, images: pd.DataFrame) -> tuple[tuple[Array, ...], tuple[int, int]]:
    maps = inputs.params.maps
    root = Path(inputs.params.dataset.root) / inputs.category
    vit = load_vit(inputs.artifacts, image_size=maps.resolution)

    def encode(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        with autocast_for(torch.device(_CPU), inputs.params.compute.dtype):
            return forward_features(vit, pixels, layers=maps.layers)

    mean, std = normalization(vit)
    pixels = (squash(read_image(root / path), maps.resolution) for path in images["path"])
    with track(f"features of {inputs.category}") as progress:
        found = extract(encode, pixels, len(images), mean=mean, std=std, progress=progress)
    return found.layers, found.grid


def _masks(inputs: Artifacts, images: pd.DataFrame) -> list[NDArray[np.float32]]:
    table = read_parquet(inputs.artifacts.manifest(inputs.category) / "masks.parquet", MASKS)
    files = dict(zip(table["sample_id"], table["mask_path"], strict=True))
    root = Path(inputs.params.dataset.root) / inputs.category
    empty = np.zeros((_MAP_SIZE, _MAP_SIZE), np.float32)
    return [
        mask_to_map(read_mask(root / files[sample]), _MAP_SIZE) if sample in files else empty
        for sample in images["sample_id"]
    ]
