"""The detector `nearest`: distances to the nearest normal patches, on one scale.

One memory bank for each run, a layer at a neighbourhood size. What held-out references have sets
the scale of every run and of the image scores; both are kept for new images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.detectors.base import Detector, Images, References, Scores
from pipeline.detectors.calibration import (
    Calibration,
    Scale,
    calibrate,
    fused_scores,
    joint_map,
)
from pipeline.detectors.features import Array, Features
from pipeline.detectors.nearest import Bank, build_bank, distances
from pipeline.inference.map_scores import PartNumbers, on_grid, some_references
from pipeline.inference.patch_features import PatchFeatures, Resources
from pipeline.io.paths import ArtifactError
from pipeline.mgvit.precision import uses_bfloat16

Floats = NDArray[np.float32]

_REFERENCES = 200
"""Parts at most whose references calibrate: a limit at a rate of 5 % needs some of each side."""


class NearestPatches(Detector):
    """Distance of each patch to the nearest normal ones, for several layers and sizes.

    The distances of the layers of a size are averaged in units of held-out references (mean and
    standard deviation), the map is the mean over sizes, and the score of an image is the largest
    over sizes of how far its highest patches stand out of its own level
    (`pipeline.detectors.calibration`).
    """

    def __init__(self, options: Maps, resources: Resources) -> None:
        self._options, self._resources = options, resources
        layers = sorted({layer for layer, _ in options.runs})
        self._features = PatchFeatures(options, resources, layers)
        self._runs = [(layers.index(layer), size) for layer, size in options.runs]
        self._sizes = [size for _, size in self._runs]
        self._half = uses_bfloat16(resources.device, resources.compute.dtype)
        self._banks: list[Bank] = []
        self._calibration = Calibration((), ())
        self._references = References()
        self._parts = PartNumbers()

    def fit(self, normals: Images) -> None:
        """Build the banks, and calibrate by references that are compared with other parts."""
        if len(normals) < 2:
            raise ArtifactError(
                f"{self._resources.category}: maps.method nearest needs at least 2 normal "
                f"references and the manifest's split 'normal' has {len(normals)}: add some "
                "(train/good, manifest.normal_list or manifest.normal_root) or use maps.method musc"
            )
        features = self._features(normals, "normal references", self._resources.scratch())
        self._parts = PartNumbers(normals.parts)
        owners = self._parts(normals.parts)
        self._banks = [
            self._bank(features, layer, size, owners, f"bank {k + 1} of {len(self._runs)}")
            for k, (layer, size) in enumerate(self._runs)
        ]
        some = some_references(normals.parts, self._options.seed, _REFERENCES)
        what = "comparing normal references"
        held_out = self._distances(features, what, owners[some], images=some)
        compared = np.all([np.isfinite(run).all(axis=1) for run in held_out], axis=0)
        held_out = [run[compared] for run in held_out]
        try:
            self._calibration = calibrate(held_out, self._sizes)
        except ValueError as error:  # one image owns the whole bank
            raise ArtifactError(
                f"{self._resources.category}: the normal references show one part only: {error}; "
                "add others, or use maps.method musc"
            ) from error
        names = normals.take(np.asarray(some)[compared].tolist()).names
        self._references = References(names, self._scores(held_out, features.grid))

    def score(self, images: Images) -> Scores:
        """Compare images with the banks, but for the patches of their own parts."""
        features = self._features(images, "queries", self._resources.scratch())
        found = self._distances(features, "comparing", self._parts.shared(images))
        if not all(np.isfinite(run).all() for run in found):
            raise ArtifactError(
                f"{self._resources.category}: an image shows the only part of the normal "
                "references that is in a bank; add references of others, or mend manifest.part"
            )
        return self._scores(found, features.grid)

    def score_references(self) -> References:
        """Return the scores that `fit` found, each reference compared with the others."""
        return self._references

    def state(self) -> Mapping[str, Array]:
        """Return ``patches_k`` (M, D) float16 of each run, and the scales, rows (mean, spread)."""
        banks: dict[str, Array] = {f"patches_{k}": b.patches for k, b in enumerate(self._banks)}
        return {
            **banks,
            "run_scales": _rows(self._calibration.runs),
            "score_scales": _rows(self._calibration.scores),
        }

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over banks and scales."""
        patches = [np.asarray(state[f"patches_{k}"][:], np.float16) for k in range(len(self._runs))]
        self._banks = [Bank(p, np.zeros(len(p), np.int64)) for p in patches]
        self._calibration = Calibration(
            _scales(state["run_scales"]), _scales(state["score_scales"])
        )

    def _bank(
        self, features: Features, layer: int, size: int, owners: NDArray[np.int64], step: str
    ) -> Bank:
        with self._resources.tracker(step) as progress:
            return build_bank(
                features.layers[layer],
                features.grid,
                size,
                owners=owners,
                keep=self._options.coreset_max,
                seed=self._options.seed,
                device=self._resources.device,
                progress=progress,
            )

    def _distances(
        self,
        features: Features,
        step: str,
        parts: NDArray[np.int64] | None = None,
        images: Sequence[int] | None = None,
    ) -> list[Floats]:
        """Return the distances (N, P) of every run, of all or some images."""
        found = []
        for k, ((layer, size), bank) in enumerate(zip(self._runs, self._banks, strict=True)):
            with self._resources.tracker(f"{step}, run {k + 1} of {len(self._runs)}") as progress:
                run = distances(
                    features.layers[layer],
                    features.grid,
                    size,
                    bank,
                    parts=None if parts is None else parts.tolist(),
                    images=images,
                    half=self._half,
                    device=self._resources.device,
                    progress=progress,
                )
            found.append(run)
        return found

    def _scores(self, runs: Sequence[Floats], grid: tuple[int, int]) -> Scores:
        patches = joint_map(runs, self._sizes, self._calibration)
        images = fused_scores(runs, self._sizes, self._calibration)
        return Scores(on_grid(patches, grid), lambda maxima: images)


def _rows(scales: Sequence[Scale]) -> Floats:
    return np.array([(scale.mean, scale.spread) for scale in scales], np.float32)


def _scales(rows: Array) -> tuple[Scale, ...]:
    return tuple(Scale(float(mean), float(spread)) for mean, spread in rows[:])
