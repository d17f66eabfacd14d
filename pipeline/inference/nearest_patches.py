"""The detector `nearest`: distances to the nearest normal patches, on one scale.

One memory bank for each run, a layer at a neighbourhood size. What held-out references have sets
the scale of every run and of the image scores; both are kept for new images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import Maps
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
from pipeline.inference.map_scores import on_grid, some_references
from pipeline.inference.patch_features import PatchFeatures, Resources
from pipeline.io.paths import ArtifactError
from pipeline.mgvit.precision import uses_bfloat16

Floats = NDArray[np.float32]

_REFERENCES = 200
"""At most so many references calibrate: a limit at a rate of 5 % needs some of each side."""


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

    def fit(self, normals: Images) -> None:
        """Build the banks, and calibrate by references that are compared with the others."""
        if len(normals) < 2:
            raise ArtifactError(
                f"{self._resources.category}: maps.method nearest needs at least 2 normal "
                f"references and the manifest's split 'normal' has {len(normals)}: add some "
                "(train/good, manifest.normal_list or manifest.normal_root) or use maps.method musc"
            )
        features = self._features(normals, "normal references", self._resources.scratch())
        self._banks = [
            self._bank(features, layer, size, f"bank {k + 1} of {len(self._runs)}")
            for k, (layer, size) in enumerate(self._runs)
        ]
        some = some_references(len(normals), self._options.seed, _REFERENCES)
        chosen = features
        if len(some) < len(normals):  # a copy in memory, of tokens that may lie in files
            layers = tuple(layer[some] for layer in features.layers)
            chosen = Features(layers, features.class_tokens[some], features.grid)
        del features
        held_out = self._distances(chosen, "comparing normal references", parts=some)
        compared = np.all([np.isfinite(run).all(axis=1) for run in held_out], axis=0)
        held_out = [run[compared] for run in held_out]
        try:
            self._calibration = calibrate(held_out, self._sizes)
        except ValueError as error:  # one image owns the whole bank
            raise ArtifactError(
                f"{self._resources.category}: the normal references show one image only: {error}; "
                "add others, or use maps.method musc"
            ) from error
        names = normals.take(np.asarray(some)[compared].tolist()).names
        self._references = References(names, self._scores(held_out, chosen.grid))

    def score(self, images: Images) -> Scores:
        """Compare images with the banks."""
        features = self._features(images, "queries", self._resources.scratch())
        return self._scores(self._distances(features, "comparing"), features.grid)

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

    def _bank(self, features: Features, layer: int, size: int, step: str) -> Bank:
        with self._resources.tracker(step) as progress:
            return build_bank(
                features.layers[layer],
                features.grid,
                size,
                keep=self._options.coreset_max,
                seed=self._options.seed,
                device=self._resources.device,
                progress=progress,
            )

    def _distances(
        self, features: Features, step: str, parts: Sequence[int] | None = None
    ) -> list[Floats]:
        """Return the distances (N, P) of every run."""
        found = []
        for k, ((layer, size), bank) in enumerate(zip(self._runs, self._banks, strict=True)):
            with self._resources.tracker(f"{step}, run {k + 1} of {len(self._runs)}") as progress:
                run = distances(
                    features.layers[layer],
                    features.grid,
                    size,
                    bank,
                    parts=parts,
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
