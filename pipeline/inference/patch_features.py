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

from pipeline.config.params import Compute, Maps
from pipeline.detectors.base import Images
from pipeline.detectors.features import (
    Allocate,
    Features,
    allocate_memory,
    extract,
    resize,
)
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import choose_device
from pipeline.io.paths import ArtifactPaths
from pipeline.mgvit.backbone import forward_features, normalization
from pipeline.mgvit.precision import autocast_for, stores_half
from pipeline.progress import Progress, silent

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
    set of images. `category` names the product in messages.
    """

    backbone: Path
    compute: Compute
    category: str
    scratch: Callable[[], Allocate] = lambda: allocate_memory
    tracker: Tracker = untracked

    @cached_property
    def device(self) -> torch.device:
        """Return the device of `compute.device`."""
        return choose_device(self.compute.device)


def backbone_of_maps(options: Maps, paths: ArtifactPaths) -> Path:
    """Return the folder of the maps' ViT: that of `maps.backbone`, or the pipeline's (null)."""
    return paths.backbone() if options.backbone is None else paths.maps_backbone()


class PatchFeatures:
    """Patch tokens of images by the frozen ViT, on the grid of section `maps`.

    The grid has about as many patches as a square of `maps.resolution` pixels, in the proportions
    of `maps.aspect`; every image is resized to it.
    """

    def __init__(self, options: Maps, resources: Resources, layers: Sequence[int]) -> None:
        self._options, self._resources, self._layers = options, resources, layers

    @cached_property
    def _vit(self) -> VisionTransformer:
        vit = load_saved_vit(
            self._resources.backbone,
            image_size=self._options.resolution,
            aspect=1.0 if self._options.aspect == "auto" else self._options.aspect,
        )
        return vit.to(self._resources.device).eval()

    def __call__(self, images: Images, what: str, allocate: Allocate) -> Features:
        """Run the ViT over images; `what` they are is shown with the progress."""
        vit, device = self._vit, self._resources.device
        dtype = self._resources.compute.dtype
        mean, std = normalization(vit)

        def encode(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
            with autocast_for(device, dtype):
                return forward_features(vit, pixels, layers=self._layers)

        with self._resources.tracker(f"features of {what}") as progress:
            return extract(
                encode,
                (resize(image, vit.patch_embed.img_size) for image in images),
                len(images),
                vit.patch_embed.grid_size,
                mean=mean,
                std=std,
                device=device,
                half=stores_half(device, dtype),
                allocate=allocate,
                progress=progress,
            )
