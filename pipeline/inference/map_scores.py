"""Patch scores as scores of images and as maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.detectors.base import Images, Scores
from pipeline.detectors.calibration import contrast
from pipeline.detectors.features import (
    upsample,
)
from pipeline.detectors.normalise import rescale

Floats = NDArray[np.float32]

_REFERENCES = 50
"""At most so many normal references are scored: all images of so many parts."""


def patch_and_image_scores(patches: Floats, grid: tuple[int, int], options: Maps) -> Scores:
    """Return patch scores (N, P) with image scores by `contrast`, or their maxima."""
    if options.image_score != "contrast":
        return Scores(on_grid(patches, grid))
    images = contrast(patches)
    return Scores(on_grid(patches, grid), lambda maxima: images)


def on_grid(scores: Floats, grid: tuple[int, int]) -> Floats:
    return scores.reshape(len(scores), *grid)  # (N, P) -> (N, h, w)


def some_references(parts: Sequence[str], seed: int, most: int = _REFERENCES) -> list[int]:
    """Draw at most `most` parts of references whose `parts` these are.

    Returns the numbers of all their images, sorted: the highest score of a part needs every one.
    """
    owners, names = pd.factorize(np.array(parts, object))
    drawn = pd.Series(range(len(names))).sample(min(most, len(names)), random_state=seed)
    return np.flatnonzero(np.isin(owners, drawn)).tolist()


class PartNumbers:
    """Numbers of the parts of references, and of the same parts among other images."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        for name in names:
            self._numbers.setdefault(name, len(self._numbers))

    def __call__(self, parts: Sequence[str]) -> NDArray[np.int64]:
        """Return the numbers (N,) of parts; -1 for those that no reference shows."""
        return np.array([self._numbers.get(part, -1) for part in parts], np.int64)

    def shared(self, images: Images) -> NDArray[np.int64] | None:
        """Return the numbers (N,) of the images' parts; None if no reference shows any of them."""
        numbers = self(images.parts)
        return numbers if (numbers >= 0).any() else None


def raw_maps(scores: Scores, block: slice, size: int) -> Floats:
    """Return the raw maps (b, size, size) of a block of images; the caller may overwrite them."""
    patches = np.asarray(scores.patch_scores[block], np.float32)
    grid = (patches.shape[1], patches.shape[2])
    if grid == (size, size):
        return patches.copy()
    return upsample(patches.reshape(len(patches), -1), grid, size)


def rescale_maps(raw: Floats, low: float, high: float, gamma: float) -> Floats:
    """Map [low, high] to [0, 1] in place, to the power `gamma`, map by map.

    A square root gives faint defects more of the range in which MEBin seeks its threshold.
    """
    for i, amap in enumerate(raw):  # `rescale` works in float64
        raw[i] = rescale(amap, low, high) ** gamma
    return raw
