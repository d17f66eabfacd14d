"""The artifacts of one category that its report and review page show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from pipeline.curation.names import ClassNames, names_or_numbers
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.schemas import IMAGES, LABELS, MAP_SCORES, MASKS, MERGED, PART_VERDICTS
from pipeline.io.storage import Place
from pipeline.io.tables import image_bits, read_parquet


@dataclass(frozen=True)
class Category:
    """The tables of one category. `paths`, `labels` and `masks` are keyed by sample_id.

    `folder` holds its images; `regions` and `crops` have the same rows; `verdicts` are on parts.
    `notes` say why names are
    not used; `bits` are the significant bits of 16-bit images.
    """

    name: str
    artifacts: ArtifactPaths
    folder: Place
    paths: Mapping[str, str]
    labels: Mapping[str, str]
    masks: Mapping[str, str]
    merged: pd.DataFrame
    regions: pd.DataFrame
    crops: pd.DataFrame
    scores: pd.DataFrame
    sizes: pd.DataFrame
    verdicts: pd.DataFrame
    names: ClassNames
    notes: tuple[str, ...] = ()
    bits: int = 16


def class_label(names: ClassNames, number: int) -> str:
    """Return the heading of a class: "class 3", with its name "class 3: scratch"."""
    if number in names.names:
        return f"class {number}: {names[number]}"
    return f"class {number}" + (f" ({names[0]})" if number == 0 else "")


def read_category(name: str, folder: Place, artifacts: ArtifactPaths, names_path: Path) -> Category:
    """Read the tables of a category.

    Parameters
    ----------
    name
        The category.
    folder
        Its images.
    artifacts, names_path
        The artifacts, and the file with the names of the classes.

    Returns
    -------
    The tables; class numbers and a note stand for names of another run.

    Raises
    ------
    ArtifactError
        An artifact is missing or damaged, or the regions were made from other crops.
    ConfigError
        The file of names is not valid.
    """
    manifest = artifacts.manifest(name)
    regions, crops = read_regions_and_crops(artifacts, name)
    names, notes = names_or_numbers(names_path, name, artifacts)
    images = read_parquet(manifest / "images.parquet", IMAGES)
    return Category(
        name=name,
        artifacts=artifacts,
        folder=folder,
        paths=dict(zip(images["sample_id"].tolist(), images["path"].tolist(), strict=True)),
        labels=_by_sample(manifest / "labels.parquet", LABELS, "label"),
        masks=_by_sample(manifest / "masks.parquet", MASKS, "mask_path"),
        merged=read_parquet(artifacts.merge(name) / "images.parquet", MERGED),
        regions=regions,
        crops=crops,
        scores=read_parquet(artifacts.maps(name) / "scores.parquet", MAP_SCORES),
        sizes=images.set_index("sample_id")[["height", "width"]],
        verdicts=read_parquet(artifacts.merge(name) / "parts.parquet", PART_VERDICTS),
        names=names,
        notes=notes,
        bits=image_bits(manifest),
    )


def _by_sample(path: Path, schema: pa.Schema, column: str) -> dict[str, str]:
    frame = read_parquet(path, schema)
    return dict(zip(frame["sample_id"].tolist(), frame[column].tolist(), strict=True))
