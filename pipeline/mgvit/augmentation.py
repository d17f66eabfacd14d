"""Views of a sub-image: the plain one for prediction, augmented ones for training (section 3.3).

Image and mask go through the same geometric transform; photometric steps touch the image alone.
All steps work on uint8 with OpenCV, saturating after each step as PIL does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
GreyMask = NDArray[np.float32]

_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
_LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class Augmentations:
    """Which augmentations are drawn; the ranges are the paper's."""

    crop: bool = True
    flip: bool = True
    rotate: bool = True
    colour: bool = True
    sharpness: bool = True
    blur: bool = True
    posterize: bool = True


def resized_side(size: int) -> int:
    """Return the side before cropping to `size`: 256 for 224, in that ratio for others."""
    return round(size * 256 / 224)


def resize_pair(image: Image, mask: NDArray[np.uint8], side: int) -> tuple[Image, GreyMask]:
    """Bring image (H, W, 3) and mask (H, W) in {0, 1} to `side`.

    The mask becomes grey: bilinear, float32 in [0, 1].
    """
    grey = mask.astype(np.float32)
    if image.shape[:2] == (side, side):
        return image, grey
    shrink = max(image.shape[:2]) > side
    method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    resized = cv2.resize(image, (side, side), interpolation=method)
    return np.asarray(resized, np.uint8), np.asarray(
        cv2.resize(grey, (side, side), interpolation=method), np.float32
    )


def plain_view(image: Image, mask: NDArray[np.uint8], *, size: int) -> tuple[Image, GreyMask]:
    """Return the view used for prediction: resize, centre crop, nothing else.

    Parameters
    ----------
    image, mask
        (H, W, 3) uint8 and (H, W) uint8 in {0, 1}, H = W.
    size
        Side of the view in pixels.

    Returns
    -------
    Image uint8 (size, size, 3) and mask float32 (size, size) in [0, 1].

    Examples
    --------
    >>> image, mask = np.zeros((256, 256, 3), np.uint8), np.ones((256, 256), np.uint8)
    >>> view, grey = plain_view(image, mask, size=224)
    >>> view.shape, grey.dtype
    ((224, 224, 3), dtype('float32'))
    """
    side = resized_side(size)
    image, grey = resize_pair(image, mask, side)
    start = (side - size) // 2
    window = slice(start, start + size)
    return image[window, window], grey[window, window]


def augmented_view(
    image: Image,
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    size: int,
    augmentations: Augmentations,
) -> tuple[Image, GreyMask]:
    """Draw one training view.

    Every random number is drawn whether or not its augmentation is on, so that switching one off
    leaves the others as they were.

    Parameters
    ----------
    image, mask
        (H, W, 3) uint8 and (H, W) uint8 in {0, 1}, H = W.
    rng
        Of this view alone (`view_rng`).
    size
        Side of the view in pixels.

    Returns
    -------
    Image uint8 (size, size, 3) and mask float32 (size, size) in [0, 1].

    Examples
    --------
    >>> image, mask = np.full((64, 64, 3), 90, np.uint8), np.ones((64, 64), np.uint8)
    >>> rng = view_rng(seed=0, sample=3, view=1)
    >>> view, grey = augmented_view(image, mask, rng, size=56, augmentations=Augmentations())
    >>> view.shape, float(grey.min())
    ((56, 56, 3), 1.0)
    """
    side = resized_side(size)
    image, grey = resize_pair(image, mask, side)
    x0, y0 = rng.integers(0, side - size + 1, 2) if side > size else (0, 0)
    flips, turns = rng.random(2) < 0.5, int(rng.integers(0, 4))
    if not augmentations.crop:
        x0 = y0 = (side - size) // 2
    image, grey = image[y0 : y0 + size, x0 : x0 + size], grey[y0 : y0 + size, x0 : x0 + size]
    if augmentations.flip:
        step = (slice(None, None, -1 if flips[0] else 1), slice(None, None, -1 if flips[1] else 1))
        image, grey = image[step], grey[step]
    if augmentations.rotate:
        image, grey = np.rot90(image, turns), np.rot90(grey, turns)
    return photometric(np.ascontiguousarray(image), rng, augmentations), np.ascontiguousarray(grey)


def photometric(image: Image, rng: np.random.Generator, augmentations: Augmentations) -> Image:
    """Colour jitter, sharpness, Gaussian blur and posterization of one uint8 (H, W, 3) image."""
    brightness, contrast = rng.uniform(0.6, 1.4, 2)
    saturation = rng.uniform(0.6, 1.8)
    order = rng.permutation(3)
    sharpness = 0.2 + 1.8 * rng.random()
    kernel, sigma = int(rng.choice(np.arange(9, 34, 4))), rng.uniform(0.1, 2.0)
    bits = int(rng.integers(5, 9))
    if augmentations.colour:
        for step in order:
            if step == 0:
                image = adjust_brightness(image, brightness)
            elif step == 1:
                image = adjust_contrast(image, contrast)
            else:
                image = adjust_saturation(image, saturation)
    if augmentations.sharpness:
        image = adjust_sharpness(image, sharpness)
    if augmentations.blur:
        image = np.asarray(cv2.GaussianBlur(image, (kernel, kernel), sigma), np.uint8)
    if augmentations.posterize:
        image = image & np.uint8(0xFF << (8 - bits) & 0xFF)
    return image


def _through(image: Image, table: NDArray[np.float32]) -> Image:
    return np.asarray(cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)), np.uint8)


def adjust_brightness(image: Image, factor: float) -> Image:
    """Blend with black: ``factor * image``."""
    return _through(image, _LEVELS * np.float32(factor))


def adjust_contrast(image: Image, factor: float) -> Image:
    """Blend with the mean grey of the image."""
    grey = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean())
    return _through(
        image, _LEVELS * np.float32(factor) + np.float32((1 - factor) * int(grey + 0.5))
    )


def adjust_saturation(image: Image, factor: float) -> Image:
    """Blend with the grey version of the image."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(image, factor, grey, 1 - factor, 0), np.uint8)


def adjust_sharpness(image: Image, factor: float) -> Image:
    """Blend with the 3 x 3 smoothed image (PIL's kernel); below 1 smooths, above 1 sharpens."""
    smooth = cv2.filter2D(image, -1, _SMOOTH, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.addWeighted(image, factor, smooth, 1 - factor, 0), np.uint8)


def view_rng(seed: int, sample: int, view: int) -> np.random.Generator:
    """Return the generator of one view, independent of how many others there are."""
    return np.random.default_rng([seed, sample, view])
