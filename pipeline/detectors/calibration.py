"""One scale for the distances of several runs, and the score of an image from them.

A run is a layer at a neighbourhood size. The runs of a size are averaged, then the sizes, so that
no size weighs more for having more layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_SMALLEST = 1e-6


@dataclass(frozen=True)
class Scale:
    """Where normal values lie: their mean and standard deviation (or what stands for them)."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Calibration:
    """What puts new images on the scale of a product: of each run, and of each size's image score.

    `runs` follow the order of the runs, `scores` the sizes in rising order.
    """

    runs: tuple[Scale, ...]
    scores: tuple[Scale, ...]


def calibrate(held_out: Sequence[Floats], sizes: Sequence[int]) -> Calibration:
    """Return the calibration of runs by the distances (R, P) that held-out normal references have.

    `sizes` holds the neighbourhood size of each run. References with infinite distances in a run,
    as they had nothing to be compared with, are left out. Raises ValueError without runs, or if
    no reference is left.
    """
    if not held_out:
        raise ValueError("no runs: give at least one layer and one neighbourhood size")
    compared = np.all([np.isfinite(one).all(axis=1) for one in held_out], axis=0)  # (R,)
    known = [distances[compared] for distances in held_out]
    scales = tuple(fit_scale(distances) for distances in known)
    maps = by_size(known, sizes, scales)
    return Calibration(scales, tuple(fit_scale(contrast(one)) for one in maps))


def joint_map(
    distances: Sequence[Floats], sizes: Sequence[int], calibration: Calibration
) -> Floats:
    """Return the patch scores (N, P): the mean over sizes of the mean over the runs of a size."""
    maps = by_size(distances, sizes, calibration.runs)
    return np.asarray(np.mean(maps, axis=0, dtype=np.float64), np.float32)


def fused_scores(
    distances: Sequence[Floats], sizes: Sequence[int], calibration: Calibration
) -> Floats:
    """Return the image scores (N,): the largest over sizes of the calibrated `contrast`."""
    maps = by_size(distances, sizes, calibration.runs)
    return fuse([contrast(one) for one in maps], calibration.scores)


def by_size(
    distances: Sequence[Floats], sizes: Sequence[int], scales: Sequence[Scale]
) -> list[Floats]:
    """Return the joined runs (N, P) of each size, in rising order of the sizes."""
    runs = list(zip(distances, sizes, scales, strict=True))
    if not runs:
        raise ValueError("no runs: give at least one layer and one neighbourhood size")
    groups = [[run for run in runs if run[1] == size] for size in sorted(set(sizes))]
    return [join([run[0] for run in group], [run[2] for run in group]) for group in groups]


def fit_scale(distances: Floats) -> Scale:
    """Return the scale of what held-out normal references have: distances (R, P), or scores (R,).

    Values that are not finite, of images that had nothing to be compared with, are left out. Raises
    ValueError if none is left.
    """
    values = distances[np.isfinite(distances)].astype(np.float64)
    if values.size == 0:
        raise ValueError("no finite values: a scale needs two normal references at least")
    return Scale(float(values.mean()), max(float(values.std()), _SMALLEST))


def join(runs: Sequence[Floats], scales: Sequence[Scale]) -> Floats:
    """Return the mean (N, P) over runs of distances (N, P), each in spreads above its mean."""
    if not runs:
        raise ValueError("no runs: give at least one layer and one neighbourhood size")
    total = np.zeros(runs[0].shape, np.float64)
    for distances, scale in zip(runs, scales, strict=True):
        total += (distances.astype(np.float64) - scale.mean) / scale.spread
    return (total / len(runs)).astype(np.float32)


def top_share(patches: Floats, share: float = 0.01) -> Floats:
    """Return the mean (N,) of the highest `share` of an image's patch scores (N, P).

    ceil(share * P) patches, so at least one. Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], not {share}")
    p = patches.shape[1]
    keep = int(np.ceil(share * p - 1e-9))
    highest = np.partition(patches, p - keep, axis=1)[:, p - keep :]
    return np.asarray(highest.mean(axis=1, dtype=np.float64), np.float32)


def contrast(
    patches: Floats, *, share: float = 0.005, level: float = 0.95, weight: float = 0.5
) -> Floats:
    """Return the image scores (N,): how far the top stands out of an image's own level.

    `top_share` less `weight` times the quantile `level` of the image's patch scores (N, P). A good
    part in a rare pose is a little far from all others everywhere, a defect in one place; half of
    the level remains, so that a wholly different image still scores high. Scores may be negative.
    """
    own = np.quantile(patches, level, axis=1)
    return np.asarray(top_share(patches, share) - weight * own, np.float32)


def fuse(scores: Sequence[Floats], scales: Sequence[Scale]) -> Floats:
    """Return the largest (N,) of several image scores (N,), each in spreads above its mean.

    One score for each neighbourhood size: a fine defect stands out at one, a wide faint one at
    another, and a mean would halve either.
    """
    if not scores:
        raise ValueError("no scores: give at least one neighbourhood size")
    columns = [
        (values.astype(np.float64) - scale.mean) / scale.spread
        for values, scale in zip(scores, scales, strict=True)
    ]
    return np.asarray(np.max(columns, axis=0), np.float32)
