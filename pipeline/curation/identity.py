"""The classes that people know, in data/identity/<category>.parquet.

A row a region: image, square and class, of the run in which a class was last named. A later run
gives its classes the numbers of these (`pipeline.clustering.identity`), and with them names and
colours.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.identity import match_classes
from pipeline.file_checks import file_problem
from pipeline.io.class_tree import Start, check_numbers, has_tree, read_start
from pipeline.io.paths import ArtifactPaths, damaged
from pipeline.io.region_table import n_classes, read_regions
from pipeline.io.schemas import CROPS, IDENTITY
from pipeline.io.tables import read_metadata, read_parquet, write_parquet

LARGEST_FILE = 2**31

SAME = 0.5
"""Intersection over union of the squares from which two regions of an image are the same."""


def identity_path(paths: ArtifactPaths, category: str) -> Path:
    """Return the file of the classes that people know, which need not exist."""
    return paths.root / "identity" / f"{category}.parquet"


def remember_classes(paths: ArtifactPaths, category: str, run: str) -> None:
    """Write the present classes as those that people know, with what was merged and split."""
    if not has_tree(paths, category):
        return
    regions, start = read_regions(paths, category), read_start(paths, category)
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    frame = regions[["crop_id", "class"]].merge(crops, on="crop_id", validate="one_to_one")
    path = identity_path(paths, category)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "run": run,
        "numbers": list(start.numbers),
        "n_start": start.n_numbers,  # before merges and splits: where this run begins again
        "n_numbers": n_classes(regions),  # after them: what a later run must not use again
    }
    write_parquet(path, frame, IDENTITY, content)


def identify(
    paths: ArtifactPaths, category: str, run: str, regions: pd.DataFrame, n_new: int
) -> Start:
    """Return the numbers of the `n_new` classes of a run, and how they were found.

    Without classes that people know, the numbers are those of the run; in the run in which they
    got to know them, the same again. Raises `ArtifactError` for a damaged file.
    """
    path = identity_path(paths, category)
    if not path.exists():
        return Start(range(n_new), n_new)
    problem = file_problem(path, LARGEST_FILE)
    if problem is not None:
        raise damaged(path, problem)
    known = read_parquet(path, IDENTITY)
    metadata = read_metadata(path)
    n_old: Any = metadata.get("n_numbers")
    numbers = check_numbers(path, metadata.get("numbers"), n_old)
    n_start: Any = metadata.get("n_start", n_old)
    check_numbers(path, [0], n_start)
    if not isinstance(metadata.get("run"), str) or not known["class"].between(0, n_old - 1).all():
        raise damaged(path, "is not of the classes of a run")
    if metadata["run"] == run and len(numbers) == n_new:
        return Start(numbers, max(n_start, *(k + 1 for k in numbers)))
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    present = regions[["crop_id", "class"]].merge(crops, on="crop_id", validate="one_to_one")
    identity = match_classes(
        _shared(known, present),
        np.bincount(known["class"], minlength=n_old).tolist(),
        np.bincount(present["class"], minlength=n_new).tolist(),
    )
    fates = [asdict(fate) for fate in identity.fates]
    return Start(identity.numbers, identity.n_numbers, {"run": metadata["run"], "fates": fates})


def fates_table(start: Start) -> pd.DataFrame:
    """Return the rows of history.parquet: what became of each class."""
    rows = start.identity["fates"] if start.identity else []
    columns = ["number", "fate", "other", "before", "now", "shared"]
    return pd.DataFrame(rows, columns=columns).astype({"other": "Int64"})


def _shared(known: pd.DataFrame, present: pd.DataFrame) -> NDArray[np.int64]:
    """Return the old and new class (S, 2) of the regions that both tables have."""
    left, right = (
        frame[["sample_id", "x0", "y0", "side", "class"]].assign(row=np.arange(len(frame)))
        for frame in (known, present)
    )
    pairs = left.merge(right, on="sample_id", suffixes=("_old", "_new"))
    sides = pairs["side_old"], pairs["side_new"]
    inside = np.ones(len(pairs))
    for axis in ("x0", "y0"):
        low = pairs[[f"{axis}_old", f"{axis}_new"]].max(axis=1)
        high = np.minimum(pairs[f"{axis}_old"] + sides[0], pairs[f"{axis}_new"] + sides[1])
        inside *= np.maximum(high - low, 0)
    pairs["overlap"] = inside / (sides[0] ** 2 + sides[1] ** 2 - inside)
    pairs = pairs[pairs["overlap"] >= SAME].sort_values("overlap", ascending=False, kind="stable")
    pairs = pairs.drop_duplicates("row_old").drop_duplicates("row_new")
    return pairs[["class_old", "class_new"]].to_numpy(np.int64)
