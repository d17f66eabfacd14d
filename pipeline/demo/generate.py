"""Synthetic inspection photographs: the embedded demo data, arrays out.

Two products, `metal` (brushed sheet) and `fabric` (plain weave), each photographed with its own
pose, texture phase, lighting, focus and sensor noise. The background and the defect of an image
draw from separate random streams, so the background's statistics cannot depend on the label: with
equally seeded generators a good and a defective image agree outside the defect. Pixels are
(row, column), lengths are in pixels, angles in radians.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.camera import NORMAL, PRODUCTS, check_product, product_image
from pipeline.demo.surfaces import Mask
from pipeline.progress import Progress, silent


@dataclass(frozen=True)
class DemoSample:
    """A photograph and its place in the set: `split` is train or test, `name` counts per folder."""

    split: str
    label: str
    name: str
    image: NDArray[np.uint8]
    mask: Mask


def generate(
    product: str,
    *,
    good: int = 20,
    per_defect: int | Mapping[str, int] = 20,
    normals: int = 40,
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[DemoSample]:
    """Yield the images of a product: normal train images, then the test images of each label.

    Each image is seeded by (seed, product, split, label, index), so that changing a count adds or
    removes images at the end of a folder and leaves the others as they were.

    Parameters
    ----------
    product
        "metal" or "fabric".
    good, per_defect, normals
        Numbers of good test images, test images of each defect, and train images. Where
        `per_defect` is a mapping by label, defects that it does not name have no image.

    Raises
    ------
    ValueError
        For an unknown product or a negative count.

    Examples
    --------
    >>> sample = next(generate("metal", normals=0, good=0, per_defect=1))
    >>> sample.label, sample.image.shape, bool(sample.mask.any())
    ('scratch', (256, 256, 3), True)
    """
    check_product(product)
    defects = [label for label in PRODUCTS[product] if label != NORMAL]
    if isinstance(per_defect, int):
        per_defect = dict.fromkeys(defects, per_defect)
    if min(good, *per_defect.values(), normals, seed) < 0:
        raise ValueError("good, per_defect, normals and seed of the demo must not be negative")
    folders = [("train", NORMAL, normals), ("test", NORMAL, good)]
    folders += [("test", label, per_defect.get(label, 0)) for label in defects]
    total, done = sum(count for *_, count in folders), 0
    for split, label, count in folders:
        folder = zlib.crc32(f"{product}/{split}/{label}".encode())
        for index in range(count):
            drawn = product_image(product, label, np.random.default_rng([seed, folder, index]))
            yield DemoSample(split, label, f"{index:03d}", drawn.image, drawn.mask)
            done += 1
            progress(done, total)
