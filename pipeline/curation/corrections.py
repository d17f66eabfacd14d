"""Corrections from the review page, in data/corrections/<category>.json.

    {"category": "metal", "run": "0d3f5a1b2c4e",
     "corrections": [{"crop_id": "5c1f-0", "class": 3}, {"crop_id": "5c1f-1", "name": "stain"}]}

A correction gives a region another class of the run, or the name of a new class. As with names,
corrections of another `run` are an error. `corrected_classes` returns the classes to use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.section import ConfigError
from pipeline.curation.downloads import read_download
from pipeline.curation.names import ClassNames, run_of
from pipeline.io.class_tree import moved_classes
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import n_classes
from pipeline.io.tables import write_json

LONGEST_NAME = 100
LARGEST_FILE = 64 * 2**20
"""Bytes: a file of about a million corrections."""

Target = int | str
"""The number of a class, or the name of a new one."""


@dataclass(frozen=True)
class Corrections:
    """Corrections of one run of a category, by crop_id."""

    category: str
    run: str
    targets: Mapping[str, Target] = field(default_factory=dict)


def corrections_path(paths: ArtifactPaths, category: str) -> Path:
    """Return the file of a category's corrections, which need not exist."""
    return paths.root / "corrections" / f"{category}.json"


def applied_corrections(
    paths: ArtifactPaths, category: str, regions: pd.DataFrame
) -> Mapping[str, Target]:
    """Return the stored corrections of `regions`, by crop_id.

    Raises `ConfigError` if they are of another run or do not fit the regions.
    """
    path = corrections_path(paths, category)
    if not path.exists():
        return {}
    stored = read_corrections(path)
    _check(path, stored, category, run_of(paths, category), regions)
    return stored.targets


def corrected_classes(
    paths: ArtifactPaths, category: str, regions: pd.DataFrame, names: ClassNames | None = None
) -> list[Target]:
    """Return the class of each region after corrections.

    Parameters
    ----------
    regions
        Columns of `REGIONS`, M rows.
    names
        A correction to the name of a class in `names` gives the number of that class, the lowest if
        several have the name. One to a class that was merged into another gives that.

    Returns
    -------
    M class numbers, or names of new classes.

    Raises
    ------
    ConfigError
        The stored corrections are of another run or do not fit `regions`.
    """
    targets = applied_corrections(paths, category, regions)
    names = names or ClassNames()
    numbers = {names[k]: k for k in reversed(range(n_classes(regions)))}
    moved = moved_classes(paths, category)
    classes: list[Target] = []
    for crop_id, number in zip(regions["crop_id"], regions["class"], strict=True):
        target = targets.get(crop_id, int(number))
        target = numbers.get(target, target) if isinstance(target, str) else target
        classes.append(target if isinstance(target, str) else moved.get(target, target))
    return classes


def add_corrections(paths: ArtifactPaths, category: str, path: Path, regions: pd.DataFrame) -> int:
    """Add the corrections of a downloaded file to the stored ones.

    A newer correction of a region replaces the older; one to the class of the model removes it.

    Returns
    -------
    The number of stored corrections.

    Raises
    ------
    ConfigError
        The file is not for these regions; nothing is written.
    """
    new = read_corrections(path)
    run = run_of(paths, category)
    _check(path, new, category, run, regions)
    merged = {**applied_corrections(paths, category, regions), **new.targets}
    model = dict(zip(regions["crop_id"].tolist(), regions["class"].tolist(), strict=True))
    kept = {crop_id: merged[crop_id] for crop_id in model if crop_id in merged}
    rows = [
        {"crop_id": crop_id, "name" if isinstance(target, str) else "class": target}
        for crop_id, target in kept.items()
        if target != model[crop_id]
    ]
    write_json(
        corrections_path(paths, category), {"category": category, "run": run, "corrections": rows}
    )
    return len(rows)


def read_corrections(path: Path) -> Corrections:
    """Read a file of corrections; raise `ConfigError`, with file and entry, if it is not valid."""
    category, run, entries = read_download(path, "corrections", LARGEST_FILE)
    return Corrections(category, run, _targets(path, entries))


def _targets(path: Path, entries: Sequence[Any]) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for i, entry in enumerate(entries):
        where = f"{path}: corrections[{i}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("crop_id"), str):
            raise ConfigError(f"{where}: must have a crop_id")
        if set(entry) not in ({"crop_id", "class"}, {"crop_id", "name"}):
            raise ConfigError(f"{where}: must have, beside crop_id, either class or name")
        crop_id = entry["crop_id"]
        if crop_id in targets:
            raise ConfigError(f"{where}: {crop_id!r} is corrected twice")
        targets[crop_id] = _name(where, entry) if "name" in entry else _number(where, entry)
    return targets


def _number(where: str, entry: Mapping[str, Any]) -> int:
    number = entry["class"]
    if isinstance(number, bool) or not isinstance(number, int):
        raise ConfigError(f"{where}: {number!r} is not a class number")
    return number


def _name(where: str, entry: Mapping[str, Any]) -> str:
    name = entry["name"].strip() if isinstance(entry["name"], str) else ""
    if not name or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"{where}: {entry['name']!r} is not a name: give one line of 1 to {LONGEST_NAME} "
            "characters"
        )
    return str(name)


def _check(
    path: Path, corrections: Corrections, category: str, run: str, regions: pd.DataFrame
) -> None:
    """Raise `ConfigError` unless the corrections are for these regions of this category."""
    if corrections.category != category:
        raise ConfigError(f"{path}: is for {corrections.category!r}, not for {category!r}")
    if corrections.run != run:
        raise ConfigError(
            f"{path}: these corrections of {category} are of another run ({corrections.run}, this "
            f"one is {run}); correct the regions on the present report, or move the file away"
        )
    crop_ids, last = set(regions["crop_id"]), n_classes(regions) - 1
    for crop_id, target in corrections.targets.items():
        if crop_id not in crop_ids:
            raise ConfigError(f"{path}: {category} has no region {crop_id!r}")
        if isinstance(target, int) and not 0 <= target <= last:
            raise ConfigError(
                f"{path}: {crop_id}: {category} has no class {target}: its classes are "
                f"0 (normal) to {last}"
            )
