"""The data of a category's review page.

The page carries JSON: columns over regions, over classes and over the images that have regions. It
has no labels and no true masks, because corrections can become base data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.config.section import ConfigError
from pipeline.curation.corrections import Target, applied_corrections, corrected_classes
from pipeline.curation.names import run_of
from pipeline.io.arrays import open_arrays
from pipeline.io.images import ImageError, read_image
from pipeline.io.part_table import numbered, read_parts
from pipeline.io.paths import ArtifactError
from pipeline.io.region_table import n_classes
from pipeline.io.schemas import MEBIN_IMAGES
from pipeline.io.tables import read_parquet
from pipeline.palette import class_colour, class_marker
from pipeline.report.category import Category
from pipeline.report.class_tree import fine_clusters, tree_columns
from pipeline.report.page import ReviewPage
from pipeline.report.pictures import crop_picture, heat_colours, outline_path, shrunk, webp_uri
from pipeline.report.questions import question_order
from pipeline.report.typicality import typicality

THUMBNAIL = 112
PICTURE = 480
"""Longer side of an image on the page, in pixels; smaller images keep their size."""

MAP = 160
PAGE_BYTES = 50_000_000
"""Images are embedded until they and the thumbnails together reach this size."""

EmbeddedImage = tuple[str, str, str]
"""Image and map as data URIs, and the outline of the mask as path data in pixels of the image."""


def review(category: Category, *, page_bytes: int = PAGE_BYTES) -> ReviewPage:
    """Return the review page of a category.

    Parameters
    ----------
    category
        Its tables. Stored corrections are applied; if they are of another run, a note says so.
    page_bytes
        Thumbnails of all regions are embedded, and images in the order of the regions, until they
        reach this size together.

    Returns
    -------
    The content of the page.

    Raises
    ------
    ArtifactError
        An artifact is missing, damaged or of another run.
    """
    regions, notes = category.regions, list(category.notes)
    targets: list[Target] = regions["class"].tolist()
    n_corrected = 0
    try:
        n_corrected = len(applied_corrections(category.artifacts, category.name, regions))
        targets = corrected_classes(category.artifacts, category.name, regions, category.names)
    except ConfigError as error:
        notes.append(f"Corrections are not applied: {error}")
    classes = [*range(n_classes(regions)), *sorted({k for k in targets if isinstance(k, str)})]
    owners = list(dict.fromkeys(regions["sample_id"].tolist()))
    thumbnails = _thumbnails(category)
    pictures = _pictures(category, owners, page_bytes - sum(map(len, thumbnails)))
    run = run_of(category.artifacts, category.name)
    return ReviewPage(
        category=category.name,
        run=run,
        n_regions=len(regions),
        n_corrected=n_corrected,
        n_images=len(owners),
        n_queries=len(category.merged),
        n_pictures=sum(picture is not None for picture in pictures),
        notes=notes,
        data={
            "category": category.name,
            "run": run,
            "classes": [_class(category, k) for k in classes],
            "markers": [(class_colour(k), class_marker(k)) for k in range(48)],
            "regions": _regions(category, targets, classes, owners),
            "images": _images(category, owners),
            "tree": tree_columns(category),
        },
        thumbnails=thumbnails,
        pictures=pictures,
    )


def _class(category: Category, target: Target) -> dict[str, Any]:
    """Return number (null for a new name) and name (null for a class that has none)."""
    if isinstance(target, str):
        return {"number": None, "name": target}
    return {"number": target, "name": category.names.names.get(target)}


def _regions(
    category: Category, targets: Sequence[Target], classes: Sequence[Target], owners: Sequence[str]
) -> dict[str, list[Any]]:
    """Return the columns over regions: `image` indexes `owners`, `shown` indexes `classes`."""
    regions, crops = category.regions, category.crops
    index = {target: i for i, target in enumerate(classes)}
    images = {sample_id: i for i, sample_id in enumerate(owners)}
    return {
        "id": regions["crop_id"].tolist(),
        "image": [images[sample_id] for sample_id in regions["sample_id"]],
        "model": regions["class"].tolist(),
        "shown": [index[target] for target in targets],
        "confidence": regions["confidence"].round(4).tolist(),
        "typicality": typicality(_descriptors(category), targets).round(4).tolist(),
        "area": crops["area_px"].tolist(),
        "score": crops["score"].round(4).tolist(),
        "square": crops[["x0", "y0", "side"]].to_numpy().tolist(),
        **_questions(category),
    }


def _questions(category: Category) -> dict[str, list[int]]:
    """Return the place of each region among the questions, and the regions it stands for."""
    if n_classes(category.regions) < 2:
        return {}
    clusters = fine_clusters(category)
    parts = numbered(read_parts(category.artifacts, category.name), category.regions["sample_id"])
    order = question_order(np.stack(category.regions["probabilities"].tolist()), clusters, parts)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return {"ask": places.tolist(), "stands": np.bincount(clusters)[clusters].tolist()}


def _descriptors(category: Category) -> NDArray[np.float32]:
    """Return the regions' descriptors (M, L * D); raise `ArtifactError` if of other regions."""
    folder = category.artifacts.predict(category.name)
    rows = np.asarray(open_arrays(folder / "descriptors.zarr")["descriptors"], np.float32)
    if len(rows) != len(category.regions):
        raise ArtifactError(f"{folder}: descriptors.zarr is of other regions; run `predict` again")
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


def _images(category: Category, owners: Sequence[str]) -> dict[str, list[Any]]:
    """Return the columns over the images that have regions; `merged` is the class of the image."""
    merged = category.merged.set_index("sample_id")["class"].loc[list(owners)]
    sizes = category.sizes.loc[list(owners)]
    return {
        "path": [category.paths[sample_id] for sample_id in owners],
        "width": sizes["width"].tolist(),
        "height": sizes["height"].tolist(),
        "merged": merged.tolist(),
    }


def _thumbnails(category: Category) -> list[str]:
    group = open_arrays(category.artifacts.crops(category.name) / "crops.zarr")
    images, masks = group["images"], group["masks"]
    return [
        webp_uri(crop_picture(np.asarray(images[i]), np.asarray(masks[i]), side=THUMBNAIL))
        for i in range(len(category.regions))
    ]


def _pictures(category: Category, owners: Sequence[str], left: int) -> list[EmbeddedImage | None]:
    """Return each owner's image until `left` bytes are used; None afterwards or if unreadable.

    Raises `ArtifactError` if masks and maps are of different images.
    """
    artifacts, name = category.artifacts, category.name
    ids = category.scores["sample_id"].tolist()
    table = read_parquet(artifacts.mebin(name) / "images.parquet", MEBIN_IMAGES)
    if table["sample_id"].tolist() != ids:
        raise ArtifactError(f"{artifacts.mebin(name)}: made from other maps; run `mebin` again")
    rows = pd.Series(range(len(ids)), index=ids)
    maps = open_arrays(artifacts.maps(name) / "maps.zarr")["maps"]
    masks = open_arrays(artifacts.mebin(name) / "masks.zarr")["masks"]
    pictures: list[EmbeddedImage | None] = []
    for sample_id in owners:
        picture = None
        if left > 0:
            row = int(rows[sample_id])
            picture = _picture(category, sample_id, np.asarray(maps[row]), np.asarray(masks[row]))
        left -= sum(map(len, picture or ()))
        pictures.append(picture if left >= 0 else None)
    return pictures


def _picture(
    category: Category, sample_id: str, amap: NDArray[np.float32], mask: NDArray[np.bool_]
) -> EmbeddedImage | None:
    try:
        image = read_image(category.folder / category.paths[sample_id], category.bits)
    except ImageError:
        return None
    height, width = image.shape[:2]
    small = shrunk(image, min(PICTURE, max(height, width)))
    heat = shrunk(heat_colours(amap), MAP)
    return webp_uri(small), webp_uri(heat, quality=60), outline_path(mask, (width, height))
