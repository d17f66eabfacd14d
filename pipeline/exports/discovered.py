"""The finished artifacts of a category, read once: images, their regions, classes and masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.curation.corrections import corrected_classes
from pipeline.curation.names import ClassNames, names_for, run_of
from pipeline.io.arrays import open_arrays
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.region_table import n_classes, read_regions_and_crops
from pipeline.io.schemas import IMAGES, MEBIN_IMAGES
from pipeline.io.tables import read_parquet
from pipeline.regions.crops import area_px, resize_mask

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """A sub-image: its row in crops.zarr, class, square (x0, y0, side) and mask area in pixels."""

    crop_id: str
    row: int
    number: int
    confidence: float
    score: float
    square: tuple[int, int, int]
    area_px: int


@dataclass(frozen=True)
class Picture:
    """A query image: `path` is relative to the category's folder, `row` counts the masks."""

    sample_id: str
    path: str
    height: int
    width: int
    row: int
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Discovered:
    """All query images of a category in the order of the masks, and the names of the classes."""

    category: str
    run: str
    names: ClassNames
    n_classes: int
    pictures: tuple[Picture, ...]
    masks: Any = field(repr=False)
    """(N, h, w) bool, in map pixels."""

    def class_of(self, number: int) -> int:
        """Return the number that stands for a class: the lowest of those with the same name."""
        name = self.names[number]
        return next(n for n in range(self.n_classes) if self.names[n] == name)

    def classes(self) -> dict[int, str]:
        """Return the numbers and names of the classes, each name once; 0 is normal."""
        return {n: self.names[n] for n in range(self.n_classes) if self.class_of(n) == n}

    def defects(self, picture: Picture) -> Iterator[tuple[Region, Mask]]:
        """Yield the regions that are not normal, with their masks (H, W) in image pixels.

        A sub-image of no region, whatever its class, has nothing to show and is left out. Raises
        `ArtifactError` if the masks are not those that the sub-images were cut from.
        """
        chosen = [r for r in picture.regions if self.class_of(r.number) != 0 and r.area_px > 0]
        if not chosen:
            return
        mask = resize_mask(np.asarray(self.masks[picture.row]), (picture.height, picture.width))
        for region in picture.regions:
            if area_px(mask, np.array(region.square)) != region.area_px:
                raise ArtifactError(
                    f"{self.category}: the sub-image {region.crop_id} was cut from another mask; "
                    "run `dvc repro`"
                )
        owned = region_masks(mask, [region.square for region in picture.regions])
        for region, part in zip(picture.regions, owned, strict=True):
            if region in chosen and part.any():
                yield region, part


def region_masks(mask: Mask, squares: list[tuple[int, int, int]]) -> list[Mask]:
    """Return which pixels of a mask (H, W) belong to each square, none of them to two.

    As in the sub-images, that is the mask inside the square. Where squares overlap, each connected
    part of the mask (8 neighbours) goes to the one that holds most of it, or else the first.
    """
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    n_parts = int(parts.max()) + 1
    inside = [np.zeros_like(mask) for _ in squares]
    for (x0, y0, side), own in zip(squares, inside, strict=True):
        own[max(y0, 0) : max(y0 + side, 0), max(x0, 0) : max(x0 + side, 0)] = True
        own &= mask
    counts = np.stack([np.bincount(parts[own], minlength=n_parts) for own in inside])
    owner = counts.argmax(axis=0)  # (parts,)
    return [own & (owner[parts] == k) for k, own in enumerate(inside)]


def read_discovered(category: str, paths: ArtifactPaths, names: Path) -> Discovered:
    """Read the artifacts of a category and check that they belong together.

    Classes are those after corrections; a name that no class of the run has is a further class.
    """
    regions, crops = read_regions_and_crops(paths, category)
    known = names_for(names, category, paths)
    corrected = corrected_classes(paths, category, regions, known)
    added = sorted({target for target in corrected if isinstance(target, str)})
    n_discovered = max(1, n_classes(regions))
    numbers = {name: n_discovered + i for i, name in enumerate(added)}
    classes = [numbers[k] if isinstance(k, str) else k for k in corrected]
    found = _regions(crops, regions, classes)
    table = read_parquet(paths.mebin(category) / "images.parquet", MEBIN_IMAGES)
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    images = images[images["split"] == "query"].set_index("sample_id")
    if set(images.index) != set(table["sample_id"]) or not set(found) <= set(images.index):
        raise ArtifactError(
            f"{paths.manifest(category)}: its images are not those of the regions; run `dvc repro`"
        )
    pictures = [
        Picture(
            sample_id=sample_id,
            path=path,
            height=height,
            width=width,
            row=row,
            regions=tuple(found.get(sample_id, ())),
        )
        for row, (sample_id, path, height, width) in enumerate(_sizes(images, table["sample_id"]))
    ]
    return Discovered(
        category,
        run_of(paths, category),
        ClassNames({**known.names, **{k: name for name, k in numbers.items()}}, known.run),
        n_discovered + len(added),
        tuple(pictures),
        open_arrays(paths.mebin(category) / "masks.zarr")["masks"],
    )


def _sizes(images: pd.DataFrame, ids: pd.Series) -> Iterator[tuple[str, str, int, int]]:
    """Yield id, path, height and width of the images `ids`."""
    rows = images.loc[ids]
    yield from zip(
        ids.tolist(),
        rows["path"].tolist(),
        rows["height"].tolist(),
        rows["width"].tolist(),
        strict=True,
    )


def _regions(
    crops: pd.DataFrame, regions: pd.DataFrame, classes: list[int]
) -> dict[str, list[Region]]:
    """Return the regions of each image, in the order of the crops, with their `classes`."""
    columns = (
        crops["crop_id"].tolist(),
        range(len(crops)),
        classes,
        regions["confidence"].tolist(),
        crops["score"].tolist(),
        map(tuple, crops[["x0", "y0", "side"]].to_numpy().tolist()),
        crops["area_px"].tolist(),
    )
    found: dict[str, list[Region]] = {}
    for sample_id, *values in zip(crops["sample_id"], *columns, strict=True):
        found.setdefault(sample_id, []).append(Region(*values))
    return found
