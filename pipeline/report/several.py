"""Images with several kinds of defects: what their regions and they themselves are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.io.images import ImageError, read_image
from pipeline.report.category import Category
from pipeline.report.page import SeveralClasses, Thumbnail
from pipeline.report.pictures import boxed

SEVERAL = 12
"""Images shown that have several defect classes."""


def several(category: Category, metrics: Mapping[str, float | None]) -> SeveralClasses:
    """Return the images with the most defect classes among their regions (section 3.4).

    Each region's square has the colour of its class; the two most probable classes of the regions
    and of the image stand below it (figure 12 of the paper). `metrics` are those of `evaluate`.
    Unreadable images are left out.
    """
    merged, regions = category.merged, category.regions
    sizes = merged["class_set"].map(len)
    n_several = int((sizes >= 2).sum())
    note = f"{n_several} of {len(merged)} images have regions of two or more defect classes."
    count, share = metrics.get("combined_n"), metrics.get("combined_multi")
    if count is not None and share is not None:
        note += f" Of the {count:.0f} images labelled as combined it is {share:.0%}."
    thumbnails = []
    shown = sizes[sizes >= 2].sort_values(ascending=False, kind="stable").index[:SEVERAL]
    for i in shown.tolist():
        sample_id = str(merged["sample_id"][i])
        path = category.paths[sample_id]
        try:
            image = read_image(category.folder / path, category.bits)
        except ImageError:
            continue
        own = (regions["sample_id"] == sample_id).to_numpy()
        columns = category.crops.loc[own, ["x0", "y0", "side"]].to_numpy().tolist()
        boxes = [(int(x0), int(y0), int(side)) for x0, y0, side in columns]
        uri = boxed(image, boxes, regions.loc[own, "class"].tolist())
        classes = ", ".join(str(k) for k in merged["class_set"][i])
        details = [f"region {_probable(p)}" for p in regions.loc[own, "probabilities"]]
        details.append(f"image {_probable(merged['probabilities'][i])}")
        thumbnails.append(
            Thumbnail(uri, path, f"classes {classes}; merged {merged['class'][i]}", details)
        )
    return SeveralClasses(note, thumbnails)


def _probable(probabilities: Iterable[float]) -> str:
    """Return the two most probable classes: "2: 0.81, 1: 0.12"."""
    values = np.asarray(list(probabilities))
    order = np.argsort(-values, kind="stable")[:2].tolist()
    return ", ".join(f"{k}: {values[k]:.2f}" for k in order)
