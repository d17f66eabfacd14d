"""PatchCore (CVPR 2022): distance of each patch to a memory bank of normal patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.detectors.features import Array, neighbourhood_mean
from pipeline.progress import Progress, silent

_PROJECTED = 128
_BLOCK = 16
_COLUMNS = 4096
_POOL = 4096
"""Far points among which k-centre looks for the next one before it looks at all again."""
_PRODUCTS = 2**22
"""Distances of one block when all points catch up."""


def bank(
    layers: Sequence[Array],
    grid: tuple[int, int],
    *,
    neighbourhoods: Sequence[int] = (1,),
    ratio: float = 0.1,
    maximum: int = 10000,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Build the memory bank from the tokens (N, P, D) of normal images, one array a layer.

    Tokens become `patch_vectors`, and are thinned by `k_centre` to ceil(ratio * N * P) patches,
    `maximum` at most. Distances for that are taken after a random projection to 128 dimensions
    (none if there are no more than that). Returns the bank (M, V) and the image of each of its
    patches (M,), 0 to N - 1. PatchCore, algorithm 1.
    Memory: 8 * 128 bytes a patch beside the layers.
    Raises ValueError if there are no normal images.
    """
    if not layers or len(layers[0]) == 0:
        raise ValueError(
            "PatchCore needs normal reference images and the split 'normal' is empty: "
            "give some, or use maps.method musc"
        )
    n, p, _ = layers[0].shape
    keep = min(maximum, max(1, int(np.ceil(ratio * n * p))))
    generator = np.random.default_rng(seed)
    width = sum(layer.shape[2] for layer in layers) * len(neighbourhoods)
    matrix = torch.from_numpy(_projection(width, generator)).to(device)
    small = torch.empty(n * p, matrix.shape[1], device=device)
    for start in range(0, n, _BLOCK):
        block = slice(start, start + _BLOCK)
        patches = patch_vectors(layers, grid, block, neighbourhoods).to(device)
        small[start * p : (start + _BLOCK) * p] = patches.flatten(0, 1) @ matrix
    start_at = int(generator.integers(n * p))
    chosen = np.sort(k_centre(small, keep, start=start_at, progress=progress))
    return _gather(layers, grid, neighbourhoods, chosen), chosen // p


def patch_vectors(
    layers: Sequence[Array], grid: tuple[int, int], images: slice, neighbourhoods: Sequence[int]
) -> Tensor:
    """Return the vectors of the patches of some images, (b, P, V) float32.

    The tokens of each layer, averaged over r x r patches for each r of `neighbourhoods`, are
    joined: V is the sum of the layers' D times the number of neighbourhoods. The published
    PatchCore has one neighbourhood, 3.
    """
    tokens = [torch.from_numpy(np.asarray(layer[images], np.float32)) for layer in layers]
    means = [neighbourhood_mean(layer, grid, r) for layer in tokens for r in neighbourhoods]
    return torch.cat(means, dim=-1)


def _projection(width: int, generator: np.random.Generator) -> NDArray[np.float32]:
    if width <= _PROJECTED:
        return np.eye(width, dtype=np.float32)
    matrix = generator.standard_normal((width, _PROJECTED)) / _PROJECTED**0.5
    return np.asarray(matrix, np.float32)


def _gather(
    layers: Sequence[Array],
    grid: tuple[int, int],
    neighbourhoods: Sequence[int],
    chosen: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the patches numbered `chosen` (sorted, over images x patches) at full width."""
    n, p, _ = layers[0].shape
    parts = []
    for start in range(0, n, _BLOCK):
        low, high = np.searchsorted(chosen, [start * p, (start + _BLOCK) * p])
        if high > low:
            block = slice(start, start + _BLOCK)
            patches = patch_vectors(layers, grid, block, neighbourhoods).flatten(0, 1)
            parts.append(patches[torch.from_numpy(chosen[low:high] - start * p)])
    return np.asarray(torch.cat(parts).numpy(), np.float32)


@torch.inference_mode()
def k_centre(
    points: Tensor, keep: int, *, start: int = 0, progress: Progress = silent
) -> NDArray[np.int64]:
    """Greedy k-centre: from `start` on, take the point of (N, D) farthest from all taken so far.

    Returns `keep` indices (at most N) in the order of choice; of equally far points the first.
    Once every point has a taken duplicate the choice stops early.

    Distances to the taken points only fall, so those of a pool of far points are kept up to date,
    and the farthest of the pool is the farthest of all as long as it is above the last distances of
    all others. When it no longer is, all points catch up in one matrix product with what was taken
    since. Memory: 12 N bytes, and a block of distances, beside the points.
    """
    keep = min(keep, len(points))
    squares = (points * points).sum(1)
    nearest = torch.full_like(squares, torch.inf)  # squared, to the points of `chosen[:seen]`
    chosen, seen = [start], 0
    while len(chosen) < keep:
        _catch_up(nearest, points, squares, torch.tensor(chosen[seen:], device=points.device))
        seen = len(chosen)
        nearest[chosen] = -torch.inf
        taken = _from_pool(points, squares, nearest, keep - seen)
        if not taken:
            break  # only duplicates are left, up to rounding
        chosen += taken
        progress(len(chosen), keep)
    progress(keep, keep)
    return np.array(chosen, np.int64)


def _catch_up(nearest: Tensor, points: Tensor, squares: Tensor, new: Tensor) -> None:
    """Lower the squared distances `nearest` (N,) to those to the points numbered `new` (K,)."""
    rows = max(1, _PRODUCTS // len(new))
    centres, lengths = points[new].T * -2, squares[new]
    for start in range(0, len(points), rows):
        block = slice(start, start + rows)
        products = torch.addmm(lengths, points[block], centres)  # (rows, K)
        near = products.amin(1) + squares[block]
        torch.minimum(nearest[block], near, out=nearest[block])


def _from_pool(points: Tensor, squares: Tensor, nearest: Tensor, keep: int) -> list[int]:
    """Take the next points, `keep` at most, as long as they are sure to be the farthest of all.

    `nearest` (N,) is up to date and stays as it is. Returns none if all points left are duplicates.
    """
    size = min(_POOL, len(points) - 1)
    bound, pool = torch.topk(nearest, size + 1, sorted=True)
    others, pool = float(bound[-1]), pool[:-1].sort().values
    first = int(nearest.argmax())  # by the number of the point, where several are equally far
    if not nearest[first] > 1e-6 * squares[first]:
        return []
    taken = [first]
    candidates, lengths, distances = points[pool], squares[pool], nearest[pool]
    doubled = candidates * -2
    while len(taken) < keep:
        moved = torch.addmv(lengths, doubled, points[taken[-1]]).add_(squares[taken[-1]])
        torch.minimum(distances, moved, out=distances)
        distances[pool == taken[-1]] = -torch.inf
        at = int(distances.argmax())
        far = float(distances[at])
        if not (far > others and far > 1e-6 * float(lengths[at])):
            break
        taken.append(int(pool[at]))
    return taken


@torch.inference_mode()
def patch_distances(
    layers: Sequence[Array],
    grid: tuple[int, int],
    memory: NDArray[np.float32],
    *,
    neighbourhoods: Sequence[int] = (1,),
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the distance (N, P) of each query patch to its nearest bank patch, and its index.

    PatchCore, equation 6. Distances are Euclidean, float32; of equally near patches any one.
    """
    n, p, _ = layers[0].shape
    stored = torch.from_numpy(memory).to(device)
    squares = (stored * stored).sum(1)
    distances, indices = np.empty((n, p), np.float32), np.empty((n, p), np.int64)
    for start in range(0, n, _BLOCK):
        block = slice(start, min(start + _BLOCK, n))
        patches = patch_vectors(layers, grid, block, neighbourhoods).flatten(0, 1).to(device)
        near, index = _nearest(patches, stored, squares)
        distances[block] = near.view(-1, p).cpu().numpy()
        indices[block] = index.view(-1, p).cpu().numpy()
        progress(block.stop, n)
    return distances, indices


def held_out_distances(
    layers: Sequence[Array],
    grid: tuple[int, int],
    memory: NDArray[np.float32],
    owners: NDArray[np.int64],
    images: Sequence[int],
    *,
    parts: NDArray[np.int64] | None = None,
    neighbourhoods: Sequence[int] = (1,),
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Return the distances (R, P) of some normal `images` to the patches of the other ones.

    `memory` and `owners` are those of `bank`, `layers` what it was made from. With `parts`, which
    number the part of each image of `layers` (None: each its own), patches of other parts are
    meant. Where a part owns the whole bank its distances are infinite.
    """
    shown = np.arange(len(layers[0])) if parts is None else parts
    found = np.full((len(images), layers[0].shape[1]), np.inf, np.float32)
    for row, image in enumerate(images):
        others = memory[shown[owners] != shown[image]]
        if len(others):
            own = [layer[image : image + 1] for layer in layers]
            distances, _ = patch_distances(
                own, grid, others, neighbourhoods=neighbourhoods, device=device
            )
            found[row] = distances[0]
        progress(row + 1, len(images))
    return found


def _nearest(patches: Tensor, stored: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest row of `stored` by blocks of columns, then take its distance exactly."""
    best = torch.full((len(patches),), torch.inf, device=patches.device)
    index = torch.zeros(len(patches), dtype=torch.long, device=patches.device)
    for start in range(0, len(stored), _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        near, at = torch.addmm(squares[columns], patches, stored[columns].T, alpha=-2).min(1)
        closer = near < best
        best[closer], index[closer] = near[closer], at[closer] + start
    return (patches - stored[index]).norm(dim=1), index


@torch.inference_mode()
def image_scores(
    layers: Sequence[Array],
    grid: tuple[int, int],
    memory: NDArray[np.float32],
    distances: NDArray[np.float32],
    indices: NDArray[np.int64],
    *,
    neighbourhoods: Sequence[int] = (1,),
    reweight: bool = True,
    neighbours: int = 9,
) -> NDArray[np.float32]:
    """Return image scores (N,): the largest patch distance, weighted by PatchCore's equation 7.

    The weight is 1 - softmax of the distances from the worst patch to the `neighbours` bank patches
    around its nearest one (that one included), taken at the nearest one. It is left out without
    `reweight` and for a bank of one patch.
    """
    worst = distances.argmax(axis=1)
    rows = np.arange(len(worst))
    scores: NDArray[np.float32] = distances[rows, worst]
    if not reweight or len(memory) < 2:
        return scores
    stored = torch.from_numpy(memory)
    weights = np.empty(len(worst), np.float32)
    for row in rows:
        block = slice(row, row + 1)
        vector = patch_vectors(layers, grid, block, neighbourhoods)[0, worst[row]]
        nearest = int(indices[row, worst[row]])
        spread = (stored - stored[nearest]).norm(dim=1)
        spread[nearest] = -1  # itself first, duplicates or not
        around = spread.topk(min(neighbours, len(stored)), largest=False).indices
        weights[row] = 1 - float(torch.softmax((vector - stored[around]).norm(dim=1), 0)[0])
    scores *= weights
    return scores
