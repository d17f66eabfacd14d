"""COCO instance JSON, and FiftyOne's folder around it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.exports.discovered import Discovered, Picture, Region
from pipeline.exports.files import Shape, refuse_existing, write_compact
from pipeline.exports.outlines import column_runs, outlines
from pipeline.io.files import replacing_folder


def coco(found: Discovered, *, shape: Shape, prefix: str = "") -> dict[str, Any]:
    """Return what was discovered as a COCO dataset; file names are `prefix` and the path.

    An annotation is a region that is not normal, its category a discovered class (class numbers;
    classes of one name are one category). Polygons cover exactly the pixels of the mask; `rle` is
    the uncompressed run-length encoding of the same. Images without annotations stay.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(found.pictures, start=1):
        images.append(_image(picture, number, prefix))
        for region, mask in found.defects(picture):
            head = {"id": len(annotations) + 1, "image_id": number}
            category = {"category_id": found.class_of(region.number)}
            annotations.append({**head, **category, **_annotation(region, mask, shape)})
    return {
        "info": {"description": f"{found.category}: classes discovered by AnomalyNCD {found.run}"},
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": "defect"}
            for number, name in found.classes().items()
            if number != 0
        ],
        "images": images,
        "annotations": annotations,
    }


def _image(picture: Picture, number: int, prefix: str) -> dict[str, Any]:
    return {
        "id": number,
        "file_name": prefix + picture.path,
        "height": picture.height,
        "width": picture.width,
        "sample_id": picture.sample_id,
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


def write_coco(found: Discovered, out: Path, *, shape: Shape) -> str:
    """Write the JSON file; file names are relative to dataset.root. Return what was written."""
    refuse_existing(out)
    content = coco(found, shape=shape, prefix=f"{found.category}/")
    write_compact(out, content)
    return summary(content)


def write_fiftyone(
    found: Discovered, out: Path, *, shape: Shape, images: Path, link: bool = False
) -> str:
    """Write a COCODetectionDataset: `labels.json` and `data/` with the images, copied or linked.

    `images` is the folder of the category; names below `data/` are the paths relative to it.
    """
    refuse_existing(out)
    content = coco(found, shape=shape)
    with replacing_folder(out) as folder:
        folder.mkdir()
        for picture in found.pictures:
            target = folder / "data" / picture.path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = images / picture.path
            if not source.is_file():
                raise FileNotFoundError(
                    f"{source} is gone: run `dvc repro` on the images there are"
                )
            if link:
                target.symlink_to(source.resolve())
            else:
                shutil.copyfile(source, target)
        write_compact(folder / "labels.json", content)
    return summary(content)


def summary(content: dict[str, Any]) -> str:
    """Say in one line what a COCO dataset holds."""
    return (
        f"{len(content['images'])} images, {len(content['annotations'])} regions of "
        f"{len(content['categories'])} classes"
    )
