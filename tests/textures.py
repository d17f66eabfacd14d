"""A set whose kinds of defect a tiny network with random weights can tell apart.

Grey plates of 128 x 128 pixels with one or two squares of a strong colour and texture on them: for
tests of what follows from different looks, not of how well a network sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 128
KINDS = ("stripes", "checks", "dots", "grain")
Patch = tuple[str, int]
"""The kind and the side in pixels of a square."""

_PLACES = ((12, 12), (12, 70), (70, 12), (70, 70))  # row, column


def plate(patches: Sequence[Patch], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image (128, 128, 3), uint8 BGR, with `patches` at different random places."""
    image = rng.normal(128, 3, (SIZE, SIZE, 3))
    places = rng.permutation(len(_PLACES))[: len(patches)]
    for (kind, side), place in zip(patches, places, strict=True):
        row, column = np.array(_PLACES[place]) + rng.integers(-4, 5, 2)
        image[row : row + side, column : column + side] = texture(kind, side, rng)
    return np.clip(image, 0, 255).astype(np.uint8)


def texture(kind: str, side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a square (side, side, 3) of one of `KINDS`, BGR."""
    rows, columns = np.mgrid[0:side, 0:side] + rng.integers(0, 8)
    if kind == "stripes":
        on, colour = rows // 4 % 2, (20, 20, 250)
    elif kind == "checks":
        on, colour = (rows // 8 + columns // 8) % 2, (20, 250, 20)
    elif kind == "dots":
        on, colour = ((rows % 8 - 4) ** 2 + (columns % 8 - 4) ** 2 < 8), (250, 20, 20)
    else:
        on, colour = rng.random((side, side)) < 0.5, (250, 250, 250)
    return np.asarray(on, np.float64)[:, :, None] * np.array(colour, np.float64)


def write_plates(folder: Path, plates: Sequence[tuple[str, Sequence[Patch]]], *, seed: int) -> None:
    """Write named plates as PNG, each from its own random stream."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, patches) in enumerate(plates):
        pixels = plate(patches, np.random.default_rng([seed, number]))
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
