"""Augmented views (section 5 of METHOD.md) with PIL and torchvision, one view at a time.

Random numbers are drawn in the order of `pipeline.mgvit.augmentation`, so the same generator gives
the same view, up to the rounding of 8-bit arithmetic.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F


def augmented_view(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """Return a normalised view (3, size, size) float32 and its mask (size, size) in [0, 1].

    `pixels` (H, W, 3) uint8, `mask` (H, W) in {0, 1}.
    """
    side = round(size * 256 / 224)
    image = F.resize(Image.fromarray(pixels), [side, side])
    grey = F.resize(Image.fromarray(mask * np.uint8(255)), [side, side])
    x0, y0 = (int(v) for v in (rng.integers(0, side - size + 1, 2) if side > size else (0, 0)))
    image, grey = (F.crop(part, y0, x0, size, size) for part in (image, grey))
    flips, turns = rng.random(2) < 0.5, int(rng.integers(0, 4))
    if flips[0]:
        image, grey = F.vflip(image), F.vflip(grey)
    if flips[1]:
        image, grey = F.hflip(image), F.hflip(grey)
    image, grey = F.rotate(image, 90 * turns), F.rotate(grey, 90 * turns)
    image = _photometric(image, rng)
    return F.normalize(F.to_tensor(image), mean, std), F.to_tensor(grey)[0]


def _photometric(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    brightness, contrast = rng.uniform(0.6, 1.4, 2)
    saturation = rng.uniform(0.6, 1.8)
    order = rng.permutation(3)
    sharpness = 0.2 + 1.8 * rng.random()
    kernel, sigma = int(rng.choice(np.arange(9, 34, 4))), float(rng.uniform(0.1, 2.0))
    bits = int(rng.integers(5, 9))
    for step in order:
        if step == 0:
            image = F.adjust_brightness(image, float(brightness))
        elif step == 1:
            image = F.adjust_contrast(image, float(contrast))
        else:
            image = F.adjust_saturation(image, float(saturation))
    image = F.adjust_sharpness(image, sharpness)
    image = F.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    image = F.posterize(image, bits)
    assert isinstance(image, Image.Image)
    return image


def batch(views: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Stack views into images (B, 3, S, S) and masks (B, S, S)."""
    return torch.stack([v[0] for v in views]), torch.stack([v[1] for v in views])
