"""Anomaly maps of images: the detectors of `maps.method`, and how their scores become maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.config.params import Compute, Maps
from pipeline.detectors import musc, patchcore
from pipeline.detectors.base import Detector, Images, References, Scores
from pipeline.detectors.calibration import contrast
from pipeline.detectors.features import (
    Allocate,
    Array,
    Features,
    allocate_memory,
    extract,
    squash,
    upsample,
)
from pipeline.detectors.normalise import rescale
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import choose_device
from pipeline.io.paths import ArtifactError
from pipeline.mgvit.backbone import forward_features, normalization
from pipeline.mgvit.precision import autocast_for, stores_half, uses_bfloat16
from pipeline.progress import Progress, silent

Floats = NDArray[np.float32]
Tracker = Callable[[str], AbstractContextManager[Progress]]
"""Shows the progress of a step, given its name."""

_BANK_IMAGES = 100
"""MuSc keeps at most so many images of the run, to compare new ones with."""
_REFERENCES = 50
"""At most so many normal references are scored."""


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


class PatchFeatures:
    """Patch tokens of images by the frozen ViT, at section `maps`' resolution."""

    def __init__(self, options: Maps, resources: Resources, layers: Sequence[int]) -> None:
        self._options, self._resources, self._layers = options, resources, layers

    @cached_property
    def _vit(self) -> VisionTransformer:
        vit = load_saved_vit(self._resources.backbone, image_size=self._options.resolution)
        return vit.to(self._resources.device).eval()

    def __call__(self, images: Images, what: str, allocate: Allocate) -> Features:
        """Run the ViT over images; `what` they are is shown with the progress."""
        vit, options, device = self._vit, self._options, self._resources.device
        dtype = self._resources.compute.dtype
        mean, std = normalization(vit)

        def encode(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
            with autocast_for(device, dtype):
                return forward_features(vit, pixels, layers=self._layers)

        with self._resources.tracker(f"features of {what}") as progress:
            return extract(
                encode,
                (squash(image, options.resolution) for image in images),
                len(images),
                mean=mean,
                std=std,
                device=device,
                half=stores_half(device, dtype),
                allocate=allocate,
                progress=progress,
            )


class MuSc(Detector):
    """Images of the run against each other; new images against a sample of the run's."""

    def __init__(self, options: Maps, resources: Resources) -> None:
        self._options, self._resources = options, resources
        self._features = PatchFeatures(options, resources, options.layers)
        self._normals = Images((), _no_image)
        self._bank: dict[str, Array] = {}
        self._ranks = (0.0, 1.0)
        self._half = uses_bfloat16(resources.device, resources.compute.dtype)

    def fit(self, normals: Images) -> None:
        """Keep the references for `score_references`: MuSc learns nothing from them."""
        self._normals = normals.take(some_references(len(normals), self._options.seed))

    def score_run(self, images: Images) -> Scores:
        """Compare the images with each other and keep some of them for `score`."""
        options, resources = self._options, self._resources
        memory = resources.scratch()
        features = self._features(images, "queries", memory)
        if len(images) < 2:
            raise ArtifactError(
                f"{resources.category}: maps.method musc compares images with each other and needs "
                "at least 2: add images, or use patchcore with normal references"
            )
        with resources.tracker("comparing") as progress:
            self._ranks = self._choose_ranks(features)
            patches = musc.patch_scores(
                features.layers,
                features.grid,
                neighbourhoods=options.neighbourhoods,
                skip=self._ranks[0],
                fraction=self._ranks[1],
                half=self._half,
                references=options.references,
                seed=options.seed,
                memory_mb=resources.compute.memory_mb / 2,
                device=resources.device,
                allocate=memory,
                progress=progress,
            )
        chosen = musc.choose_references(len(images), _BANK_IMAGES, options.seed)
        self._bank = {
            f"layer_{k}": layer[chosen].astype(np.float16)
            for k, layer in enumerate(features.layers)
        }
        class_tokens = features.class_tokens  # not `features`: patch tokens must not live on

        def reweighted(maxima: Floats) -> Floats:
            return musc.reweight_scores(maxima, class_tokens)

        if options.image_score == "published":
            return Scores(on_grid(patches, features.grid), reweighted)
        return _scores(patches, features.grid, options)

    def _choose_ranks(self, features: Features) -> tuple[float, float]:
        """Return `maps.skip` and `maps.fraction`; `auto` looks at how alike the images lie."""
        skip, fraction = self._options.skip, self._options.fraction
        if skip == "auto" or fraction == "auto":
            ratio = musc.pose_ratio(
                features.layers[0], features.grid, half=self._half, device=self._resources.device
            )
            chosen = musc.choose_ranks(ratio)
            skip = chosen[0] if skip == "auto" else skip
            fraction = chosen[1] if fraction == "auto" else fraction
        return float(skip), float(fraction)

    def score(self, images: Images) -> Scores:
        """Compare images with the bank; image scores are maxima: re-weighting takes a set."""
        return self._against(images, "queries", "comparing")

    def score_references(self) -> References:
        """Score references as if they were new images."""
        if len(self._normals) == 0:
            return References()
        what = "normal references"
        return References(
            self._normals.names, self._against(self._normals, what, f"comparing {what}")
        )

    def state(self) -> Mapping[str, Array]:
        """Return the tokens (R, P, D) float16 of each layer, ``layer_0`` and so on, and ``ranks``.

        ``ranks`` (2,) float64 are `skip` and `fraction`.
        """
        return {**self._bank, "ranks": np.array(self._ranks)}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over a bank."""
        self._bank = {name: state[name] for name in map("layer_{}".format, range(self._n_layers))}
        skip, fraction = state["ranks"][:]
        self._ranks = (float(skip), float(fraction))
        if not (0 <= self._ranks[0] < 1 and 0 < self._ranks[1] <= 1):
            raise ArtifactError(
                f"{self._resources.category}: the bank of the maps holds the ranks {self._ranks}, "
                "which are no shares of images; run the stage 'maps' again"
            )

    @property
    def _n_layers(self) -> int:
        return len(self._options.layers)

    def _against(self, images: Images, what: str, step: str) -> Scores:
        options, resources = self._options, self._resources
        features = self._features(images, what, resources.scratch())
        with resources.tracker(step) as progress:
            patches = musc.scores_against(
                features.layers,
                [self._bank[f"layer_{k}"] for k in range(self._n_layers)],
                features.grid,
                neighbourhoods=options.neighbourhoods,
                skip=self._ranks[0],
                fraction=self._ranks[1],
                half=self._half,
                device=resources.device,
                progress=progress,
            )
        return _scores(patches, features.grid, options)


class PatchCore(Detector):
    """Distance of each patch to the nearest one of a memory bank of normal patches."""

    def __init__(self, options: Maps, resources: Resources) -> None:
        self._options, self._resources = options, resources
        self._features = PatchFeatures(options, resources, options.layers)
        self._bank: Floats = np.zeros((0, 0), np.float32)
        self._references = References()

    def fit(self, normals: Images) -> None:
        """Build the memory bank, and score some references against the patches of the others."""
        options, resources = self._options, self._resources
        if len(normals) == 0:
            raise ArtifactError(
                f"{resources.category}: maps.method patchcore needs normal reference images and "
                "the manifest's split 'normal' is empty: add some (train/good, "
                "manifest.normal_list or manifest.normal_root) or use maps.method musc"
            )
        features = self._features(normals, "normal references", resources.scratch())
        with resources.tracker("coreset") as progress:
            self._bank, owners = patchcore.bank(
                features.layers,
                features.grid,
                neighbourhoods=options.neighbourhoods,
                ratio=options.coreset_ratio,
                maximum=options.coreset_max,
                seed=options.seed,
                device=resources.device,
                progress=progress,
            )
        if len(normals) > 1:
            self._references = self._leave_one_out(normals, features, owners)

    def _leave_one_out(
        self, normals: Images, features: Features, owners: NDArray[np.int64]
    ) -> References:
        some = some_references(len(normals), self._options.seed)
        with self._resources.tracker("comparing normal references") as progress:
            distances = patchcore.held_out_distances(
                features.layers,
                features.grid,
                self._bank,
                owners,
                some,
                neighbourhoods=self._options.neighbourhoods,
                device=self._resources.device,
                progress=progress,
            )
        compared = np.isfinite(distances[:, 0])  # not so the one owner of a whole bank
        names = normals.take(np.asarray(some)[compared].tolist()).names
        return References(names, _scores(distances[compared], features.grid, self._options))

    def score(self, images: Images) -> Scores:
        """Compare images with the bank; image scores are by PatchCore's equation 7."""
        options, resources = self._options, self._resources
        features = self._features(images, "queries", resources.scratch())
        layers, grid = features.layers, features.grid
        with resources.tracker("comparing") as progress:
            distances, nearest = patchcore.patch_distances(
                layers,
                grid,
                self._bank,
                neighbourhoods=options.neighbourhoods,
                device=resources.device,
                progress=progress,
            )
        scores = patchcore.image_scores(
            layers,
            grid,
            self._bank,
            distances,
            nearest,
            neighbourhoods=options.neighbourhoods,
            reweight=True,
        )
        if options.image_score == "published":
            return Scores(on_grid(distances, grid), lambda maxima: scores)
        return _scores(distances, grid, options)

    def score_references(self) -> References:
        """Return the scores that `fit` found."""
        return self._references

    def state(self) -> Mapping[str, Array]:
        """Return the memory bank (M, V) float32, ``patches``."""
        return {"patches": self._bank}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over a memory bank."""
        self._bank = np.asarray(state["patches"], np.float32)


class GivenMaps(Detector):
    """Maps that exist already: `read(name)` returns that of an image, (size, size) float32.

    `scale` are the raw scores that mean 0 and 1 (None: the range of the set).
    """

    def __init__(
        self, read: Callable[[str], Floats], size: int, scale: tuple[float, float] | None = None
    ) -> None:
        self._read, self._size, self._scale = read, size, scale

    def fit(self, normals: Images) -> None:
        """Learn nothing."""

    def score(self, images: Images) -> Scores:
        """Look maps up; the images are not read."""
        return Scores(_ReadMaps(self._read, images.names, self._size), scale=self._scale)


@dataclass(frozen=True)
class _ReadMaps:
    """`PatchScores` that are read when they are asked for."""

    read: Callable[[str], Floats]
    names: Sequence[str]
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.names), self.size, self.size)

    def __getitem__(self, block: Any) -> Floats:
        return np.stack([self.read(name) for name in self.names[block]])


def raw_maps(scores: Scores, block: slice, size: int) -> Floats:
    """Return the raw maps (b, size, size) of a block of images; the caller may overwrite them."""
    patches = np.asarray(scores.patch_scores[block], np.float32)
    grid = (patches.shape[1], patches.shape[2])
    if grid == (size, size):
        return patches.copy()
    return upsample(patches.reshape(len(patches), -1), grid, size)


def rescale_maps(raw: Floats, low: float, high: float, gamma: float) -> Floats:
    """Map [low, high] to [0, 1] in place, to the power `gamma`, map by map.

    A square root gives faint defects more of the range in which MEBin seeks its threshold.
    """
    for i, amap in enumerate(raw):  # `rescale` works in float64
        raw[i] = rescale(amap, low, high) ** gamma
    return raw


def _scores(patches: Floats, grid: tuple[int, int], options: Maps) -> Scores:
    """Return patch scores (N, P) with image scores by `contrast`, or their maxima."""
    if options.image_score != "contrast":
        return Scores(on_grid(patches, grid))
    images = contrast(patches)
    return Scores(on_grid(patches, grid), lambda maxima: images)


def on_grid(scores: Floats, grid: tuple[int, int]) -> Floats:
    return scores.reshape(len(scores), *grid)  # (N, P) -> (N, h, w)


def some_references(count: int, seed: int, most: int = _REFERENCES) -> list[int]:
    """Draw at most `most` of `count` references; return their numbers, sorted."""
    drawn = pd.Series(range(count)).sample(min(most, count), random_state=seed)
    return sorted(int(number) for number in drawn)


def _no_image(number: int) -> NDArray[np.uint8]:
    raise IndexError(number)
