"""Sub-images (section 3.2), region by region: the same as `pipeline.regions.crops` cuts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.plain.mebin import binarize_map

Pixels = NDArray[np.uint8]
Square = tuple[int, int, int]
"""x0, y0, side in pixels of the image."""


@dataclass(frozen=True)
class Crop:
    """One sub-image: `image` (S, S, 3) and `mask` (S, S) in {0, 1}, where it lies, its area."""

    square: Square
    image: Pixels
    mask: Pixels
    area_px: int
    score: float


def image_crops(
    path: Path,
    amap: NDArray[np.float32],
    s_min: float,
    s_max: float,
    *,
    size: int = 256,
    padding: float = 0.1,
    smallest_side: float = 0.2,
    merge_distance: float = 0.01,
) -> list[Crop]:
    """Binarize the map of an image file and cut the delta* + 1 largest sub-images out of it."""
    pixels = np.array(Image.open(path).convert("RGB"))
    small, count = binarize_map(amap, s_min, s_max)
    height, width = pixels.shape[:2]
    mask = cv2.resize(
        small.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    rescaled = (cv2.resize(amap, (width, height)).astype(np.float64) - s_min) / (s_max - s_min)
    rescaled = np.clip(rescaled, 0, 1)
    squares = _squares(mask, padding, smallest_side, merge_distance)[: count + 1]
    return [_cut(pixels, mask, rescaled, square, size) for square in squares]


def _squares(
    mask: Pixels, padding: float, smallest_side: float, merge_distance: float
) -> list[Square]:
    """Return the squares of a mask (H, W), the largest mask area first."""
    height, width = mask.shape
    longer = max(height, width)
    found = []
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        filled = np.zeros_like(mask)
        cv2.drawContours(filled, [contour], -1, 1, cv2.FILLED)
        x, y, w, h = cv2.boundingRect(contour)
        radius = max(int((1 + padding) / 2 * max(w, h)), int(smallest_side / 2 * longer))
        radius = max(min(radius, longer // 2), 1)
        square = ((2 * x + w) // 2 - radius, (2 * y + h) // 2 - radius, 2 * radius)
        area = int(np.logical_and(filled, mask).sum())
        found.append(([_inside(square, height, width)], area))
    if not found:
        return [((width - longer) // 2, (height - longer) // 2, longer)]
    groups = _merged(found, merge_distance * longer)
    squares = [(_around(members, height, width), area) for members, area in groups]
    squares.sort(key=lambda item: (-item[1], item[0][1], item[0][0]))
    return [square for square, _ in squares]


def _inside(square: Square, height: int, width: int) -> Square:
    x, y, side = square
    x = 0 if x < 0 else min(x, width - side)
    y = 0 if y < 0 else min(y, height - side)
    return x, y, side


def _merged(found: list[tuple[list[Square], int]], limit: float) -> list[tuple[list[Square], int]]:
    """Join groups with two squares less than `limit` apart until no two are left."""
    groups = list(found)
    for i in range(len(groups)):
        j = i + 1
        while j < len(groups):
            if any(_gap(a, b) < limit for a in groups[i][0] for b in groups[j][0]):
                members, area = groups.pop(j)
                groups[i] = (groups[i][0] + members, groups[i][1] + area)
                j = i + 1
            else:
                j += 1
    return groups


def _gap(a: Square, b: Square) -> float:
    dx = max(a[0] - b[0] - b[2], b[0] - a[0] - a[2], 0)
    dy = max(a[1] - b[1] - b[2], b[1] - a[1] - a[2], 0)
    return float(np.hypot(dx, dy))


def _around(members: list[Square], height: int, width: int) -> Square:
    if len(members) == 1:
        return members[0]
    x0, y0 = min(s[0] for s in members), min(s[1] for s in members)
    w = max(s[0] + s[2] for s in members) - x0
    h = max(s[1] + s[2] for s in members) - y0
    side = max(w, h)
    return _inside((x0 + (w - side) // 2, y0 + (h - side) // 2, side), height, width)


def _cut(
    pixels: Pixels, mask: Pixels, rescaled: NDArray[np.float64], square: Square, size: int
) -> Crop:
    """Pad the whole image, cut, resize."""
    x, y, side = square
    pad = side
    image = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)))
    image = image[y + pad : y + pad + side, x + pad : x + pad + side]
    inside = np.pad(mask, pad)[y + pad : y + pad + side, x + pad : x + pad + side]
    method = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return Crop(
        square,
        np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8),
        np.asarray(
            cv2.resize(inside, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
        ),
        int(inside.sum()),
        float(rescaled[max(y, 0) : y + side, max(x, 0) : x + side].max()),
    )
