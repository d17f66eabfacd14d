"""The stage `evaluate` on written tables: figures of images and of regions, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.config.params import Params
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import LABELS, MAP_SCORES, MASKS, MERGED, REGIONS
from pipeline.io.tables import read_json, write_parquet
from stages import evaluate
from tests.running import run_stage

LABEL_OF = {"p": "good", "q": "a", "r": "a", "s": "b"}
IMAGES = {"p": 0, "q": 1, "r": 2, "s": 2}
REGION_CLASSES = [("p", 0), ("q", 1), ("q", 1), ("r", 2), ("s", 2), ("s", 2)]


def table(path: Path, schema: pa.Schema, **columns: Any) -> None:
    """Write a table; the columns that nobody looks at here are 0 or empty."""
    n = len(next(iter(columns.values())))
    rest = {name: [[]] * n if pa.types.is_list(schema.field(name).type) else [0] * n
            for name in schema.names if name not in columns}  # fmt: skip
    write_parquet(path, pd.DataFrame({**columns, **rest}), schema)


@pytest.fixture
def figures(tmp_path: Path) -> dict[str, float | None]:
    paths, ids = ArtifactPaths(tmp_path), list(LABEL_OF)
    owners = [owner for owner, _ in REGION_CLASSES]
    crop_ids = [f"{owner}-{k}" for k, owner in enumerate(owners)]
    found = [found for _, found in REGION_CLASSES]
    merged = {"sample_id": ids, "class": list(IMAGES.values())}
    table(paths.merge("c") / "images.parquet", MERGED, **merged)
    regions = {"crop_id": crop_ids, "sample_id": owners, "class": found}
    regions["probabilities"] = [[0.2, 0.3, 0.5]] * len(found)
    table(paths.predict("c") / "regions.parquet", REGIONS, **regions)
    labels = {"sample_id": ids, "label": list(LABEL_OF.values())}
    table(paths.manifest("c") / "labels.parquet", LABELS, **labels)
    table(paths.manifest("c") / "masks.parquet", MASKS, sample_id=[], mask_path=[])
    table(paths.maps("c") / "scores.parquet", MAP_SCORES, sample_id=ids)
    run_stage(evaluate, "c", Params(), paths)
    metrics: dict[str, float | None] = read_json(paths.evaluate("c") / "metrics.json")
    return metrics


def test_figures_of_images(figures: dict[str, float | None]) -> None:
    assert (figures["n_query"], figures["n_regions"]) == (4, 6)
    assert figures["f1"] == pytest.approx(3 / 4)  # q and r are one kind and two classes
    assert (figures["normal_precision"], figures["normal_recall"]) == (1, 1)


def test_figures_of_regions(figures: dict[str, float | None]) -> None:
    """Of good, a, b there are 1, 3, 2 regions, of the classes 1, 2, 3; a has 2 + 1 of them."""
    assert figures["region_f1"] == pytest.approx(5 / 6)
    pairs = {"both": 1 + 1, "true": 3 + 1, "found": 1 + 3, "all": 15}
    expected = pairs["true"] * pairs["found"] / pairs["all"]
    largest = (pairs["true"] + pairs["found"]) / 2
    assert figures["region_ari"] == pytest.approx((pairs["both"] - expected) / (largest - expected))
    entropy = -sum(p * np.log(p) for p in (1 / 6, 1 / 2, 1 / 3))  # that of labels and of classes
    joint = -sum(p * np.log(p) for p in (1 / 6, 1 / 3, 1 / 6, 1 / 3))
    assert figures["region_nmi"] == pytest.approx((2 * entropy - joint) / entropy)
