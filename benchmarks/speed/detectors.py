"""MuSc and PatchCore, on patch features as the stage `maps` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.plain import detectors as plain_detectors
from benchmarks.speed.harness import Row, Timing, check, compare, interleaved, peak_mb
from benchmarks.speed.inputs import Inputs, spread
from pipeline.config.params import Evaluate
from pipeline.detectors import musc as our_musc
from pipeline.detectors import patchcore
from pipeline.detectors.features import Array, extract, resize, upsample
from pipeline.detectors.normalise import rescale
from pipeline.evaluation.localization import ProCurve
from pipeline.inference.map_settings import geometry
from pipeline.io.images import read_image, read_mask
from pipeline.io.map_files import mask_to_map
from pipeline.io.schemas import IMAGES, MASKS
from pipeline.io.tables import read_parquet
from pipeline.mgvit.backbone import forward_features, normalization
from pipeline.mgvit.precision import autocast_for

MAP_SIZE, PROJECTED, KEEP = 256, 128, 10000
PLAIN_CENTRES = 100
"""So many of the centres are chosen the plain way: each costs the same."""


@dataclass(frozen=True)
class Patches:
    """Layer-normalised tokens (N, P, D) of each layer, and masks (S, S) of the N images."""

    layers: tuple[Array, ...]
    grid: tuple[int, int]
    masks: list[NDArray[np.float32]]

    def aupro(self, scores: NDArray[np.float32]) -> float:
        """Return the AUPRO up to 30 % of patch scores (N, P), normalised over the set."""
        maps = rescale(upsample(scores, self.grid, MAP_SIZE), float(scores.min()), scores.max())
        curve = ProCurve()
        for amap, mask in zip(maps, self.masks, strict=True):
            curve.add(amap, mask)
        return float(curve.aupro(max_fpr=Evaluate().max_fpr) or 0.0)

    def vectors(self) -> Tensor:
        """Return the patches of all images as rows, layers side by side."""
        rows = slice(0, len(self.layers[0]))
        return patchcore.patch_vectors(self.layers, self.grid, rows, (1,)).flatten(0, 1)


def patches_of(inputs: Inputs, split: str, limit: int) -> Patches:
    """Run the backbone over at most `limit` images of a split."""
    folder, options = inputs.paths.manifest(inputs.category), inputs.params.maps
    images = read_parquet(folder / "images.parquet", IMAGES)
    images = images[images["split"] == split]
    images = images.iloc[spread(len(images), limit)]
    vit = inputs.vit(geometry(options).resolution)

    def encode(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        with autocast_for(torch.device("cpu"), inputs.params.compute.dtype):
            return forward_features(vit, pixels, layers=options.layers)

    mean, std = normalization(vit)
    size, grid = vit.patch_embed.img_size, vit.patch_embed.grid_size
    pixels = (resize(read_image(inputs.root / path), size) for path in images["path"])
    found = extract(encode, pixels, len(images), grid, mean=mean, std=std)
    table = read_parquet(folder / "masks.parquet", MASKS)
    files = dict(zip(table["sample_id"], table["mask_path"], strict=True))
    masks = [
        mask_to_map(read_mask(inputs.root / files[sample]), MAP_SIZE)
        if sample in files
        else np.zeros((MAP_SIZE, MAP_SIZE), np.float32)
        for sample in images["sample_id"]
    ]
    return Patches(found.layers, found.grid, masks)


def musc(inputs: Inputs) -> Row:
    """Time one layer and neighbourhood."""
    patches = patches_of(inputs, "query", 60)
    n, p, width = patches.layers[0].shape
    features = np.empty((n, p, width), np.float32)
    our_musc.unit_features(
        np.asarray(patches.layers[0][:], np.float32), patches.grid, 1, out=features
    )
    tensor = torch.from_numpy(features)
    plain, ours = plain_detectors.mutual_scores(tensor).numpy(), our_musc.mutual_scores(features)
    a, b = patches.aupro(plain), patches.aupro(ours)
    check(abs(a - b) < 0.002, f"MuSc: AUPRO {a:.4f} plain, {b:.4f} ours")
    difference = float(np.abs(plain - ours).max())
    check(difference < 2e-3, f"MuSc: scores differ by {difference:.1e}")
    return compare(
        f"MuSc, one layer and neighbourhood, {n} images x {p} patches of {inputs.category}",
        ">= 4x",
        "",
        lambda: plain_detectors.mutual_scores(tensor),
        lambda: our_musc.mutual_scores(features),
        repeats=3,
        per=1,
        equal=f"scores to {difference:.0e}, AUPRO {a:.4f} and {b:.4f}",
    )


def coreset(inputs: Inputs) -> Row:
    """Time the choice of a memory bank among the normal patches, and a search for as many.

    Both ways choose on the same random projection. The plain choice is timed over its first
    centres, the search over some images; both are scaled.
    """
    wide, query = patches_of(inputs, "normal", 10**9).vectors(), patches_of(inputs, "query", 150)
    matrix = np.random.default_rng(0).standard_normal((wide.shape[1], PROJECTED)) / PROJECTED**0.5
    points, asked = wide @ torch.from_numpy(matrix.astype(np.float32)), query.vectors()
    keep = min(KEEP, len(points) // 4)
    centres = min(PLAIN_CENTRES, keep)
    chosen = patchcore.k_centre(points, keep).tolist()
    expected = plain_detectors.k_centre(points, centres)
    same = sum(a == b for a, b in zip(expected, chosen, strict=False)) / centres
    check(same > 0.9, f"coreset: only {same:.0%} of the first {centres} centres are the same")
    bank = wide[chosen]
    shape = (len(query.masks), -1)
    plain = plain_detectors.nearest_distances(asked, bank).numpy().reshape(shape)
    ours = patchcore.patch_distances(query.layers, query.grid, bank.numpy())[0].reshape(shape)
    a, b = query.aupro(plain), query.aupro(ours)
    check(abs(a - b) < 0.002, f"coreset: AUPRO {a:.4f} plain, {b:.4f} ours")

    choice = interleaved(
        lambda: plain_detectors.k_centre(points, centres),
        lambda: patchcore.k_centre(points, keep),
        repeats=3,
    )
    search = interleaved(
        lambda: plain_detectors.nearest_distances(asked, bank),
        lambda: patchcore.patch_distances(query.layers, query.grid, bank.numpy()),
        repeats=3,
    )
    scale, part = len(points) / len(asked), keep / centres
    both = Timing(
        tuple(c * part + s * scale for c, s in zip(choice.plain, search.plain, strict=True)),
        tuple(c + s * scale for c, s in zip(choice.ours, search.ours, strict=True)),
    )
    return both.row(
        f"PatchCore, {keep} of {len(points)} patches of {inputs.category}, and search for as many",
        ">= 5x",
        plain_mb=peak_mb(lambda: plain_detectors.k_centre(points, centres)),
        ours_mb=peak_mb(lambda: patchcore.k_centre(points, keep)),
        equal=f"{same:.0%} of the first {centres} centres, AUPRO {a:.4f} and {b:.4f}",
        notes=[f"plain from {centres} centres, the search from {len(asked)} patches"],
    )
