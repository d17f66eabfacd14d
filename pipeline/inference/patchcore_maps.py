"""The detector `patchcore`: distances to a coreset (`pipeline.detectors.patchcore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.detectors import patchcore
from pipeline.detectors.base import Detector, Images, References, Scores
from pipeline.detectors.features import (
    Array,
    Features,
)
from pipeline.inference.map_scores import (
    PartNumbers,
    on_grid,
    patch_and_image_scores,
    some_references,
)
from pipeline.inference.patch_features import PatchFeatures, Resources
from pipeline.io.paths import ArtifactError

Floats = NDArray[np.float32]


class PatchCore(Detector):
    """Distance of each patch to the nearest one of a memory bank of normal patches."""

    def __init__(self, options: Maps, resources: Resources) -> None:
        self._options, self._resources = options, resources
        self._features = PatchFeatures(options, resources, options.layers)
        self._bank: Floats = np.zeros((0, 0), np.float32)
        self._owners: NDArray[np.int64] = np.zeros(0, np.int64)
        self._parts = PartNumbers()
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
        self._parts = PartNumbers(normals.parts)
        self._owners = self._parts(normals.parts)[owners]
        if len(normals) > 1:
            self._references = self._leave_one_out(normals, features, owners)

    def _leave_one_out(
        self, normals: Images, features: Features, owners: NDArray[np.int64]
    ) -> References:
        some = some_references(normals.parts, self._options.seed)
        with self._resources.tracker("comparing normal references") as progress:
            distances = patchcore.held_out_distances(
                features.layers,
                features.grid,
                self._bank,
                owners,
                some,
                parts=self._parts(normals.parts),
                neighbourhoods=self._options.neighbourhoods,
                device=self._resources.device,
                progress=progress,
            )
        compared = np.isfinite(distances[:, 0])  # not so the one owner of a whole bank
        names = normals.take(np.asarray(some)[compared].tolist()).names
        return References(
            names, patch_and_image_scores(distances[compared], features.grid, self._options)
        )

    def score(self, images: Images) -> Scores:
        """Compare images with the bank, but for the patches of their own parts.

        Image scores are by PatchCore's equation 7.
        """
        features = self._features(images, "queries", self._resources.scratch())
        grid = features.grid
        distances = np.zeros(features.layers[0].shape[:2], np.float32)
        scores = np.zeros(len(images), np.float32)
        parts = self._parts.shared(images)
        if parts is None:
            distances, scores = self._compare(features.layers, grid, self._bank)
        else:
            for part in np.unique(parts):  # -1: those that no reference shows
                rows = np.flatnonzero(parts == part)
                others = self._bank[self._owners != part]
                if len(others) == 0:
                    raise ArtifactError(
                        f"{self._resources.category}: an image shows the only part of the normal "
                        "references in the bank; add references of others, or mend manifest.part"
                    )
                layers = [layer[rows] for layer in features.layers]
                distances[rows], scores[rows] = self._compare(layers, grid, others)
        if self._options.image_score == "published":
            return Scores(on_grid(distances, grid), lambda maxima: scores)
        return patch_and_image_scores(distances, grid, self._options)

    def _compare(
        self, layers: Sequence[Array], grid: tuple[int, int], bank: Floats
    ) -> tuple[Floats, Floats]:
        """Return distances (N, P) and image scores (N,) of images against a bank."""
        sizes = self._options.neighbourhoods
        with self._resources.tracker("comparing") as progress:
            distances, nearest = patchcore.patch_distances(
                layers,
                grid,
                bank,
                neighbourhoods=sizes,
                device=self._resources.device,
                progress=progress,
            )
        scores = patchcore.image_scores(
            layers, grid, bank, distances, nearest, neighbourhoods=sizes, reweight=True
        )
        return distances, scores

    def score_references(self) -> References:
        """Return the scores that `fit` found."""
        return self._references

    def state(self) -> Mapping[str, Array]:
        """Return the memory bank (M, V) float32, ``patches``."""
        return {"patches": self._bank}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over a memory bank."""
        self._bank = np.asarray(state["patches"], np.float32)
