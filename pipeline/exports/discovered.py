"""The images of a finished run with their regions, classes and masks."""

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


@dataclass(frozen=True)
class Region:
    """A region: its row in crops.zarr, class, square (x0, y0, side) and mask area, in pixels."""

    crop_id: str
    row: int
    number: int
    confidence: float
    score: float
    square: tuple[int, int, int]
    area_px: int


@dataclass(frozen=True)
class QueryImage:
    """A query image: `path` is relative to the category's folder, `row` is that of its mask."""

    sample_id: str
    path: str
    height: int
    width: int
    row: int
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Discovered:
    """All query images of a category, in the order of the masks, and the classes' names."""

    category: str
    run: str
    names: ClassNames
    n_classes: int
    images: tuple[QueryImage, ...]
    masks: Any = field(repr=False)
    """(N, h, w) bool, in map pixels."""

    def class_of(self, number: int) -> int:
        """Return the lowest number of the classes with the same name as class `number`."""
        name = self.names[number]
        return next(n for n in range(self.n_classes) if self.names[n] == name)

    def classes(self) -> dict[int, str]:
        """Return names by class number, each name once; 0 is normal."""
        return {n: self.names[n] for n in range(self.n_classes) if self.class_of(n) == n}

    def defects(self, image: QueryImage) -> Iterator[tuple[Region, NDArray[np.bool_]]]:
        """Yield the regions that are not normal, with their masks (H, W) in image pixels.

        Crops with an empty mask are left out. Raises `ArtifactError` if the masks are not those
        that the crops were cut from.
        """
        chosen = [r for r in image.regions if self.class_of(r.number) != 0 and r.area_px > 0]
        if not chosen:
            return
        mask = resize_mask(np.asarray(self.masks[image.row]), (image.height, image.width))
        for region in image.regions:
            if area_px(mask, np.array(region.square)) != region.area_px:
                raise ArtifactError(
                    f"{self.category}: the crop {region.crop_id} was cut from another mask; "
                    "run `dvc repro`"
                )
        owned = region_masks(mask, [region.square for region in image.regions])
        for region, part in zip(image.regions, owned, strict=True):
            if region in chosen and part.any():
                yield region, part


def region_masks(
    mask: NDArray[np.bool_], squares: list[tuple[int, int, int]]
) -> list[NDArray[np.bool_]]:
    """Return the part of a mask (H, W) that belongs to each square; no pixel belongs to two.

    As in the crops, a square has the mask inside it. Where squares overlap, each connected part of
    the mask (8 neighbours) goes to the square that holds most of it, the first of equal ones.
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
    """Read the artifacts of a finished run.

    Parameters
    ----------
    category
        A category with a finished run.
    names
        The file with the names of the classes.

    Returns
    -------
    Images, regions and masks. Classes are those after corrections; each name that no class of the
    run has is one more class.

    Raises
    ------
    ArtifactError
        An artifact is missing, or they are not of the same run.
    ConfigError
        Names or corrections are of another run.
    """
    regions, crops = read_regions_and_crops(paths, category)
    class_names = names_for(names, category, paths)
    corrected = corrected_classes(paths, category, regions, class_names)
    added = sorted({target for target in corrected if isinstance(target, str)})
    n_discovered = max(1, n_classes(regions))
    numbers = {name: n_discovered + i for i, name in enumerate(added)}
    added_names = {number: name for name, number in numbers.items()}
    classes = [numbers[k] if isinstance(k, str) else k for k in corrected]
    by_image = _regions(crops, regions, classes)
    table = read_parquet(paths.mebin(category) / "images.parquet", MEBIN_IMAGES)
    images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    images = images[images["split"] == "query"].set_index("sample_id")
    if set(images.index) != set(table["sample_id"]) or not set(by_image) <= set(images.index):
        raise ArtifactError(
            f"{paths.manifest(category)}: its images are not those of the regions; run `dvc repro`"
        )
    query_images = [
        QueryImage(
            sample_id=sample_id,
            path=path,
            height=height,
            width=width,
            row=row,
            regions=tuple(by_image.get(sample_id, ())),
        )
        for row, (sample_id, path, height, width) in enumerate(_sizes(images, table["sample_id"]))
    ]
    return Discovered(
        category,
        run_of(paths, category),
        ClassNames({**class_names.names, **added_names}, class_names.run),
        n_discovered + len(added),
        tuple(query_images),
        open_arrays(paths.mebin(category) / "masks.zarr")["masks"],
    )


def _sizes(images: pd.DataFrame, ids: pd.Series) -> Iterator[tuple[str, str, int, int]]:
    """Yield id, path, height and width of each of `ids`."""
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
    """Return the regions of each image, in the order of the crops."""
    columns = (
        crops["crop_id"].tolist(),
        range(len(crops)),
        classes,
        regions["confidence"].tolist(),
        crops["score"].tolist(),
        map(tuple, crops[["x0", "y0", "side"]].to_numpy().tolist()),
        crops["area_px"].tolist(),
    )
    by_image: dict[str, list[Region]] = {}
    for sample_id, *values in zip(crops["sample_id"], *columns, strict=True):
        by_image.setdefault(sample_id, []).append(Region(*values))
    return by_image
