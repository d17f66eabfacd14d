"""Patch tokens of images, and what the detectors of the pipeline compute with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.config.detection import Maps
from pipeline.config.params import Compute
from pipeline.detectors.base import Images
from pipeline.detectors.features import (
    Allocate,
    Features,
    allocate_memory,
    extract,
    resize,
    tiled,
)
from pipeline.detectors.grids import tiled_grid
from pipeline.inference.map_settings import geometry
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import choose_device
from pipeline.mgvit.backbone import forward_features, normalization
from pipeline.mgvit.precision import autocast_for, stores_half
from pipeline.progress import Progress, silent

_BATCH = 16
"""Images of one tile that go through the ViT together."""

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
        self._resources, self._layers = resources, layers
        self._geometry = geometry(options)

    @cached_property
    def _vit(self) -> VisionTransformer:
        how, folder = self._geometry, self._resources.backbone
        vit = load_saved_vit(folder, image_size=how.resolution, aspect=how.aspect)
        return vit.to(self._resources.device).eval()

    def __call__(self, images: Images, what: str, allocate: Allocate) -> Features:
        """Run the ViT over images; `what` they are is shown with the progress."""
        vit, device = self._vit, self._resources.device
        dtype = self._resources.compute.dtype
        mean, std = normalization(vit)
        tile, patch = vit.patch_embed.grid_size, vit.patch_embed.patch_size[0]
        tiles = self._geometry.tiles
        grid = tiled_grid(tile, tiles)

        def encode(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
            with autocast_for(device, dtype):
                return forward_features(vit, pixels, layers=self._layers)

        with self._resources.tracker(f"features of {what}") as progress:
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
