"""MuSc (ICLR 2024): zero-shot anomaly scores from the unlabelled query images alone.

A patch that has no close twin in most of the other images is anomalous. The cost is quadratic in
the number of images; memory is not, because the distances pass through a table of bounded size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.detectors.features import Allocate, Array, allocate_memory, unit_vectors
from pipeline.detectors.image_pairs import Pairs, blocks, comparing, fill_distances, fill_mutual
from pipeline.detectors.normalise import rescale, value_range
from pipeline.progress import Progress, silent

_GRAPH_ROWS = 1024
_BUDGET = 2**19
_FEWEST = 256
_SAME_POSE = 0.8
_SELF = 2.0


def patch_scores(
    layers: Sequence[Array],
    grid: tuple[int, int],
    *,
    neighbourhoods: Sequence[int] = (1, 3, 5),
    fraction: float = 0.3,
    skip: float = 0.0,
    references: NDArray[np.int64] | None = None,
    parts: NDArray[np.int64] | None = None,
    memory_mb: float = 1024,
    half: bool = False,
    device: torch.device | str = "cpu",
    allocate: Allocate = allocate_memory,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Score every patch by mutual comparison, averaged over layers and neighbourhood sizes.

    `layers` holds the layer-normalised tokens (N, P, D) of each layer. Returns (N, P) float32, the
    mean distance, in [0, 2]. See `mutual_scores` for the score of one layer and size, and for
    the other arguments. `progress` counts images x layers x sizes.
    Raises ValueError for fewer than two images (or references).
    """
    n, p, _ = layers[0].shape
    runs = [(layer, size) for layer in layers for size in neighbourhoods]
    total = np.zeros((n, p), np.float32)
    prepared: Array | None = None
    for k, (layer, size) in enumerate(runs):
        if prepared is None or prepared.shape != layer.shape or prepared.dtype != layer.dtype:
            prepared = allocate(layer.shape, layer.dtype)
        unit_features(layer, grid, size, out=prepared)
        total += mutual_scores(
            prepared,
            fraction=fraction,
            skip=skip,
            references=references,
            parts=parts,
            memory_mb=memory_mb,
            half=half,
            device=device,
            progress=_part(progress, k, len(runs)),
        )
    return total / np.float32(len(runs))


def choose_references(names: Sequence[str], references: int | None, seed: int) -> NDArray[np.int64]:
    """Return the sorted indices of the images to compare with: all, or so many by name.

    A name and the seed decide whether an image is taken, not the order nor, but for the last ones,
    what other images there are. The names of the stages are hashes of the images' content. Raises
    ValueError for fewer than two images or references.
    """
    count = len(names)
    if count < 2:
        raise ValueError(
            f"MuSc compares images with each other and needs at least 2, got {count}: add images "
            "or use maps.method patchcore with normal references"
        )
    if references is None or references >= count:
        return np.arange(count)
    if references < 2:
        raise ValueError(f"references must be at least 2, got {references}")
    ranks = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
    chosen = sorted(range(count), key=ranks.__getitem__)[:references]
    return np.sort(np.array(chosen, np.int64))


def affordable_references(count: int) -> int:
    """Return how many of the images to compare with: all up to 724, then fewer, but 256 at least.

    The cost is count x references products of images, of which the budget is 2^19.
    """
    return min(count, max(_FEWEST, _BUDGET // max(count, 1)))


def unit_features(layer: Array, grid: tuple[int, int], size: int, *, out: Array) -> None:
    """Write L2-normalised neighbourhood means of tokens (N, P, D) into `out`; zeros stay zeros."""
    for start in range(0, len(layer), 16):
        tokens = torch.from_numpy(np.asarray(layer[start : start + 16], np.float32))
        out[start : start + 16] = unit_vectors(tokens, grid, size).numpy()


@torch.inference_mode()
def pose_ratio(
    layer: Array,
    grid: tuple[int, int],
    *,
    parts: NDArray[np.int64] | None = None,
    sample: int = 24,
    half: bool = False,
    device: torch.device | str = "cpu",
) -> float:
    """Return how much nearer an image's nearest tenth of images is to it than half of them are.

    For `sample` images, evenly spaced in a layer (N, P, D), the mean over patches of the distance
    to the nearest patch of each other image; the tenth percentile of these over the median; the
    median over the sample. Near 1 where all images show the same thing alike, lower where parts lie
    anyhow and few images share a pose. Images of its own one of `parts` (N,) are left out.
    """
    n, p, d = layer.shape
    shown = np.arange(n) if parts is None else parts
    if len(np.unique(shown)) < 2:
        raise ValueError(f"poses are of at least 2 images of different parts, got {n} images")
    unit = np.empty((n, p, d), np.float16)
    unit_features(layer, grid, 1, out=unit)
    numbers = np.unique(np.linspace(0, n - 1, min(sample, n)).astype(int))
    ratios = []
    with comparing(device, half=half) as pairs:
        table = np.empty((len(numbers), n, p), pairs.dtype)
        fill_distances(table, unit[numbers], unit, np.arange(n), pairs)
    for i, squared in zip(numbers, table, strict=True):
        others = squared[shown != shown[i]].astype(np.float32)
        means = np.sqrt(others).mean(axis=1)
        ratios.append(np.quantile(means, 0.1, method="lower") / max(float(np.median(means)), 1e-6))
    return float(np.median(ratios))


def choose_ranks(ratio: float) -> tuple[float, float]:
    """Return `skip` and `fraction` for a set with this `pose_ratio`.

    Where parts lie anyhow (below 0.8) only the nearest 5 % of images show a part as it lies here.
    Elsewhere 5 to 30 %: the nearest may be the same part again, or share the defect.
    """
    return (0.0, 0.05) if ratio < _SAME_POSE else (0.05, 0.3)


@torch.inference_mode()
def scores_against(
    layers: Sequence[Array],
    bank: Sequence[Array],
    grid: tuple[int, int],
    *,
    neighbourhoods: Sequence[int] = (1, 3, 5),
    fraction: float = 0.3,
    skip: float = 0.0,
    own: NDArray[np.bool_] | None = None,
    as_stored: bool = False,
    half: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Score the patches (N, P, D) of new images against those of a bank (R, P, D), per layer.

    As `patch_scores`, but for the images compared with: the score of an image does not depend on
    which others are scored beside it. Returns (N, P) float32. `own` (N, R) tells which images of
    the bank show the same part, and are left out; scores are infinite where that is all.
    `as_stored` keeps unit vectors in the dtype of the layers, as `patch_scores` does. The cost
    is N R products of images; memory that of the bank in float32, and 4 P R bytes. Raises
    ValueError for an empty bank.
    """
    n, p, _ = layers[0].shape
    runs = [(k, size) for k in range(len(layers)) for size in neighbourhoods]
    total = np.zeros((n, p), np.float32)
    for done, (k, size) in enumerate(runs):
        r = len(bank[k])
        if r == 0:
            raise ValueError("the bank of reference images is empty: run the stage 'maps' again")
        stored, new = (
            np.empty(a.shape, a.dtype if as_stored else np.float32) for a in (bank[k], layers[k])
        )
        unit_features(bank[k], grid, size, out=stored)
        unit_features(layers[k], grid, size, out=new)
        report = _part(progress, done, len(runs))
        with comparing(device, half=half) as pairs:
            group = pairs.group(p)
            table = np.empty((min(group, n), r, p), pairs.dtype)
            for images in blocks(0, n, group):
                part = table[: images.stop - images.start]
                fill_distances(part, new[images], stored, np.arange(r), pairs)
                for i, distances in enumerate(part, images.start):
                    left_out = np.zeros(r, np.bool_) if own is None else own[i]
                    total[i] += _lowest_mean(distances, left_out, fraction, skip)
                report(images.stop, n)
    return total / np.float32(len(runs))


@torch.inference_mode()
def mutual_scores(
    features: Array,
    *,
    fraction: float = 0.3,
    skip: float = 0.0,
    references: NDArray[np.int64] | None = None,
    parts: NDArray[np.int64] | None = None,
    memory_mb: float = 1024,
    half: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Score patches (N, P, D) of unit length against the patches of the other images.

    For each patch and each other (reference) image, the smallest Euclidean distance to that image's
    patches; the score is the mean of the lowest floor(fraction * others) of these but for the very
    lowest floor(skip * others), at least one. MuSc, equations 3 to 5, has no `skip`: it keeps a
    few images of the same part, or a defect that recurs, from vouching for each other. Returns
    (N, P) float32. `parts` (N,) number the part that each image shows (None: each its own): an
    image is not compared with those of its own part. Raises ValueError if that leaves it none.

    `references` are sorted indices of the R images that serve for comparison (None: all). The cost
    is N R products of images, or N^2 / 2 with all of them, as long as the table of distances,
    4 P R bytes an image, fits into `memory_mb` for all images; up to N^2 when only a band of images
    fits at a time. One image always fits. Distances below about 1e-3 carry rounding errors of that
    order, as they are taken from cosines in float32. `half` takes cosines in bfloat16, twice as
    fast with AMX: each may err by 0.002, which the mean over images levels out.
    """
    n, p, _ = features.shape
    columns = np.arange(n) if references is None else references
    if n < 2 or len(columns) < 2:
        raise ValueError(f"MuSc needs at least 2 images, got {n} with {len(columns)} references")
    shown = np.arange(n) if parts is None else parts
    if len(np.unique(shown[columns])) < 2:
        raise ValueError("MuSc compares images of different parts, and all are of one part")
    scores = np.empty((n, p), np.float32)
    with comparing(device, half=half) as pairs:
        rows = max(1, int(memory_mb * 2**20 / (pairs.dtype.itemsize * p * len(columns))))
        for first in range(0, n, rows):
            band = slice(first, min(first + rows, n))
            table = np.empty((band.stop - first, len(columns), p), pairs.dtype)
            for done in _fill(table, features, columns, band, pairs):
                progress(first + done, n)

            def score(block: slice, table: Array = table, first: int = first) -> None:
                for row in range(block.start, block.stop):
                    own = shown[columns] == shown[row]
                    scores[row] = _lowest_mean(table[row - first], own, fraction, skip)

            pairs.map(score, blocks(first, band.stop, 1))
    return scores


def _fill(
    table: Array, features: Array, columns: NDArray[np.int64], band: slice, pairs: Pairs
) -> Iterator[int]:
    """Fill `table` (images of `band`, columns, P) with squared distances; yield finished rows.

    When every image is a column, a pair within the band is multiplied once for both.
    """
    inside = features[band]
    if len(columns) < len(features):
        group = pairs.group(features.shape[1])
        for block in blocks(0, len(inside), group):
            fill_distances(table[block], inside[block], features, columns, pairs)
            yield block.stop
        return
    done = 0
    for stop in fill_mutual(table[:, band], inside, pairs):
        for outside in (slice(0, band.start), slice(band.stop, len(columns))):
            others = columns[outside]
            fill_distances(table[done:stop, outside], inside[done:stop], features, others, pairs)
        done = stop
        yield stop


def _lowest_mean(
    table: Array, own: NDArray[np.bool_], fraction: float, skip: float
) -> NDArray[np.float32]:
    """Mean distance to a share of the other images, the nearest that `skip` leaves, (P,).

    `table` (R, P) holds squared distances; images that are `own` (R,) are left out.
    """
    others = np.ascontiguousarray(table[~own].T, np.float32)  # (P, R)
    keep = max(1, int(fraction * others.shape[1] + 1e-9))
    first = min(int(skip * others.shape[1] + 1e-9), keep - 1)
    others.sort(axis=1)  # vectorised, so faster than a partition
    return np.asarray(np.sqrt(others[:, first:keep]).mean(axis=1), np.float32)


def _part(progress: Progress, index: int, runs: int) -> Progress:
    """Return the progress of one of `runs` equal runs."""

    def report(done: int, total: int) -> None:
        progress(index * total + done, runs * total)

    return report


def reweight_scores(
    scores: NDArray[np.floating[Any]],
    class_tokens: NDArray[np.floating[Any]],
    ks: Sequence[int] = (1, 2, 3),
) -> NDArray[np.float32]:
    """Smooth image scores (N,) over a graph of class tokens (N, D); RsCIN, MuSc section 3.4.

    Scores are min-maxed over the set, then averaged over each image's k nearest images by cosine,
    itself included, weighted by that cosine; the mean over `ks` is returned, (N,) float32 in
    [0, 1]. Negative cosines count as 0. Equal scores give zeros; k above N means all images; of
    equally near images any may be taken.
    """
    if len(scores) != len(class_tokens):
        raise ValueError(f"{len(scores)} scores for {len(class_tokens)} class tokens")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be positive numbers of neighbours, got {list(ks)}")
    low, high = value_range(scores)
    flat = torch.from_numpy(rescale(scores, low, high))
    tokens = functional.normalize(torch.from_numpy(np.asarray(class_tokens, np.float32)), dim=1)
    parts = []
    for start in range(0, len(tokens), _GRAPH_ROWS):
        cosines = tokens[start : start + _GRAPH_ROWS] @ tokens.T  # (b, N)
        rows = torch.arange(len(cosines))
        cosines[rows, rows + start] = _SELF  # itself is always the nearest, duplicates or not
        near = cosines.topk(min(max(ks), len(tokens)), dim=1)
        weights, values = near.values.clamp(0, 1), flat[near.indices]  # (b, K)
        means = [(weights[:, :k] * values[:, :k]).sum(1) / weights[:, :k].sum(1) for k in ks]
        parts.append(torch.stack(means).mean(0))
    return np.asarray(torch.cat(parts).numpy(), np.float32)
