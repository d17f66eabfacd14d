"""Label Studio tasks with the regions as predictions, and their labelling configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from pipeline.config.section import ConfigError
from pipeline.exports.discovered import Discovered, QueryImage, Region
from pipeline.exports.files import Shape, refuse_existing, write_compact
from pipeline.exports.outlines import brush_runs, outlines
from pipeline.io.files import replacing
from pipeline.palette import class_colour

LOCAL_FILES = "/data/local-files/?d="
"""URL prefix of files below the document root of Label Studio."""

_KINDS = {
    Shape.POLYGON: ("polygonlabels", "PolygonLabels"),
    Shape.RLE: ("brushlabels", "BrushLabels"),
}
_FROM, _TO = "label", "image"


def tasks(
    discovered: Discovered, *, shape: Shape, address: str = LOCAL_FILES
) -> list[dict[str, Any]]:
    """Return one task per image; its URL is `address` and the path relative to dataset.root."""
    return [
        {
            "data": {
                "image": address + quote(f"{discovered.category}/{image.path}"),
                "sample_id": image.sample_id,
            },
            "predictions": [_prediction(discovered, image, shape)],
        }
        for image in discovered.images
    ]


def _prediction(discovered: Discovered, image: QueryImage, shape: Shape) -> dict[str, Any]:
    """Return the prediction of an image; its score is the lowest confidence of its regions."""
    results, scores = [], []
    for region, mask in discovered.defects(image):
        scores.append(region.confidence)
        for part, value in enumerate(_values(mask, shape)):
            results.append(_result(discovered, region, part, value, shape, image))
    score = {"score": round(min(scores), 6)} if scores else {}
    return {"model_version": f"AnomalyNCD {discovered.run}", **score, "result": results}


def _values(mask: NDArray[np.bool_], shape: Shape) -> list[dict[str, Any]]:
    """Return the values of a region's results: polygons in percent of the image, or run lengths."""
    if shape is Shape.RLE:
        return [{"format": "rle", "rle": brush_runs(mask)}]
    height, width = mask.shape
    percent = 100 / np.array([width, height])
    return [{"points": (points * percent).tolist(), "closed": True} for points in outlines(mask)]


def _result(
    discovered: Discovered,
    region: Region,
    part: int,
    value: dict[str, Any],
    shape: Shape,
    image: QueryImage,
) -> dict[str, Any]:
    kind = _KINDS[shape][0]
    return {
        "id": region.crop_id if part == 0 else f"{region.crop_id}-{part}",
        "from_name": _FROM,
        "to_name": _TO,
        "type": kind,
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "score": round(region.confidence, 6),
        "value": {**value, kind: [discovered.names[region.number]]},
    }


def labelling(discovered: Discovered, *, shape: Shape) -> str:
    """Return the labelling configuration (XML) of the tasks."""
    labels = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(class_colour(n))}/>"
        for n, name in discovered.classes().items()
        if n != 0
    )
    tag = _KINDS[shape][1]
    return (
        f'<View>\n  <Image name="{_TO}" value="$image" zoom="true"/>\n'
        f'  <{tag} name="{_FROM}" toName="{_TO}">\n{labels}\n  </{tag}>\n</View>\n'
    )


def write_label_studio(discovered: Discovered, out: Path, *, shape: Shape, address: str) -> str:
    """Write the tasks, and the configuration to the same path with the ending .xml.

    Returns a summary. Raises `ConfigError` if one of the files exists, or `out` ends in .xml.
    """
    configuration = out.with_suffix(".xml")
    if configuration == out:
        raise ConfigError(f"--out: {out} is for the tasks: give it the ending .json")
    refuse_existing(out)
    refuse_existing(configuration)
    content = tasks(discovered, shape=shape, address=address)
    with replacing(configuration) as temporary:
        temporary.write_text(labelling(discovered, shape=shape), encoding="utf-8")
    write_compact(out, content)
    results = sum(len(task["predictions"][0]["result"]) for task in content)
    return (
        f"{len(content)} tasks with {results} results; the labelling configuration is "
        f"{configuration}"
    )
