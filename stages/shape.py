"""Stage `shape`: the tree of the classes, their numbers, and what people merged and split."""

from __future__ import annotations

import logging
import shutil

import numpy as np

from pipeline.clustering.class_tree import grow_tree
from pipeline.curation.choices import choices_path, shaped, stored_choices, to_json
from pipeline.curation.identity import fates_table, identify
from pipeline.curation.names import run_of
from pipeline.io.class_tree import save_tree
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import n_classes, read_predicted
from pipeline.io.schemas import HISTORY, REGIONS
from pipeline.io.tables import read_metadata, write_parquet

log = logging.getLogger("anomalyncd")


def run(category: str, paths: ArtifactPaths) -> None:
    """Write tree and regions of a category.

    Without choices (data/choices/<category>.json), and classes that were named in another run
    (data/identity/<category>.parquet), regions.parquet is that of `predict`, byte by byte.
    """
    source = paths.predict(category) / "regions.parquet"
    regions = read_predicted(paths, category)
    embeddings = np.array([np.asarray(e) for e in regions["embedding"]], np.float32)
    if not len(regions):
        embeddings = np.zeros((0, 1), np.float32)
    tree = grow_tree(embeddings, regions["class"].to_numpy(np.int64), max(1, n_classes(regions)))
    run_id = run_of(paths, category)
    start = identify(paths, category, run_id, regions, tree.n_classes)
    choices, note = stored_choices(paths, category, run_id)
    if note is not None:
        log.warning("%s", note)
    where = choices_path(paths, category)
    classes = shaped(tree, choices, where, start.numbers, start.n_numbers)
    with replacing_folder(paths.shape(category)) as folder:
        folder.mkdir()
        save_tree(folder, classes, start, [to_json(choice) for choice in choices.choices], source)
        write_parquet(folder / "history.parquet", fates_table(start), HISTORY)
        if classes.is_unchanged or not len(regions):
            shutil.copyfile(source, folder / "regions.parquet")
            return
        before = np.stack([np.asarray(p) for p in regions["probabilities"]])
        after = classes.probabilities(before, embeddings).astype(np.float32)
        frame = regions.assign(
            **{"class": after.argmax(1)}, confidence=after.max(1), probabilities=list(after)
        )
        metadata = read_metadata(source)
        write_parquet(folder / "regions.parquet", frame, REGIONS, metadata)
