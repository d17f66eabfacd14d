"""Nearest normal patch: distances of patches to memory banks of normal references.

One bank for each run, a layer at a neighbourhood size, thinned by k-centre: 10,000 patches that
cover the references score as all of them do (a random choice does not). After PatchCore (CVPR 2022)
and AnomalyDINO (WACV 2025); `pipeline.detectors.calibration` joins the runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pipeline.detectors.features import Array, unit_vectors
from pipeline.detectors.patchcore import k_centre
from pipeline.progress import Progress, silent

Run = tuple[int, int]
"""Index of a layer, and neighbourhood size."""

_PROJECTED = 128
_BLOCK = 16
_COLUMNS = 8192


@dataclass(frozen=True)
class Bank:
    """Normal patches: unit vectors (M, D) float16, and the part that each is of, (M,) int64."""

    patches: NDArray[np.float16]
    owners: NDArray[np.int64]

    def without(self, part: int) -> Bank:
        """Return the bank without the patches of one part."""
        others = self.owners != part
        return Bank(self.patches[others], self.owners[others])


@torch.inference_mode()
def build_bank(
    layer: Array,
    grid: tuple[int, int],
    size: int,
    *,
    owners: ArrayLike | None = None,
    keep: int = 10_000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Bank:
    """Thin the patches of normal images, tokens (N, P, D) of a layer, to `keep` by `k_centre`.

    `owners` (N,) says which part each image shows (None: each its own); copies of an image, rotated
    say, share one. Distances for the choice are taken after a random projection to 128 dimensions.
    Memory: 4 * 128 bytes a patch, and the bank. Raises ValueError if there are no images.
    """
    n, p, d = layer.shape
    if n == 0:
        raise ValueError("a bank of normal patches needs at least one normal reference image")
    parts = np.arange(n) if owners is None else np.asarray(owners, np.int64)
    if parts.shape != (n,):
        raise ValueError(f"owners of shape {parts.shape} for {n} images")
    generator = np.random.default_rng(seed)
    matrix = torch.from_numpy(_projection(d, generator)).to(device)
    small = torch.empty(n * p, matrix.shape[1], device=device)
    for start in range(0, n, _BLOCK):
        vectors = _vectors(layer, slice(start, start + _BLOCK), grid, size).to(device)
        small[start * p : (start + _BLOCK) * p] = vectors.flatten(0, 1) @ matrix
    first = int(generator.integers(n * p))
    chosen = np.sort(k_centre(small, keep, start=first, progress=progress))
    return Bank(_gather(layer, grid, size, chosen), parts[chosen // p])


def _vectors(layer: Array, images: slice, grid: tuple[int, int], size: int) -> Tensor:
    return unit_vectors(torch.from_numpy(np.asarray(layer[images], np.float32)), grid, size)


def _projection(width: int, generator: np.random.Generator) -> NDArray[np.float32]:
    if width <= _PROJECTED:
        return np.eye(width, dtype=np.float32)
    matrix = generator.standard_normal((width, _PROJECTED)) / _PROJECTED**0.5
    return np.asarray(matrix, np.float32)


def _gather(
    layer: Array, grid: tuple[int, int], size: int, chosen: NDArray[np.int64]
) -> NDArray[np.float16]:
    """Return the vectors of the patches numbered `chosen` (sorted, over images x patches)."""
    n, p, d = layer.shape
    patches = np.empty((len(chosen), d), np.float16)
    for start in range(0, n, _BLOCK):
        low, high = np.searchsorted(chosen, [start * p, (start + _BLOCK) * p])
        if high > low:
            vectors = _vectors(layer, slice(start, start + _BLOCK), grid, size).flatten(0, 1)
            patches[low:high] = vectors[torch.from_numpy(chosen[low:high] - start * p)].numpy()
    return patches


@torch.inference_mode()
def distances(
    layer: Array,
    grid: tuple[int, int],
    size: int,
    bank: Bank,
    *,
    parts: Sequence[int] | None = None,
    images: Sequence[int] | None = None,
    half: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Return the Euclidean distances (N, P) of patches to the nearest patch of `bank`, in [0, 2].

    `layer` holds the tokens (N, P, D) of the images. With `parts` an image is compared with the
    patches of other parts than its own alone; infinite where there are none. `parts` are those of
    all images, or of the numbered `images` (K,): only those are compared then, and (K, P) is
    returned. `half` looks for the nearest patch in bfloat16 (twice as fast with AMX). Its distance
    is exact either way, and the patch found is at most about 1 % farther than the nearest.
    """
    if parts is not None:
        numbers = range(len(layer)) if images is None else images
        return _held_out(layer, grid, size, bank, numbers, parts, half, device, progress)
    n, p, _ = layer.shape
    found = np.full((n, p), np.inf, np.float32)
    stored = _columns(bank, device, half)
    step = max(1, _BLOCK // 4)
    for start in range(0, n, step):
        block = slice(start, min(start + step, n))
        queries = _vectors(layer, block, grid, size).to(device)
        near = _nearest(queries.flatten(0, 1), stored)
        found[block] = near.view(-1, p).cpu().numpy()
        progress(block.stop, n)
    return found


def _held_out(
    layer: Array,
    grid: tuple[int, int],
    size: int,
    bank: Bank,
    images: Sequence[int],
    parts: Sequence[int],
    half: bool,
    device: torch.device | str,
    progress: Progress,
) -> NDArray[np.float32]:
    """Return the distances (K, P) of some images to the patches of other parts than theirs."""
    found = np.full((len(images), layer.shape[1]), np.inf, np.float32)
    owners = set(bank.owners.tolist())
    whole = _columns(bank, device, half)
    for row, (image, part) in enumerate(zip(images, parts, strict=True)):
        others = _columns(bank.without(part), device, half) if part in owners else whole
        if others:
            queries = _vectors(layer, slice(image, image + 1), grid, size).to(device)
            found[row] = _nearest(queries[0], others).cpu().numpy()
        progress(row + 1, len(images))
    return found


Columns = list[tuple[Tensor, Tensor]]
"""Blocks of a bank: the vectors (m, D) float32, and as they are searched."""


def _columns(bank: Bank, device: torch.device | str, half: bool) -> Columns:
    blocks = torch.split(torch.from_numpy(bank.patches).to(device).float(), _COLUMNS)
    return [(block, block.bfloat16() if half else block) for block in blocks if len(block)]


def _nearest(queries: Tensor, columns: Columns) -> Tensor:
    """Distances (Q,) of unit vectors (Q, D) to the nearest column, by the largest cosine."""
    best = torch.full((len(queries),), torch.inf, device=queries.device)
    for exact, searched in columns:
        index = (queries.to(searched.dtype) @ searched.T).argmax(1)
        best = torch.minimum(best, (queries - exact[index]).norm(dim=1))
    return best
