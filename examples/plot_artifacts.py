"""Read the artifacts of a run into a picture: image, anomaly map, mask and squares of each region.

    python examples/plot_artifacts.py data metal data/raw/demo overview.png

shows the images with the highest anomaly scores, one a row.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from PIL import Image, ImageDraw

SIDE = 256
ROWS = 6


def main(data: str, category: str, root: str, out: str) -> None:
    """Draw the overview of a category into the image file `out`."""
    folder = Path(data)
    scores = pd.read_parquet(folder / "maps" / category / "scores.parquet")
    images = pd.read_parquet(folder / "manifest" / category / "images.parquet")
    crops = pd.read_parquet(folder / "crops" / category / "crops.parquet")
    classes = pd.read_parquet(folder / "merge" / category / "images.parquet")
    maps = zarr.open_group(folder / "maps" / category / "maps.zarr", mode="r")["maps"]
    masks = zarr.open_group(folder / "mebin" / category / "masks.zarr", mode="r")["masks"]
    table = scores.merge(images, on="sample_id").merge(classes, on="sample_id")
    chosen = table.nlargest(ROWS, "score")
    class_of = dict(zip(classes["sample_id"], classes["class"], strict=True))

    sheet = Image.new("RGB", (3 * SIDE, len(chosen) * SIDE))
    for row, image in enumerate(chosen.itertuples()):
        position = scores.index[scores["sample_id"] == image.sample_id][0]  # rows are in one order
        photo = Image.open(Path(root) / category / str(image.path)).convert("RGB")
        squares = crops[crops["sample_id"] == image.sample_id]
        draw = ImageDraw.Draw(photo)
        for x0, y0, side in squares[["x0", "y0", "side"]].itertuples(index=False):
            draw.rectangle((x0, y0, x0 + side - 1, y0 + side - 1), outline=(255, 160, 0), width=2)
        panels = [
            photo,
            Image.fromarray((255 * maps[position]).astype(np.uint8)),
            Image.fromarray(255 * masks[position].astype(np.uint8)),
        ]
        for column, panel in enumerate(panels):
            small = panel.convert("RGB").resize((SIDE, SIDE))
            sheet.paste(small, (column * SIDE, row * SIDE))
        print(f"row {row}: {image.path}: class {class_of[image.sample_id]}")
    sheet.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
