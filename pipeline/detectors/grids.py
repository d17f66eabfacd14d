"""The grid of patches on which the images of a set are seen."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

Grid = tuple[int, int]
"""Rows and columns of patches."""


def median_aspect(sizes: Iterable[tuple[int, int]]) -> float:
    """Return the median of height / width of images (H, W), to three digits.

    Raises ValueError (`StatisticsError`) for no images.
    """
    return round(median(height / width for height, width in sizes), 3)
