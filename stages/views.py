"""Stage `views`: frozen-block tokens of the augmented views of base and novel crops, computed once.

Writes data/views/<category>/ with `tokens.bin` (rows of float16), `offsets.npy` and `views.json`.
It is a cache: not pushed, and not needed after training. It is empty with `views.count: 0`, and
unless heads are trained (`predict.classifier: heads`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np

from pipeline.config.params import Compute, Views
from pipeline.config.section import Classifier, Key
from pipeline.inference.view_blocks import ViewSettings, write_views
from pipeline.io.files import replacing_folder
from pipeline.io.networks import crop_arrays
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS
from pipeline.io.stored import read_object, sha256_of
from pipeline.io.tables import read_parquet, write_json
from pipeline.io.view_cache import JSON, OFFSETS, TOKENS, sources, training_rows


def run(
    category: str,
    options: Views,
    classifier: Annotated[Classifier, Key("predict.classifier")],
    compute: Compute,
    paths: ArtifactPaths,
) -> None:
    """Fill the view cache of a category, where a network is trained on it."""
    with replacing_folder(paths.views(category)) as folder:
        folder.mkdir()
        description: dict[str, object] = {"views": 0}
        if options.count and classifier == "heads":
            description = sources(category, options, compute, paths)
            description |= _fill(folder, category, options, compute, paths)
        write_json(folder / JSON, description)


def _fill(
    folder: Path, category: str, options: Views, compute: Compute, paths: ArtifactPaths
) -> dict[str, object]:
    base, novel = paths.base(), paths.crops(category)
    n_base = int(crop_arrays(base)[0].shape[0])  # checks the arrays, which blocks do not
    crop_arrays(novel)
    rows = training_rows(read_parquet(novel / "crops.parquet", CROPS), options)
    settings = ViewSettings(
        ArtifactPaths(paths.root.absolute()),
        sha256_of(paths.backbone() / "backbone.json"),
        options.model_dump_json(by_alias=True),
        compute.model_dump_json(by_alias=True),
    )
    sets = ((f"{category}: base", base, np.arange(n_base)), (category, novel, rows))
    lengths = write_views(folder / TOKENS, settings, sets)
    np.save(folder / OFFSETS, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    width = read_object(paths.backbone() / "backbone.json", {"width": (int,)})["width"]
    return {"n_base": n_base, "n_novel": len(rows), "dim": width}
