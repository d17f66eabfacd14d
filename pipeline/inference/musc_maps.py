"""The detector `musc`: images of a run against each other (`pipeline.detectors.musc`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.detectors import musc
from pipeline.detectors.base import Detector, Images, References, Scores
from pipeline.detectors.features import (
    Array,
    Features,
)
from pipeline.executor import blocks, distributed, map_shards
from pipeline.inference.map_scores import on_grid, patch_and_image_scores, some_references
from pipeline.inference.patch_features import PatchFeatures, Resources
from pipeline.io.paths import ArtifactError
from pipeline.io.stored import read_tensors, write_tensors
from pipeline.mgvit.precision import uses_bfloat16
from pipeline.progress import Progress

Floats = NDArray[np.float32]

_IMAGES_OF_A_BLOCK = 64
"""Images that a task of a cluster compares."""
_BANK_IMAGES = 100
"""MuSc keeps at most so many images of the run, to compare new ones with."""


class MuSc(Detector):
    """Images of the run against each other; new images against a sample of the run's."""

    def __init__(self, options: Maps, resources: Resources) -> None:
        self._options, self._resources = options, resources
        self._features = PatchFeatures(options, resources, options.layers)
        self._normals = Images((), _no_image)
        self._bank: dict[str, Array] = {}
        self._bank_parts: list[str] = []
        self._ranks = (0.0, 1.0)
        self._half = uses_bfloat16(resources.device, resources.compute.dtype)

    def fit(self, normals: Images) -> None:
        """Keep the references for `score_references`: MuSc learns nothing from them."""
        self._normals = normals.take(some_references(normals.parts, self._options.seed))

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
        parts = self._parts(images)
        compared, folder = self._compared_with(images.names), resources.folder
        with resources.tracker("comparing") as progress:
            self._ranks = self._choose_ranks(features, parts)
            if distributed() and folder is not None and len(compared) < len(images):
                patches = self._in_blocks(features, compared, parts, folder.absolute(), progress)
            else:
                patches = musc.patch_scores(
                    features.layers,
                    features.grid,
                    neighbourhoods=options.neighbourhoods,
                    skip=self._ranks[0],
                    fraction=self._ranks[1],
                    half=self._half,
                    references=compared,
                    parts=parts,
                    memory_mb=resources.compute.memory_mb / 2,
                    device=resources.device,
                    allocate=memory,
                    progress=progress,
                )
        chosen = musc.choose_references(images.names, _BANK_IMAGES, options.seed)
        self._bank_parts = [images.parts[i] for i in chosen]
        self._bank = {
            f"layer_{k}": layer[chosen].astype(np.float16)
            for k, layer in enumerate(features.layers)
        }
        class_tokens = features.class_tokens  # not `features`: patch tokens must not live on

        def reweighted(maxima: Floats) -> Floats:
            return musc.reweight_scores(maxima, class_tokens)

        if options.image_score == "published":
            return Scores(on_grid(patches, features.grid), reweighted)
        return patch_and_image_scores(patches, features.grid, options)

    def _in_blocks(
        self,
        features: Features,
        compared: NDArray[np.int64],
        parts: NDArray[np.int64],
        folder: Path,
        progress: Progress,
    ) -> Floats:
        """Return what `musc.patch_scores` does, from blocks of images against the references."""
        bank = folder / "references.safetensors"
        write_tensors(bank, _named([layer[compared] for layer in features.layers]))
        items = blocks(len(parts), shard=_IMAGES_OF_A_BLOCK)
        shards = []
        for rows in items:
            some = slice(rows.start, rows.stop)
            path = folder / f"musc_{rows.start}.safetensors"
            write_tensors(path, _named([layer[some] for layer in features.layers]))
            shards.append(
                AgainstBlock(
                    path,
                    bank,
                    features.grid,
                    tuple(self._options.neighbourhoods),
                    self._ranks,
                    tuple(parts[some].tolist()),
                    tuple(parts[compared].tolist()),
                    self._half,
                    str(self._resources.device),
                )
            )
        found = map_shards(against_block, shards, items=items, progress=progress)
        for path in (bank, *(shard.path for shard in shards)):
            path.unlink()
        return np.concatenate(found)

    def _parts(self, images: Images) -> NDArray[np.int64]:
        """Return the numbers (N,) of the images' parts; raise if those compared show only one."""
        parts = pd.factorize(np.array(images.parts, object))[0]
        chosen = self._compared_with(images.names)
        if len(set(parts[chosen].tolist())) < 2:
            raise ArtifactError(
                f"{self._resources.category}: maps.method musc compares different parts, and the "
                "images show only one: add others, raise maps.references, or mend manifest.part"
            )
        return np.asarray(parts, np.int64)

    def _choose_ranks(self, features: Features, parts: NDArray[np.int64]) -> tuple[float, float]:
        """Return `maps.skip` and `maps.fraction`; `auto` looks at how alike the images lie."""
        skip, fraction = self._options.skip, self._options.fraction
        if skip == "auto" or fraction == "auto":
            ratio = musc.pose_ratio(
                features.layers[0],
                features.grid,
                parts=parts,
                half=self._half,
                device=self._resources.device,
            )
            chosen = musc.choose_ranks(ratio)
            skip = chosen[0] if skip == "auto" else skip
            fraction = chosen[1] if fraction == "auto" else fraction
        return float(skip), float(fraction)

    def _compared_with(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the numbers of the images that `maps.references` has the others compared with."""
        most = self._options.references
        if most == "auto":
            most = musc.affordable_references(len(names))
        return musc.choose_references(names, most, self._options.seed)

    def score(self, images: Images) -> Scores:
        """Compare images with the bank; image scores are maxima: re-weighting takes a set."""
        return self._against(images, "queries", "comparing")

    def score_references(self) -> References:
        """Score references as if they were new images: not against images of their own part.

        A reference whose part is the only one of the bank is left out.
        """
        bank = set(self._bank_parts)
        some = [i for i, part in enumerate(self._normals.parts) if bank - {part}]
        if not some:
            return References()
        normals = self._normals.take(some)
        what = "normal references"
        return References(normals.names, self._against(normals, what, f"comparing {what}"))

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
        own = [[part == other for other in self._bank_parts] for part in images.parts]
        with resources.tracker(step) as progress:
            patches = musc.scores_against(
                features.layers,
                [self._bank[f"layer_{k}"] for k in range(self._n_layers)],
                features.grid,
                neighbourhoods=options.neighbourhoods,
                skip=self._ranks[0],
                fraction=self._ranks[1],
                own=np.array(own, np.bool_) if self._bank_parts else None,
                half=self._half,
                device=resources.device,
                progress=progress,
            )
        return patch_and_image_scores(patches, features.grid, options)


@dataclass(frozen=True)
class AgainstBlock:
    """Images whose tokens are in `path`, and the references in `bank`, with numbers of parts."""

    path: Path
    bank: Path
    grid: tuple[int, int]
    neighbourhoods: tuple[int, ...]
    ranks: tuple[float, float]
    parts: tuple[int, ...]
    bank_parts: tuple[int, ...]
    half: bool
    device: str


def against_block(block: AgainstBlock, progress: Progress) -> Floats:
    """Return the patch scores (b, P) of the images of a block."""
    layers, bank = _in_order(read_tensors(block.path)), _in_order(read_tensors(block.bank))
    return musc.scores_against(
        layers,
        bank,
        block.grid,
        neighbourhoods=block.neighbourhoods,
        skip=block.ranks[0],
        fraction=block.ranks[1],
        own=np.array(block.parts)[:, None] == np.array(block.bank_parts),
        as_stored=True,
        half=block.half,
        device=block.device,
        progress=progress,
    )


def _named(layers: Sequence[Array]) -> dict[str, Array]:
    return {f"layer_{k}": layer for k, layer in enumerate(layers)}


def _in_order(tensors: Mapping[str, Array]) -> list[Array]:
    return [tensors[f"layer_{k}"] for k in range(len(tensors))]


def _no_image(number: int) -> NDArray[np.uint8]:
    raise IndexError(number)
