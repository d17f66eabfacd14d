"""Label Studio: one task an image, its regions as predictions, and a labelling configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from pipeline.config.params import ConfigError
from pipeline.exports.discovered import Discovered, Picture, Region
from pipeline.exports.files import Shape, refuse_existing, write_compact
from pipeline.exports.outlines import brush_runs, outlines
from pipeline.io.files import replacing
from pipeline.palette import class_colour

LOCAL_FILES = "/data/local-files/?d="
"""Label Studio's own address of files below its document root; the path follows."""

_KINDS = {
    Shape.POLYGON: ("polygonlabels", "PolygonLabels"),
    Shape.RLE: ("brushlabels", "BrushLabels"),
}
_FROM, _TO = "label", "image"


def tasks(found: Discovered, *, shape: Shape, address: str = LOCAL_FILES) -> list[dict[str, Any]]:
    """Return the tasks: `data.image` is `address` and the path relative to dataset.root."""
    return [
        {
            "data": {
                "image": address + quote(f"{found.category}/{picture.path}"),
                "sample_id": picture.sample_id,
            },
            "predictions": [_prediction(found, picture, shape)],
        }
        for picture in found.pictures
    ]


def _prediction(found: Discovered, picture: Picture, shape: Shape) -> dict[str, Any]:
    """Return one prediction; its score is that of the least certain region, if there is one."""
    results, scores = [], []
    for region, mask in found.defects(picture):
        scores.append(region.confidence)
        for part, value in enumerate(_values(mask, shape)):
            results.append(_result(found, region, part, value, shape, picture))
    score = {"score": round(min(scores), 6)} if scores else {}
    return {"model_version": f"AnomalyNCD {found.run}", **score, "result": results}


def _values(mask: NDArray[np.bool_], shape: Shape) -> list[dict[str, Any]]:
    """Return the value of each result: points in percent of the image, or the packed runs."""
    if shape is Shape.RLE:
        return [{"format": "rle", "rle": brush_runs(mask)}]
    height, width = mask.shape
    percent = 100 / np.array([width, height])
    return [{"points": (points * percent).tolist(), "closed": True} for points in outlines(mask)]


def _result(
    found: Discovered,
    region: Region,
    part: int,
    value: dict[str, Any],
    shape: Shape,
    picture: Picture,
) -> dict[str, Any]:
    kind = _KINDS[shape][0]
    return {
        "id": region.crop_id if part == 0 else f"{region.crop_id}-{part}",
        "from_name": _FROM,
        "to_name": _TO,
        "type": kind,
        "original_width": picture.width,
        "original_height": picture.height,
        "image_rotation": 0,
        "score": round(region.confidence, 6),
        "value": {**value, kind: [found.names[region.number]]},
    }


def labelling(found: Discovered, *, shape: Shape) -> str:
    """Return the labelling configuration (XML) that the tasks refer to."""
    labels = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(class_colour(n))}/>"
        for n, name in found.classes().items()
        if n != 0
    )
    tag = _KINDS[shape][1]
    return (
        f'<View>\n  <Image name="{_TO}" value="$image" zoom="true"/>\n'
        f'  <{tag} name="{_FROM}" toName="{_TO}">\n{labels}\n  </{tag}>\n</View>\n'
    )


def write_label_studio(found: Discovered, out: Path, *, shape: Shape, address: str) -> str:
    """Write the tasks, and beside them the configuration with the ending .xml."""
    configuration = out.with_suffix(".xml")
    if configuration == out:
        raise ConfigError(f"--out: {out} is for the tasks: give it the ending .json")
    refuse_existing(out)
    refuse_existing(configuration)
    content = tasks(found, shape=shape, address=address)
    with replacing(configuration) as temporary:
        temporary.write_text(labelling(found, shape=shape), encoding="utf-8")
    write_compact(out, content)
    results = sum(len(task["predictions"][0]["result"]) for task in content)
    return (
        f"{len(content)} tasks with {results} results; the labelling configuration is "
        f"{configuration}"
    )
