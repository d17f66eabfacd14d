"""Files of the comparison: arrays that all peers share, predictions of a method with their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.io.paths import ArtifactError, damaged, missing
from pipeline.io.schemas import PEER
from pipeline.io.stored import NUMBER, Fields, read_object
from pipeline.io.tables import read_metadata, read_parquet, write_parquet

DESCRIPTION = "features.json"
_FIELDS: Fields = {
    "sample_ids": (list,),
    "crop_ids": (list,),
    "grid": (list,),
    "seconds": (dict,),
    "references_in_maps": (bool,),
}


@dataclass(frozen=True)
class Cost:
    """What a row cost, in a process of its own; `seconds` are those of one seed."""

    seconds: float
    host_mib: float
    gpu_mib: float | None
    device: str
    threads: int


@dataclass(frozen=True)
class RowRun:
    """A row on an input: predictions (S, N) of S seeds, or the reason why there are none."""

    row: str
    input: str
    sample_ids: Sequence[str]
    seeds: Sequence[int]
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None
    cost: Cost | None
    notes: Mapping[str, float] = field(default_factory=dict)
    skipped: str | None = None


def save_array(folder: Path, name: str, array: NDArray[Any]) -> None:
    """Write an array as NAME.npy."""
    np.save(folder / f"{name}.npy", array, allow_pickle=False)


def new_array(folder: Path, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return NAME.npy as a new array that is written as it is filled."""
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


def open_array(folder: Path, name: str, *, required: bool = True) -> NDArray[Any] | None:
    """Return NAME.npy, memory-mapped; None where it is missing and not `required`."""
    path = folder / f"{name}.npy"
    if not path.exists():
        if required:
            raise missing(path)
        return None
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise damaged(path, f"not a readable array ({error})") from error
    return array


def read_description(folder: Path) -> dict[str, Any]:
    """Return features.json of a category."""
    return read_object(folder / DESCRIPTION, _FIELDS)


def write_predictions(path: Path, runs: Sequence[RowRun], commit: str | None) -> None:
    """Write the predictions of rows as a table, with their cost and notes in its metadata."""
    frames = [_frame(run) for run in runs if run.skipped is None]
    columns = {name: pd.Series(dtype=object) for name in PEER.names}
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns)
    rows = [
        {
            "row": run.row,
            "input": run.input,
            "seeds": [int(seed) for seed in run.seeds],
            "cost": None if run.cost is None else asdict(run.cost),
            "notes": dict(run.notes),
            "skipped": run.skipped,
        }
        for run in runs
    ]
    write_parquet(path, frame, PEER, {"rows": rows, "commit": commit})


def _frame(run: RowRun) -> pd.DataFrame:
    n_seeds, n = run.classes.shape
    probabilities: list[Any] = [None] * (n_seeds * n)
    if run.probabilities is not None:
        probabilities = list(run.probabilities.reshape(n_seeds * n, -1))
    return pd.DataFrame(
        {
            "row": run.row,
            "input": run.input,
            "seed": np.repeat(run.seeds, n),
            "sample_id": list(run.sample_ids) * n_seeds,
            "class": run.classes.ravel(),
            "probabilities": probabilities,
        }
    )


def read_predictions(path: Path) -> tuple[list[RowRun], str | None]:
    """Return what `write_predictions` wrote (probabilities left out), and the commit."""
    table, metadata = read_parquet(path, PEER), read_metadata(path)
    described = metadata.get("rows")
    if not isinstance(described, list):
        raise damaged(path, "does not say which rows it holds")
    return [_run(path, table, entry) for entry in described], metadata.get("commit")


def _run(path: Path, table: pd.DataFrame, entry: Mapping[str, Any]) -> RowRun:
    try:
        row, given = str(entry["row"]), str(entry["input"])
        cost = None if entry["cost"] is None else Cost(**entry["cost"])
        seeds, notes, skipped = entry["seeds"], entry["notes"], entry["skipped"]
    except (KeyError, TypeError) as error:
        raise damaged(path, f"describes a row without {error}") from error
    own = table[(table["row"] == row) & (table["input"] == given)]
    if skipped is not None:
        return RowRun(row, given, [], [], np.zeros((0, 0), np.int64), None, cost, {}, str(skipped))
    blocks = [own[own["seed"] == seed] for seed in seeds]
    ids = blocks[0]["sample_id"].tolist() if blocks else []
    if not blocks or any(block["sample_id"].tolist() != ids for block in blocks):
        raise damaged(path, f"the row {row!r} lacks images or seeds")
    if not all(isinstance(value, NUMBER) for value in notes.values()):
        raise ArtifactError(f"{path}: notes of {row!r} are not numbers; run the stage again")
    classes = np.stack([block["class"].to_numpy(np.int64) for block in blocks])
    return RowRun(row, given, ids, seeds, classes, None, cost, notes)
