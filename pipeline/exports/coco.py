"""COCO instance JSON, alone or in a folder for FiftyOne."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.exports.discovered import Discovered, QueryImage, Region
from pipeline.exports.files import Shape, refuse_existing, write_compact
from pipeline.exports.outlines import column_runs, outlines
from pipeline.io.files import replacing_folder


def coco(discovered: Discovered, *, shape: Shape, prefix: str = "") -> dict[str, Any]:
    """Return the discovered classes as a COCO dataset.

    Annotations are the regions that are not normal; categories are class numbers, and classes of
    the same name are one category. Images without annotations are included.

    Parameters
    ----------
    discovered
        Images, regions, classes and masks of a run.
    shape
        Masks as polygons that cover exactly their pixels, or as uncompressed run lengths.
    prefix
        Put before each image path to give `file_name`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(discovered.images, start=1):
        images.append(_image(image, number, prefix))
        for region, mask in discovered.defects(image):
            head = {"id": len(annotations) + 1, "image_id": number}
            category = {"category_id": discovered.class_of(region.number)}
            annotations.append({**head, **category, **_annotation(region, mask, shape)})
    return {
        "info": {
            "description": f"{discovered.category}: classes discovered by AnomalyNCD "
            f"{discovered.run}"
        },
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": "defect"}
            for number, name in discovered.classes().items()
            if number != 0
        ],
        "images": images,
        "annotations": annotations,
    }


def _image(image: QueryImage, number: int, prefix: str) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": prefix + image.path,
        "height": image.height,
        "width": image.width,
        "sample_id": image.sample_id,
    }


def _annotation(region: Region, mask: NDArray[np.bool_], shape: Shape) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    segmentation: object
    if shape is Shape.RLE:
        segmentation = {"size": list(mask.shape), "counts": column_runs(mask)}
    else:
        segmentation = [polygon.ravel().tolist() for polygon in outlines(mask)]
    return {
        "segmentation": segmentation,
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "score": round(region.confidence, 6),
        "anomaly_score": round(region.score, 6),
        "crop_id": region.crop_id,
    }


def write_coco(discovered: Discovered, out: Path, *, shape: Shape) -> str:
    """Write the JSON file, with file names relative to dataset.root; return a summary."""
    refuse_existing(out)
    content = coco(discovered, shape=shape, prefix=f"{discovered.category}/")
    write_compact(out, content)
    return summary(content)


def write_fiftyone(
    discovered: Discovered, out: Path, *, shape: Shape, images: Path, link: bool = False
) -> str:
    """Write a COCODetectionDataset: `labels.json`, and `data/` with the images.

    Parameters
    ----------
    discovered
        Images, regions, classes and masks of a run.
    out
        The folder to create.
    shape
        Masks as polygons or run lengths.
    images
        The folder of the category's images; paths below `data/` are relative to it.
    link
        Link the images instead of copying them.

    Returns
    -------
    A summary of what was written.

    Raises
    ------
    ConfigError
        `out` exists.
    FileNotFoundError
        An image of the run is missing.
    """
    refuse_existing(out)
    content = coco(discovered, shape=shape)
    with replacing_folder(out) as folder:
        folder.mkdir()
        for image in discovered.images:
            target = folder / "data" / image.path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = images / image.path
            if not source.is_file():
                raise FileNotFoundError(
                    f"{source} is gone: put it back, or run `dvc repro` without it"
                )
            if link:
                target.symlink_to(source.resolve())
            else:
                shutil.copyfile(source, target)
        write_compact(folder / "labels.json", content)
    return summary(content)


def summary(content: dict[str, Any]) -> str:
    """Return the size of a COCO dataset as text."""
    return (
        f"{len(content['images'])} images, {len(content['annotations'])} regions of "
        f"{len(content['categories'])} classes"
    )
