"""Region merging (section 3.4), one image after the other.

The plain form of `pipeline.regions.merging.merge_regions`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def merge_images(
    probabilities: NDArray[np.float64],
    image_ids: list[str],
    areas: NDArray[np.float64],
    *,
    temperature: float = 100.0,
) -> dict[str, NDArray[np.float64]]:
    """Return the probabilities (C,) of each image from those of its sub-images (M, C), Eq. 6."""
    merged = {}
    for image in dict.fromkeys(image_ids):
        rows = [k for k, owner in enumerate(image_ids) if owner == image]
        roots = [math.sqrt(areas[k]) / temperature for k in rows]
        weights = [math.exp(root - max(roots)) for root in roots]
        result = np.zeros(probabilities.shape[1])
        for k, weight in zip(rows, weights, strict=True):
            result += weight / sum(weights) * probabilities[k]
        merged[image] = result
    return merged
