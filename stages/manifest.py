"""Stage `manifest`: find and check the images of a category, and split their labels off."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import pandas as pd

from pipeline.config.params import Manifest
from pipeline.config.section import Key
from pipeline.io import schemas
from pipeline.io.datasets import Dataset, collect, unused_bits
from pipeline.io.files import replacing_folder
from pipeline.io.inventory import holds_files
from pipeline.io.paths import ArtifactPaths
from pipeline.io.storage import place_of
from pipeline.io.tables import write_parquet
from pipeline.progress import track

log = logging.getLogger("anomalyncd")


def run(
    category: str,
    options: Manifest,
    root: Annotated[str, Key("dataset.root")],
    paths: ArtifactPaths,
) -> None:
    """Write the four tables of `manifest/<category>`, all at once; paths relative to its root."""
    folder = place_of(root) / category
    references = place_of(options.normal_root) / category
    with track(f"manifest {category}") as progress:
        dataset = collect(
            folder,
            layout=options.layout,
            normal_label=options.normal_label,
            exclude_labels=options.exclude_labels,
            normal_list=options.normal_list,
            normal_root=references if holds_files(references) else None,
            part=options.part,
            bits=options.bits,
            progress=progress,
        )
    hint = unused_bits(dataset.largest, options.bits)
    if hint is not None:
        log.warning("%s: %s", category, hint)
    write(paths.manifest(category), dataset, options.bits)
    log.info(
        "%s: %d queries, %d normal references, %d files rejected (layout %s)",
        category,
        len(dataset.split("query")),
        len(dataset.split("normal")),
        len(dataset.rejected),
        dataset.layout,
    )
    if options.part is not None:
        log.info(
            "%s: %d parts by manifest.part",
            category,
            len({sample.part for sample in dataset.samples}),
        )


def write(folder: Path, dataset: Dataset, bits: int = 16) -> None:
    """Write the tables; labels and masks are those of the queries, where there are any.

    The metadata of images.parquet keep `bits`, by which the later stages read the images.
    """
    queries = dataset.split("query")
    images = [
        (s.sample_id, s.path, s.split, s.height, s.width, s.channels, s.part)
        for s in dataset.samples
    ]
    labels = [(s.sample_id, s.label) for s in queries if s.label is not None]
    masks = [(s.sample_id, s.mask) for s in queries if s.mask is not None]
    tables = (
        ("images.parquet", images, schemas.IMAGES),
        ("labels.parquet", labels, schemas.LABELS),
        ("masks.parquet", masks, schemas.MASKS),
        ("rejected.parquet", list(dataset.rejected), schemas.REJECTED),
    )
    with replacing_folder(folder) as temporary:
        temporary.mkdir()
        for name, rows, schema in tables:
            frame = pd.DataFrame(rows, columns=schema.names)
            notes = {"bits": bits, "largest": dataset.largest} if name == "images.parquet" else None
            write_parquet(temporary / name, frame, schema, notes)
