"""The detector `nearest`: distances to the nearest normal patches, on one scale.

One memory bank for each run, a layer at a neighbourhood size. What held-out references have sets
the scale of every run and of the image scores; both are kept for new images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.config.params import Compute
from pipeline.detectors.base import Detector, Images, References, Scores
from pipeline.detectors.calibration import (
    Calibration,
    Scale,
    calibrate,
    fused_scores,
    joint_map,
)
from pipeline.detectors.features import Allocate, Array, Features, allocate_memory
from pipeline.detectors.nearest import Bank, build_bank, distances
from pipeline.executor import blocks, distributed, map_shards
from pipeline.inference.map_scores import PartNumbers, on_grid, some_references
from pipeline.inference.patch_features import PatchFeatures, Resources
from pipeline.io.images import ListedImages
from pipeline.io.paths import ArtifactError
from pipeline.io.stored import read_tensors, write_tensors
from pipeline.mgvit.precision import uses_bfloat16
from pipeline.progress import Progress

Floats = NDArray[np.float32]

_REFERENCES = 200
"""Parts at most whose references calibrate: a limit at a rate of 5 % needs some of each side."""

_IMAGES_OF_A_BLOCK, _IMAGES_AT_ONCE = 64, 16
"""Images of a task of a cluster, and those whose tokens it holds: multiples of all batches."""


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
        parts = self._parts.shared(images)
        files, folder = images.read, self._resources.folder
        if distributed() and isinstance(files, ListedImages) and folder is not None:
            found, grid = self._in_blocks(images, files, parts, folder)
        else:
            found, grid = self.compare(images, parts, self._resources.scratch())
        if not all(np.isfinite(run).all() for run in found):
            raise ArtifactError(
                f"{self._resources.category}: an image shows the only part of the normal "
                "references that is in a bank; add references of others, or mend manifest.part"
            )
        return self._scores(found, grid)

    def compare(
        self, images: Images, parts: NDArray[np.int64] | None, allocate: Allocate
    ) -> tuple[list[Floats], tuple[int, int]]:
        """Return the distances (N, P) of every run, and the grid of the P patches.

        `parts` (N,) are the numbers of the images' parts among the references; None: no reference
        shows any of them.
        """
        features = self._features(images, "queries", allocate)
        return self._distances(features, "comparing", parts), features.grid

    def _in_blocks(
        self,
        images: Images,
        files: ListedImages,
        parts: NDArray[np.int64] | None,
        folder: Path,
    ) -> tuple[list[Floats], tuple[int, int]]:
        """Do the same as `compare` in blocks of images, whose workers read the banks from files."""
        banks = self.write_banks(folder.absolute() / "banks.safetensors")
        items = blocks(len(images), shard=_IMAGES_OF_A_BLOCK)
        shards = [
            CompareBlock(
                banks,
                self._options.model_dump_json(by_alias=True),
                self._resources.compute.model_dump_json(by_alias=True),
                self._resources.backbone.absolute(),
                self._resources.category,
                files.some(rows),
                None if parts is None else tuple(parts[rows.start : rows.stop].tolist()),
            )
            for rows in items
        ]
        with self._resources.tracker("features and comparing") as progress:
            found = map_shards(compare_block, shards, items=items, progress=progress)
        runs = [np.concatenate(run) for run in zip(*(runs for runs, _ in found), strict=True)]
        return runs, found[0][1]

    def write_banks(self, path: Path) -> Path:
        """Write patches and owners of the banks for `read_banks`; return `path`."""
        tensors: dict[str, Array | NDArray[np.int64]] = {}
        for k, bank in enumerate(self._banks):
            tensors |= {f"patches_{k}": bank.patches, f"owners_{k}": bank.owners}
        write_tensors(path, tensors)
        return path

    def read_banks(self, path: Path) -> None:
        """Take over the banks of another process, which may `compare` then."""
        tensors = read_tensors(path)
        self._banks = [
            Bank(tensors[f"patches_{k}"], tensors[f"owners_{k}"]) for k in range(len(self._runs))
        ]

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


@dataclass(frozen=True)
class CompareBlock:
    """Images that a block compares with the banks of a file.

    `options` and `compute` are the sections as JSON, `parts` the images' parts by number.
    """

    banks: Path
    options: str
    compute: str
    backbone: Path
    category: str
    files: ListedImages
    parts: tuple[int, ...] | None


def compare_block(block: CompareBlock, progress: Progress) -> tuple[list[Floats], tuple[int, int]]:
    """Return the distances (b, P) of every run, and the grid; few images are held at a time.

    They go through the ViT in the batches of a run in one process: the same bits come out.
    """
    detector = _detector(block.banks, block.options, block.compute, block.backbone, block.category)
    count = len(block.files.files)
    found = []
    for start in range(0, count, _IMAGES_AT_ONCE):
        rows = range(start, min(start + _IMAGES_AT_ONCE, count))
        files = block.files.some(rows)
        images = Images([str(file) for file in files.files], files)
        parts = None if block.parts is None else np.array(block.parts[rows.start : rows.stop])
        found.append(detector.compare(images, parts, allocate_memory))
        progress(rows.stop, count)
    runs = [np.concatenate(run) for run in zip(*(runs for runs, _ in found), strict=True)]
    return runs, found[0][1]


@lru_cache(maxsize=1)
def _detector(
    banks: Path, options: str, compute: str, backbone: Path, category: str
) -> NearestPatches:
    """Return the detector of a run, which a worker keeps from block to block."""
    resources = Resources(backbone, Compute.model_validate_json(compute), category)
    detector = NearestPatches(Maps.model_validate_json(options), resources)
    detector.read_banks(banks)
    return detector


def _rows(scales: Sequence[Scale]) -> Floats:
    return np.array([(scale.mean, scale.spread) for scale in scales], np.float32)


def _scales(rows: Array) -> tuple[Scale, ...]:
    return tuple(Scale(float(mean), float(spread)) for mean, spread in rows[:])
