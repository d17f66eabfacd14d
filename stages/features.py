"""Stage `features`: what every method of the comparison sees of a category, computed once.

Class tokens of plain and augmented views of the whole images and of the crops, tokens pooled under
the masks, patch tokens of images and normal references, and maps and masks on the same patches.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np

from pipeline.config.params import Compute, Views
from pipeline.config.section import Key
from pipeline.inference.peer_features import Encoder
from pipeline.inference.peer_sets import (
    base_arrays,
    crop_arrays_of,
    images_of,
    map_arrays,
    patch_files,
    whole_arrays,
)
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.files import replacing_folder
from pipeline.io.inventory import images_at
from pipeline.io.paths import ArtifactPaths
from pipeline.io.peer_files import DESCRIPTION
from pipeline.io.tables import write_json


def run(
    category: str,
    root: Annotated[str, Key("dataset.root")],
    views: Views,
    layers: Annotated[list[int], Key("predict.layers")],
    compute: Compute,
    paths: ArtifactPaths,
) -> None:
    """Write the arrays and features.json of a category; rows are sorted by name."""
    device = choose_device(compute.device)
    vit = load_saved_vit(paths.backbone(), image_size=views.image_size).to(device).eval()
    encoder = Encoder(vit, views.image_size, device, Autocast(device, compute.dtype))
    folder = images_at(root, category)
    queries = images_of(paths, category, folder, "query")
    normals = images_of(paths, category, folder, "normal")
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()

    with replacing_folder(paths.features(category)) as folder:
        folder.mkdir()
        whole_arrays(folder, encoder, queries, views, category)
        lap("whole")
        crop_ids = crop_arrays_of(folder, encoder, paths, category, views, layers)
        lap("crop")
        grid = patch_files(folder, encoder, queries, normals, category)
        lap("patch")
        in_maps = map_arrays(folder, paths, category, queries.names, grid, views.image_size)
        base_arrays(folder, encoder, paths, views)
        lap("base")
        description = {
            "sample_ids": list(queries.names),
            "crop_ids": crop_ids,
            "grid": list(grid),
            "seconds": seconds,
            "references": len(normals),
            "references_in_maps": in_maps,
            "device": str(device),
            "base_classes": _base_classes(folder),
        }
        write_json(folder / DESCRIPTION, description)


def _base_classes(folder: Path) -> int:
    path = folder / "base_labels.npy"
    if not path.exists():
        return 0
    labels = np.load(path, allow_pickle=False)
    return int(labels.max()) + 1
