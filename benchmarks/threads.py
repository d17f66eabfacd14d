"""Run all stages with 1 and with 2 threads and compare what they write, file by file.

    python -m benchmarks.threads                             # a random ViT of one block, seconds
    python -m benchmarks.threads --weights backbone.safetensors  # DINOv2 ViT-S/14 at 224 px

The set is that of `benchmarks.kills`: 6 queries and 2 references of the demo's metal. Prints a
line a file that differs, with the largest difference of every array and column in it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.kills import CATEGORY, STAGES, run_stage, settings, write_set
from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.io.arrays import open_arrays
from pipeline.io.paths import ArtifactPaths

Values = Mapping[str, NDArray[Any]]


def params_of(root: Path, weights: Path | None) -> Params:
    """Return the parameters of `benchmarks.kills`, with a DINOv2 ViT-S/14 if there are weights."""
    tiny = settings(root, seed=0)
    if weights is None:
        return tiny
    content = tiny.model_dump(by_alias=True)
    content["backbone"] = {
        "source": "file",
        "path": str(weights),
        "name": "vit_small_patch14_dinov2.lvd142m",
    }
    content["maps"] |= {"runs": [[5, 1], [5, 3]], "resolution": 224, "map_size": 224}
    content["views"] |= {"image_size": 224}
    content["crops"] |= {"size": 256}
    content["predict"] |= {"layers": [5, 8]}
    return parse_params(content)


def values(path: Path) -> Values:
    """Return the numbers in a file, or a Zarr group, by name."""
    if path.suffix == ".parquet":
        return dict(_columns(pd.read_parquet(path)))
    if path.suffix == ".safetensors":
        found: Values = load_file(path)
        return found
    if path.suffix == ".npy":
        return {"": np.load(path, allow_pickle=False)}
    if path.suffix == ".zarr":
        group = open_arrays(path)
        return {name: np.asarray(group[name]) for name in group.array_keys()}
    return {}


def _columns(frame: pd.DataFrame) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, column in frame.items():
        if len(column) and isinstance(column.iloc[0], np.ndarray):
            yield str(name), np.concatenate([np.asarray(row) for row in column])
        elif pd.api.types.is_numeric_dtype(column):
            yield str(name), column.to_numpy()


def difference(a: NDArray[Any], b: NDArray[Any]) -> str:
    """Return how far two arrays are apart: the largest difference, or the shapes."""
    if a.shape != b.shape:
        return f"{a.shape} and {b.shape}"
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return f"{np.nanmax(np.abs(x - y), initial=0):.1e} of {np.nanmax(np.abs(x), initial=0):.2g}"


def differing(one: Path, other: Path) -> Iterator[str]:
    """Yield a line for each file, or Zarr group, that differs between two data folders."""
    for path in sorted(_units(one)):
        name = path.relative_to(one)
        if _digest(path) == _digest(other / name):
            continue
        a, b = values(path), values(other / name)
        apart = {key: difference(a[key], b[key]) for key in a if key in b}
        told = ", ".join(f"{key} {what}" for key, what in apart.items() if not what.startswith("0"))
        yield f"{name}: {told or 'other bytes'}"


def _units(data: Path) -> Iterator[Path]:
    for path in data.rglob("*"):
        inside = any(parent.suffix == ".zarr" for parent in path.parents)
        wanted = path.relative_to(data).parts[0] not in ("report", "runs") and not inside
        if wanted and (path.is_file() or path.suffix == ".zarr"):
            yield path


def _digest(path: Path) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            total.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, nargs=2, default=[1, 2])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    weights = None if given.weights is None else given.weights.resolve()
    if given.run is not None:
        for stage in STAGES:
            run_stage(stage, params_of(given.run.parent, weights), ArtifactPaths(given.run))
        return
    with tempfile.TemporaryDirectory() as work:
        write_set(Path(work) / "images")
        folders = [Path(work) / f"threads{n}-{i}" for i, n in enumerate(given.threads)]
        for folder, threads in zip(folders, given.threads, strict=True):
            command = [sys.executable, "-m", "benchmarks.threads", "--run", str(folder)]
            command += [] if weights is None else ["--weights", str(weights)]
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            environment = {**os.environ, **dict.fromkeys(names, str(threads))}
            subprocess.run(command, env=environment, check=True)
        total = len(list(_units(folders[0])))
        lines = list(differing(*folders))
        print(f"{CATEGORY}: {total - len(lines)} of {total} files and groups are the same bytes")
        print(*lines, sep="\n")


if __name__ == "__main__":
    main()
