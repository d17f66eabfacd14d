"""Patch tokens of images, and what the detectors of the pipeline compute with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.config.detection import Maps
from pipeline.config.params import Compute
from pipeline.detectors.base import Images
from pipeline.detectors.features import (
    Allocate,
    Array,
    Features,
    allocate_memory,
    extract,
    resize,
    tiled,
)
from pipeline.detectors.grids import Grid, tiled_grid
from pipeline.executor import blocks, distributed, map_shards
from pipeline.inference.map_settings import geometry
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import choose_device
from pipeline.io.images import ListedImages
from pipeline.io.stored import read_tensors, write_tensors
from pipeline.mgvit.backbone import forward_features, normalization
from pipeline.mgvit.precision import autocast_for, stores_half
from pipeline.progress import Progress, silent

_BATCH = 16
"""Images of one tile that go through the ViT together."""
_IMAGES_OF_A_BLOCK = 64
"""Images of a task of a cluster: a multiple of all batches."""

Tracker = Callable[[str], AbstractContextManager[Progress]]
"""Shows the progress of a step, given its name."""


@contextmanager
def untracked(step: str) -> Iterator[Progress]:
    """Show no progress: the default `Tracker`."""
    del step
    yield silent


@dataclass(frozen=True)
class Resources:
    """What the detectors of the pipeline compute with.

    `backbone` is the folder of the frozen ViT. `scratch` makes an allocator for the features of one
    set of images. `category` names the product in messages. `folder`, where there is one, is for
    files that the workers of a cluster read.
    """

    backbone: Path
    compute: Compute
    category: str
    scratch: Callable[[], Allocate] = lambda: allocate_memory
    tracker: Tracker = untracked
    folder: Path | None = None

    @cached_property
    def device(self) -> torch.device:
        """Return the device of `compute.device`."""
        return choose_device(self.compute.device)


class PatchFeatures:
    """Patch tokens of images by the frozen ViT, on the grid of section `maps`.

    The ViT sees about as many patches as a square of `maps.resolution` pixels has, in the
    proportions of `maps.aspect`. `maps.tiles` of these along each side make the grid, to which
    every image is resized.
    """

    def __init__(self, options: Maps, resources: Resources, layers: Sequence[int]) -> None:
        self._options, self._resources, self._layers = options, resources, layers
        self._geometry = geometry(options)

    @cached_property
    def _vit(self) -> VisionTransformer:
        how, folder = self._geometry, self._resources.backbone
        vit = load_saved_vit(folder, image_size=how.resolution, aspect=how.aspect)
        return vit.to(self._resources.device).eval()

    def __call__(self, images: Images, what: str, allocate: Allocate) -> Features:
        """Run the ViT over images; `what` they are is shown with the progress.

        On a cluster in blocks of images, where these are files: the same batches, the same bits.
        """
        files, folder = images.read, self._resources.folder
        if distributed() and isinstance(files, ListedImages) and folder is not None:
            return self._in_blocks(files, what, folder.absolute(), allocate)
        with self._resources.tracker(f"features of {what}") as progress:
            return self.extract(images, allocate, progress)

    def extract(self, images: Images, allocate: Allocate, progress: Progress) -> Features:
        """Run the ViT over images in this process."""
        vit, device = self._vit, self._resources.device
        dtype = self._resources.compute.dtype
        mean, std = normalization(vit)
        tile, patch = vit.patch_embed.grid_size, vit.patch_embed.patch_size[0]
        tiles = self._geometry.tiles
        grid = tiled_grid(tile, tiles)

        def encode(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
            with autocast_for(device, dtype):
                return forward_features(vit, pixels, layers=self._layers)

        return extract(
            tiled(encode, tile, tiles, patch),
            (resize(image, (patch * grid[0], patch * grid[1])) for image in images),
            len(images),
            grid,
            mean=mean,
            std=std,
            device=device,
            half=stores_half(device, dtype),
            batch=max(1, _BATCH // tiles**2),
            allocate=allocate,
            progress=progress,
        )

    def _in_blocks(
        self, files: ListedImages, what: str, folder: Path, allocate: Allocate
    ) -> Features:
        """Let blocks write features into files of `folder`, and collect them."""
        items = blocks(len(files.files), shard=_IMAGES_OF_A_BLOCK)
        settings = FeatureSettings(
            self._options.model_dump_json(by_alias=True),
            self._resources.compute.model_dump_json(by_alias=True),
            self._resources.backbone.absolute(),
            self._resources.category,
            tuple(self._layers),
        )
        name = what.replace(" ", "_")
        shards = [
            FeatureBlock(settings, files.some(rows), folder / f"{name}_{rows.start}.safetensors")
            for rows in items
        ]
        with self._resources.tracker(f"features of {what}") as progress:
            grid = map_shards(feature_block, shards, items=items, progress=progress)[0]
        layers: list[Array] = []
        class_tokens = []
        for shard, rows in zip(shards, items, strict=True):
            tensors = read_tensors(shard.path)
            parts = [tensors[f"layer_{k}"] for k in range(len(self._layers))]
            if not layers:
                layers = [allocate((len(files.files), *p.shape[1:]), p.dtype) for p in parts]
            for layer, part in zip(layers, parts, strict=True):
                layer[rows.start : rows.stop] = part
            class_tokens.append(tensors["class_tokens"])
            shard.path.unlink()
        return Features(tuple(layers), np.concatenate(class_tokens), grid)


@dataclass(frozen=True)
class FeatureSettings:
    """How features are made; `options` and `compute` are the sections as JSON."""

    options: str
    compute: str
    backbone: Path
    category: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class FeatureBlock:
    """Images of a block, and the file for their features."""

    settings: FeatureSettings
    files: ListedImages
    path: Path


def feature_block(block: FeatureBlock, progress: Progress) -> Grid:
    """Write the features of a block; return the grid of their patches."""
    images = Images([str(file) for file in block.files.files], block.files)
    features = _extractor(block.settings).extract(images, allocate_memory, progress)
    tensors = {f"layer_{k}": layer for k, layer in enumerate(features.layers)}
    write_tensors(block.path, {**tensors, "class_tokens": features.class_tokens})
    return features.grid


@lru_cache(maxsize=1)
def _extractor(settings: FeatureSettings) -> PatchFeatures:
    """Return the network, which a worker keeps from block to block."""
    compute = Compute.model_validate_json(settings.compute)
    resources = Resources(settings.backbone, compute, settings.category)
    return PatchFeatures(Maps.model_validate_json(settings.options), resources, settings.layers)
