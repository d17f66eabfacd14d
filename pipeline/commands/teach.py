"""`anomalyncd teach`: let the next fit keep what people said about regions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from pipeline.commands.errors import check_run, reported
from pipeline.commands.options import DATA, CategoryArgument, DataOption, NamesOption
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import (
    applied_corrections,
    corrected_classes,
    corrections_path,
)
from pipeline.curation.examples import NORMAL, Example, add_examples, examples_path
from pipeline.curation.names import NAMES, ClassNames, names_for
from pipeline.io.files import free_path
from pipeline.io.images import sample_id
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.schemas import IMAGES
from pipeline.io.tables import read_parquet
from pipeline.terminal import say

TYPICAL = 5


def teach(
    category: CategoryArgument,
    typical: Annotated[
        int, typer.Option(min=0, help="Typical regions of each named class; 0: corrections alone.")
    ] = TYPICAL,
    folder: Annotated[
        Path | None,
        typer.Option(help="Instead: a folder with a folder of example images for each class."),
    ] = None,
    names: NamesOption = NAMES,
    data: DataOption = DATA,
) -> None:
    """Keep corrections, and typical regions of named classes, as they are in the next fit."""
    with reported("teach"):
        paths = ArtifactPaths(data)
        images = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
        if folder is not None:
            new = _of_folder(folder, images, category)
        else:
            check_run(category, paths)
            new = _of_run(paths, category, images, names_for(names, category, paths), typical)
        if not new:
            raise ConfigError(
                f"{category}: nothing to teach: correct regions (`anomalyncd correct`) or name "
                "classes (`anomalyncd name`) first"
            )
        path = examples_path(paths, category)
        total = add_examples(path, new)
        counts = pd.Series([example.name for example in new]).value_counts()
        say(f"{category}: {', '.join(f'{n} of {k}' for k, n in sorted(counts.items()))}")
        say(f"{path} has {total} examples now: commit it, then fit again with `dvc repro`")
        if folder is None and corrections_path(paths, category).exists():
            old = corrections_path(paths, category)
            kept = free_path(old.with_name(f"{old.name}.taught"))
            old.rename(kept)
            say(f"the corrections are examples now; kept them as {kept}")


def _of_run(
    paths: ArtifactPaths, category: str, images: pd.DataFrame, names: ClassNames, typical: int
) -> list[Example]:
    """Return the corrected regions, and the most typical ones of named defect classes."""
    regions, crops = read_regions_and_crops(paths, category)
    if not len(regions):
        return []
    path_of = dict(zip(images["sample_id"], images["path"], strict=True))
    corrected = applied_corrections(paths, category, regions)
    targets = corrected_classes(paths, category, regions, names)
    chosen = {i: targets[i] for i, c in enumerate(regions["crop_id"]) if c in corrected}
    x = np.stack([np.asarray(row, np.float64) for row in regions["embedding"]])
    classes, has = regions["class"].to_numpy(), crops["area_px"].to_numpy() > 0
    for number in sorted(set(names.names) - {0}):
        rows = np.flatnonzero((classes == number) & has)
        rows = np.array([i for i in rows if i not in chosen], np.int64)
        if len(rows):
            gaps = ((x[rows] - x[rows].mean(0)) ** 2).sum(1)
            chosen |= {int(i): number for i in rows[gaps.argsort(kind="stable")[:typical]]}
    found = []
    for i, target in sorted(chosen.items()):
        name = target if isinstance(target, str) else NORMAL if target == 0 else names[target]
        crop = crops.iloc[i]
        if not has[i]:  # the whole image, without a region
            continue
        half = int(crop["side"]) // 2
        pixel = int(crop["x0"]) + half, int(crop["y0"]) + half
        found.append(Example(str(path_of[crop["sample_id"]]), name, pixel))
    return found


def _of_folder(folder: Path, images: pd.DataFrame, category: str) -> list[Example]:
    """Return an example of each image in the folder of a class; images are found by content."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    path_of = dict(zip(images["sample_id"], images["path"], strict=True))
    found = []
    for file in sorted(folder.glob("*/*")):
        if not file.is_file() or file.name.startswith("."):
            continue
        path = path_of.get(sample_id(file))
        if path is None:
            raise ConfigError(
                f"{file} is not an image of {category}: put copies of its images into {folder}, "
                "as scratch/003.png, and the image into the product's folder"
            )
        found.append(Example(str(path), file.parent.name))
    if not found:
        raise ConfigError(f"{folder} has no images in folders named after classes")
    return found
