"""Defects pasted on normal images, to see what a detector finds without any label.

After CutPaste (Li et al., CVPR 2021) and its scars, with faint blobs beside them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Cover = NDArray[np.float32]

_LARGEST = 6.0
"""Largest defect, in smallest ones; sizes and contrasts are drawn evenly on a logarithmic scale."""
_CONTRASTS = (0.08, 0.4)
_OPACITIES = (0.3, 1.0)


def paste(
    image: Pixels, other: Pixels, rng: np.random.Generator, *, smallest: float = 0.032
) -> Pixels:
    """Return an image (H, W, 3) uint8 RGB with one defect; the argument stays as it is.

    A third each are patches of `other` (h, w, 3), another normal image, thin scars, and blobs
    without an edge; scars and blobs are brighter or darker than the image. `smallest` is the size
    of the smallest defect, a share of the image's side. Defects lie where the image differs from
    its frame, so mostly on the object where there is one.
    """
    side = float(image.shape[0] * image.shape[1]) ** 0.5
    size = max(2.0, side * smallest * _between(rng, 1, _LARGEST))
    at = _place(image, rng)
    kind = rng.integers(3)
    if kind == 0:
        opacity = _between(rng, *_OPACITIES)
        content = _moved(other, image.shape[:2], at, _place(other, rng)).astype(np.float32)
        cover = opacity * _ellipse(image.shape[:2], at, size, rng)
    else:
        contrast = 255 * _between(rng, *_CONTRASTS) * rng.choice([-1, 1])
        content = image.astype(np.float32) + np.float32(contrast)
        cover = (_scar if kind == 1 else _blob)(image.shape[:2], at, size, rng)
    mixed = image + cover[..., None] * (content - image)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _place(image: Pixels, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a place (row, column), in proportion to how far its colour is from the frame's."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float64)
    edge = np.ones((64, 64), bool)
    edge[3:-3, 3:-3] = False
    away = np.abs(small - np.median(small[edge], axis=0)).sum(axis=2) + 1e-3
    cell = int(rng.choice(away.size, p=(away / away.sum()).ravel()))
    row, column = (np.array(divmod(cell, 64)) + rng.uniform(size=2)) / 64
    return int(row * image.shape[0]), int(column * image.shape[1])


def _moved(
    other: Pixels, shape: tuple[int, ...], at: tuple[int, int], origin: tuple[int, int]
) -> Pixels:
    """Return `other` on a canvas of `shape`, moved so that `origin` comes to lie at `at`."""
    shift = np.array([[1, 0, at[1] - origin[1]], [0, 1, at[0] - origin[0]]], np.float32)
    moved = cv2.warpAffine(other, shift, shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


def _ellipse(
    shape: tuple[int, ...], at: tuple[int, int], size: float, rng: np.random.Generator
) -> Cover:
    stretch = _between(rng, 1, 3) ** 0.5
    axes = (max(1, round(size * stretch / 2)), max(1, round(size / stretch / 2)))
    cover = np.zeros(shape, np.float32)
    cv2.ellipse(cover, at[::-1], axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), 1.0), np.float32)


def _scar(
    shape: tuple[int, ...], at: tuple[int, int], size: float, rng: np.random.Generator
) -> Cover:
    turn, reach = rng.uniform(0, np.pi), size * rng.uniform(0.5, 1.5)
    step = np.array([np.cos(turn), np.sin(turn)]) * reach
    first, last = (np.rint(np.array(at[::-1]) + way * step).astype(int) for way in (-1, 1))
    cover = np.zeros(shape, np.float32)
    thickness = max(1, round(size * rng.uniform(0.05, 0.2)))
    cv2.line(cover, first.tolist(), last.tolist(), 1.0, thickness)
    return np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.7), np.float32)


def _blob(
    shape: tuple[int, ...], at: tuple[int, int], size: float, rng: np.random.Generator
) -> Cover:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    away = (rows - at[0]) ** 2 + (columns - at[1]) ** 2
    return np.asarray(np.exp(-away / (size**2 / 2)), np.float32)
