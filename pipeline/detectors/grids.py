"""The grid of patches on which the images of a set are seen: its proportions, size and tiles."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from statistics import median

Grid = tuple[int, int]
"""Rows and columns of patches."""

LEAST = 448
"""Pixels a side that images are seen at, at least: where the detectors were chosen."""
MOST = 644
"""Pixels a side beyond which an image is better cut into tiles: ViTs were trained at fewer."""
OVERLAP = 4
"""Patches that neighbouring tiles share."""
MOST_TILES = 16
"""Tiles a side, at most."""
STRETCH = 20.0
"""The longer side over the shorter one, at most: images are stretched beyond."""


def median_aspect(sizes: Iterable[tuple[int, int]]) -> float:
    """Return the median of height / width of images (H, W), to three digits, within `STRETCH`.

    Raises ValueError (`StatisticsError`) for no images.
    """
    found = round(median(height / width for height, width in sizes), 3)
    return min(max(found, 1 / STRETCH), STRETCH)


def median_side(sizes: Iterable[tuple[int, int]]) -> int:
    """Return the median side of squares as large as images (H, W), in whole pixels.

    Raises ValueError (`StatisticsError`) for no images.
    """
    return int(median((height * width) ** 0.5 for height, width in sizes))


def choose_side(smallest_defect: float, image_side: int, patch: int) -> int:
    """Return the patches a side that make the smallest defect worth finding one patch wide.

    `smallest_defect` is its share of the image's side. At least `LEAST` pixels, and beyond that no
    more than the `image_side` pixels that there are: enlarged images show nothing new.
    """
    wanted = ceil(1 / smallest_defect - 1e-9)
    return max(LEAST // patch, min(wanted, image_side // patch))


def choose_tiles(side: int, patch: int) -> int:
    """Return the fewest tiles a side that see `side` patches with `MOST` pixels each at most.

    At most `MOST_TILES`.
    """
    most = max(MOST // patch, OVERLAP + 1)
    return min(max(1, ceil((side - OVERLAP) / (most - OVERLAP))), MOST_TILES)


def tile_side(side: int, tiles: int) -> int:
    """Return the patches a side of each of `tiles` tiles a side that together see `side`."""
    return ceil((side + (tiles - 1) * OVERLAP) / tiles)


def overlap(tile: int) -> int:
    """Return the patches that neighbours share along a side of `tile` patches."""
    return min(OVERLAP, tile // 2)


def tiled_grid(tile: Grid, tiles: int) -> Grid:
    """Return the grid that `tiles` * `tiles` overlapping tiles make together."""
    rows, columns = (tiles * side - (tiles - 1) * overlap(side) for side in tile)
    return rows, columns


def tile_spans(tile: int, tiles: int) -> list[tuple[int, slice]]:
    """Return, along one side, where each tile starts and which patches of the whole it fills.

    Tiles are cut at the middle of what they share: every patch comes from the tile in which it lies
    farther from the border.
    """
    step = tile - overlap(tile)
    cuts = [0, *(i * step + overlap(tile) // 2 for i in range(1, tiles))]
    ends = [*cuts[1:], tiles * tile - (tiles - 1) * overlap(tile)]
    return [(i * step, slice(cuts[i], ends[i])) for i in range(tiles)]
