"""Classes of images and of their regions: what `ImageClassifier` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Classification:
    """Classes of N images and of their M regions, among the C classes of the run.

    Attributes
    ----------
    classes
        (N,) int64. 0 is normal, -1 unknown: most of the image's weight is on regions unlike all of
        the run.
    names
        The N names of `classes`.
    confidence
        (N,) float64: the probability of `nearest_classes`. Of an unknown image it says which class
        is nearest, not how sure it is that none fits.
    nearest_classes
        (N,) int64: the most probable class of the run; `classes` without -1.
    probabilities
        (N, C) float32, rows summing to 1.
    scores
        (N,) float32 anomaly scores in [0, 1]: the maxima of `maps`.
    image_scores
        (N,) float32 scores of the detector, on a scale of its own: an image is normal up to the
        limit of the run.
    region_classes
        For each image the sorted classes of its regions.
    regions
        A row a region: image (0 to N - 1), x0, y0, side (its square, in pixels of the image;
        it may reach outside), area_px, score, class, confidence, unknown.
    maps
        (N, S, S) float32 in [0, 1], on the scale of the run; S is `maps.map_size`.
    """

    classes: NDArray[np.int64]
    names: list[str]
    confidence: NDArray[np.float64]
    nearest_classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    scores: NDArray[np.float32]
    image_scores: NDArray[np.float32]
    region_classes: list[list[int]]
    regions: pd.DataFrame
    maps: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.classes)


def joined(blocks: Sequence[Classification]) -> Classification:
    """Join the answers to several blocks of images."""
    whole: dict[str, Any] = {}
    for field in fields(Classification):
        parts = [getattr(block, field.name) for block in blocks]
        if field.name == "regions":
            whole[field.name] = pd.concat(parts, ignore_index=True)
        elif isinstance(parts[0], list):
            whole[field.name] = [item for part in parts for item in part]
        else:
            whole[field.name] = np.concatenate(parts)
    return Classification(**whole)
