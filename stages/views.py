"""Stage `views`: frozen-block tokens of the augmented views of base and novel crops, computed once.

Writes data/views/<category>/ with `tokens.bin` (rows of float16), `offsets.npy` and `views.json`.
It is a cache: not pushed, and not needed after training. It is empty with `views.count: 0`, and
unless heads are trained (`predict.classifier: heads`).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import numpy as np

from pipeline.config.params import Compute, Views
from pipeline.config.section import Classifier, Key
from pipeline.io.files import replacing_folder
from pipeline.io.networks import augmentations, crop_arrays, load_blocks
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS
from pipeline.io.tables import read_parquet, write_json
from pipeline.io.view_cache import JSON, OFFSETS, TOKENS, picked, sources, training_rows
from pipeline.mgvit.tokens import FrozenBlocks, iter_augmented
from pipeline.progress import track


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
            blocks = load_blocks(paths, options, compute)
            description = sources(category, options, compute, paths)
            description |= _fill(folder, category, options, paths, blocks)
        write_json(folder / JSON, description)


def _fill(
    folder: Path, category: str, options: Views, paths: ArtifactPaths, blocks: FrozenBlocks
) -> dict[str, object]:
    lengths: list[np.ndarray] = []
    base, novel = crop_arrays(paths.base()), crop_arrays(paths.crops(category))
    table = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    rows = training_rows(table, options)
    novel = (picked(novel[0], rows), picked(novel[1], rows))
    n_base, dim = base[0].shape[0], blocks.vit.embed_dim
    with (
        (folder / TOKENS).open("wb") as file,
        track(f"views of {category}: base") as base_progress,
        track(f"views of {category}: novel") as novel_progress,
    ):
        sources = ((base, 0, base_progress), (novel, n_base, novel_progress))
        pieces = itertools.chain.from_iterable(
            iter_augmented(
                blocks,
                *crops,
                n_views=options.count,
                seed=options.seed,
                augmentations=augmentations(options),
                first_sample=first,
                progress=progress,
            )
            for crops, first, progress in sources
        )
        for piece in pieces:
            piece.flat.tofile(file)
            lengths.append(np.diff(piece.offsets))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    np.save(folder / OFFSETS, offsets)
    return {"n_base": n_base, "n_novel": len(rows), "dim": int(dim)}
