"""The cache of views on disk: its sources, which crops it is of, and its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.sampling import bottom_k
from pipeline.config.params import Compute, Views
from pipeline.io.paths import ArtifactError, ArtifactPaths, damaged, missing
from pipeline.io.stored import read_object, sha256_of
from pipeline.mgvit.tokens import ArrayLike, Picked, RaggedTokens

OFFSETS, TOKENS, JSON = "offsets.npy", "tokens.bin", "views.json"


def sources(category: str, views: Views, compute: Compute, paths: ArtifactPaths) -> dict[str, Any]:
    """Return the settings and hashes that the views of a category depend on, as JSON values."""
    return {
        "views": views.count,
        "settings": {**views.to_json(), "dtype": compute.dtype},
        "backbone": sha256_of(paths.backbone() / "backbone.json"),
        "base": sha256_of(paths.base() / "crops.parquet"),
        "crops": sha256_of(paths.crops(category) / "crops.parquet"),
    }


def open_views(folder: Path, expected: dict[str, Any]) -> RaggedTokens:
    """Return the tokens of all views, memory-mapped; `expected` are their sources.

    Raises `ArtifactError` for a cache of other sources and for inconsistent files.
    """
    cached = read_object(folder / JSON, {"views": (int,)})
    for name, value in expected.items():
        if cached.get(name) != value:
            raise ArtifactError(f"{folder}: made from other {name}; run the stage 'views' again")
    cached = read_object(folder / JSON, {"n_base": (int,), "n_novel": (int,), "dim": (int,)})
    offsets = _offsets(folder / OFFSETS, cached["views"] * (cached["n_base"] + cached["n_novel"]))
    path, shape = folder / TOKENS, (int(offsets[-1]), int(cached["dim"]))
    if not path.exists():
        raise missing(path)
    if path.stat().st_size != shape[0] * shape[1] * np.dtype(np.float16).itemsize:
        raise damaged(path, f"not the {shape[0]} tokens that {OFFSETS} tells of")
    return RaggedTokens(np.memmap(path, np.float16, mode="r", shape=shape), offsets)


def _offsets(path: Path, n_views: int) -> NDArray[np.int64]:
    try:
        offsets = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise missing(path) from None
    except (EOFError, OSError, ValueError) as error:
        raise damaged(path, f"not a readable array ({error})") from error
    if (
        not isinstance(offsets, np.ndarray)
        or offsets.dtype != np.int64
        or offsets.shape != (n_views + 1,)
        or offsets[0] != 0
        or (np.diff(offsets) <= 0).any()
    ):
        raise damaged(path, f"not the offsets of {n_views} views")
    return offsets


def training_rows(crops: pd.DataFrame, views: Views) -> NDArray[np.int64]:
    """Return the rows (M,) of crops.parquet to train on: all, or `views.sample` of them."""
    return bottom_k(crops["crop_id"].tolist(), views.sample, views.seed)


def picked(crops: ArrayLike, rows: NDArray[np.int64]) -> ArrayLike:
    """Return the crops `rows`."""
    return crops if len(rows) == crops.shape[0] else Picked(crops, rows)
