"""The camera of the demo: noise, light and where defects lie."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.demo.defects import DEFECTS
from pipeline.demo.surfaces import COLUMNS, MARGIN_PX, ROWS, SIZE, SURFACES, Field, Mask

NORMAL = "good"
PRODUCTS: dict[str, tuple[str, ...]] = {
    "metal": ("good", "scratch", "dent", "stain", "crack"),
    "fabric": ("good", "hole", "missing_thread", "knot", "stain"),
}
"""Labels of each product; the first is the normal one."""

_TWO_REGIONS = 0.3
"""Share of defective images that show the same defect twice."""
_APART_PX = 92


@dataclass(frozen=True)
class DemoImage:
    """A photograph, uint8 (256, 256, 3) RGB, and its mask, bool (256, 256), True on the defect."""

    image: NDArray[np.uint8]
    mask: Mask


# The camera


def _photograph(
    surface: Field, tone: tuple[int, int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Light a surface (H, W, 3) unevenly and take its picture: focus, white balance, noise."""
    turn = rng.uniform(0, 2 * np.pi)
    row, column = ROWS / SIZE - 0.5, COLUMNS / SIZE - 0.5
    ramp = rng.uniform(0.05, 0.26) * (row * np.sin(turn) + column * np.cos(turn))
    spot = (row - rng.uniform(-0.4, 0.4)) ** 2 + (column - rng.uniform(-0.4, 0.4)) ** 2
    glow = rng.uniform(0.0, 0.14) * np.exp(-spot / rng.uniform(0.10, 0.30))
    fall = rng.uniform(0.05, 0.20) * (row**2 + column**2)
    light = rng.uniform(0.84, 1.10) * (1 + ramp + glow - fall)
    white = np.array(tone) * (1 + rng.normal(0, 0.007, 3))
    picture = surface * light[..., None].astype(np.float32) * white.astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.45, 0.75))
    grain = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
    picture = picture + rng.uniform(1.2, 2.6) * grain * np.sqrt(np.maximum(picture, 8) / 128)
    return np.asarray(np.clip(np.round(picture), 0, 255), np.uint8)


def _centres(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the centres of one or two regions, well inside the image and apart."""
    first = rng.uniform(MARGIN_PX, SIZE - MARGIN_PX, 2)
    centres = [(float(first[0]), float(first[1]))]
    if rng.random() < _TWO_REGIONS:
        # Some corner of the inner square is far enough from any first centre: the loop ends.
        while len(centres) < 2:
            other = rng.uniform(MARGIN_PX, SIZE - MARGIN_PX, 2)
            if np.hypot(*(other - first)) >= _APART_PX:
                centres.append((float(other[0]), float(other[1])))
    return centres


def check_product(product: str) -> None:
    if product not in PRODUCTS:
        raise ValueError(f"unknown demo product {product!r}; there are {', '.join(PRODUCTS)}")


def product_image(product: str, label: str, rng: np.random.Generator) -> DemoImage:
    """Photograph one part of `product` that shows `label`, drawing from children of `rng`.

    The mask is all False for the label `good`. Raises ValueError for an unknown product or label.
    """
    check_product(product)
    if label not in PRODUCTS[product]:
        labels = ", ".join(PRODUCTS[product])
        raise ValueError(f"{product} has no label {label!r}; there are {labels}")
    part, camera, fault = rng.spawn(3)
    make, tone = SURFACES[product]
    grey, scene = make(part)
    surface = np.repeat(grey[..., None], 3, axis=2)
    mask = np.zeros((SIZE, SIZE), np.bool_)
    if label != NORMAL:
        centres = _centres(fault)
        for centre in centres:
            size = float(fault.uniform(0.85, 1.15)) * (0.85 if len(centres) == 2 else 1.0)
            mask |= DEFECTS[label](surface, scene, fault, centre, size)
    return DemoImage(image=_photograph(surface, tone, camera), mask=mask)
