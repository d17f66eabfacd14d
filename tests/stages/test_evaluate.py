"""The stage `evaluate` on written tables: figures of images and of regions, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.config.params import Evaluate, Params
from pipeline.config.reading import parse_params
from pipeline.io.arrays import ArraySpec, create_arrays
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES as IMAGE_COLUMNS
from pipeline.io.schemas import LABELS, MAP_SCORES, MASKS, MERGED, PART_VERDICTS, REGIONS
from pipeline.io.tables import read_json, write_parquet
from stages import evaluate
from tests.running import run_stage

LABEL_OF = {"p": "good", "q": "a", "r": "a", "s": "b"}
IMAGES = {"p": 0, "q": 1, "r": 2, "s": 2}
REGION_CLASSES = [("p", 0), ("q", 1), ("q", 1), ("r", 2), ("s", 2), ("s", 2)]


def table(path: Path, schema: pa.Schema, **columns: Any) -> None:
    """Write a table; the columns that nobody looks at here are 0 or empty."""
    n = len(next(iter(columns.values())))
    empty = {name: [] if pa.types.is_list(kind) else "" if pa.types.is_string(kind) else 0
             for name, kind in zip(schema.names, schema.types, strict=True)}  # fmt: skip
    rest = {name: [value] * n for name, value in empty.items() if name not in columns}
    write_parquet(path, pd.DataFrame({**columns, **rest}), schema)


@pytest.fixture
def figures(tmp_path: Path) -> dict[str, Any]:
    return evaluated(tmp_path, Params(), parts=list(LABEL_OF))


def evaluated(root: Path, params: Params, *, parts: list[str]) -> dict[str, Any]:
    """Return the metrics of the images, of these parts; parts "x" are of class 1, others of 0."""
    paths = ArtifactPaths(root)
    write_classes(paths, parts)
    return evaluate_stage(paths, params)


def evaluate_stage(paths: ArtifactPaths, params: Params) -> dict[str, Any]:
    run_stage(evaluate, "c", params, paths)
    metrics: dict[str, Any] = read_json(paths.evaluate("c") / "metrics.json")
    return metrics


def write_classes(paths: ArtifactPaths, parts: list[str]) -> None:
    """Write what the stages up to `merge` say of classes; there are no masks."""
    ids = list(LABEL_OF)
    owners = [owner for owner, _ in REGION_CLASSES]
    crop_ids = [f"{owner}-{k}" for k, owner in enumerate(owners)]
    found = [found for _, found in REGION_CLASSES]
    merged = {"sample_id": ids, "class": list(IMAGES.values())}
    table(paths.merge("c") / "images.parquet", MERGED, **merged)
    table(paths.manifest("c") / "images.parquet", IMAGE_COLUMNS, sample_id=ids, part=parts)
    names = sorted(set(parts))
    verdicts = {"part": names, "class": [int(name == "x") for name in names]}
    table(paths.merge("c") / "parts.parquet", PART_VERDICTS, **verdicts)
    regions = {"crop_id": crop_ids, "sample_id": owners, "class": found}
    regions["probabilities"] = [[0.2, 0.3, 0.5]] * len(found)
    table(paths.predict("c") / "regions.parquet", REGIONS, **regions)
    labels = {"sample_id": ids, "label": list(LABEL_OF.values())}
    table(paths.manifest("c") / "labels.parquet", LABELS, **labels)
    table(paths.manifest("c") / "masks.parquet", MASKS, sample_id=[], mask_path=[])
    scores = {"score": [0.1, 0.5, 0.6, 0.7], "image_score": [0.3, 0.2, 0.4, 0.5]}
    table(paths.maps("c") / "scores.parquet", MAP_SCORES, sample_id=ids, **scores)


def test_figures_of_images(figures: dict[str, Any]) -> None:
    assert (figures["n_query"], figures["n_regions"]) == (4, 6)
    assert figures["f1"] == pytest.approx(3 / 4)  # q and r are one kind and two classes
    assert (figures["normal_precision"], figures["normal_recall"]) == (1, 1)


def test_figures_of_regions(figures: dict[str, Any]) -> None:
    """Of good, a, b there are 1, 3, 2 regions, of the classes 1, 2, 3; a has 2 + 1 of them."""
    assert figures["region_f1"] == pytest.approx(5 / 6)
    pairs = {"both": 1 + 1, "true": 3 + 1, "found": 1 + 3, "all": 15}
    expected = pairs["true"] * pairs["found"] / pairs["all"]
    largest = (pairs["true"] + pairs["found"]) / 2
    assert figures["region_ari"] == pytest.approx((pairs["both"] - expected) / (largest - expected))
    entropy = -sum(p * np.log(p) for p in (1 / 6, 1 / 2, 1 / 3))  # that of labels and of classes
    joint = -sum(p * np.log(p) for p in (1 / 6, 1 / 3, 1 / 6, 1 / 3))
    assert figures["region_nmi"] == pytest.approx((2 * entropy - joint) / entropy)


TRUE = {"q": [(0, 0, 8, 8), (20, 20, 28, 28)], "r": [(11, 4, 12, 60)], "s": []}
"""Boxes x0, y0, x1, y1 in images of 64 x 64; that of r is a hairline in column 11."""
FOUND = {"p": [(8, 8, 12, 12)], "q": [(0, 0, 2, 2), (12, 0, 14, 3)], "r": [(2, 1, 3, 15)], "s": []}
"""In maps of 16 x 16. Of the four, those of r and the first of q meet a true box."""


def filled(boxes: list[tuple[int, int, int, int]], side: int) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 1
    return mask


@pytest.fixture
def localised(tmp_path: Path) -> dict[str, float | None]:
    paths, ids = ArtifactPaths(tmp_path), list(LABEL_OF)
    write_classes(paths, ids)
    images = pd.DataFrame({"sample_id": ids, "path": ids, "part": ids})
    images = images.assign(split="query", channels=3)
    images = images.assign(height=64, width=64)
    write_parquet(paths.manifest("c") / "images.parquet", images, IMAGE_COLUMNS)
    (tmp_path / "c").mkdir()
    for name, boxes in TRUE.items():
        cv2.imwrite(str(tmp_path / "c" / f"{name}.png"), 255 * filled(boxes, 64))
    names = [f"{name}.png" for name in TRUE]
    table(paths.manifest("c") / "masks.parquet", MASKS, sample_id=list(TRUE), mask_path=names)
    masks = np.stack([filled(FOUND[name], 16) for name in ids]).astype(bool)
    maps = 0.5 * masks.astype(np.float32)
    maps[2, 1:15, 2] = 1
    for folder, name, array in (
        (paths.maps("c"), "maps", maps),
        (paths.mebin("c"), "masks", masks),
    ):
        specs = {name: ArraySpec(array.shape, str(array.dtype))}
        with create_arrays(folder / f"{name}.zarr", specs) as arrays:
            arrays[name][:] = array
    return evaluate_stage(paths, parse_params({"dataset": {"root": str(tmp_path)}}))


def test_rates_of_regions(localised: dict[str, float | None]) -> None:
    """Two of four found regions are false, one of three true ones is missed."""
    assert localised["region_fpr"] == pytest.approx(2 / 4)
    assert localised["region_fnr"] == pytest.approx(1 / 3)


def test_a_hairline_counts_in_the_curves(localised: dict[str, float | None]) -> None:
    """Nearest neighbours from 64 to 16 pixels take columns 2, 6, 10, 14: r would have no region.

    The hairline is found above .5, one region of q above 0, with 16 + 6 of 1002 normal pixels.
    """
    fpr = 22 / 1002
    at_limit = 2 / 3 + (0.3 - fpr) / (1 - fpr) / 3
    area = fpr * (1 / 3 + 2 / 3) / 2 + (0.3 - fpr) * (2 / 3 + at_limit) / 2
    assert localised["aupro"] == pytest.approx(area / 0.3, abs=1e-4)


def test_metrics_have_intervals(figures: dict[str, Any]) -> None:
    ends = figures["intervals"]
    names = {"nmi", "ari", "f1", "image_auroc", "image_score_auroc"}
    assert set(ends) == names | {"defect_nmi", "defect_ari", "defect_f1"}
    for name in ("f1", "image_auroc", "image_score_auroc", "defect_f1"):
        assert ends[name]["low"] <= figures[name] <= ends[name]["high"]
    assert ends["image_auroc"] == {"low": 1.0, "high": 1.0}
    assert ends["image_score_auroc"]["low"] < ends["image_score_auroc"]["high"]
    assert figures["part_nmi"] is None


def test_without_a_bootstrap_there_are_no_intervals(tmp_path: Path) -> None:
    params = Params(evaluate=Evaluate(bootstrap=0))
    assert evaluated(tmp_path, params, parts=list(LABEL_OF))["intervals"] == {}


def test_parts_are_drawn_whole_and_have_metrics(tmp_path: Path) -> None:
    """All defects are one part: each resample has both parts, or lacks a kind."""
    figures = evaluated(tmp_path, Params(), parts=["y", "x", "x", "x"])
    ends = figures["intervals"]["image_score_auroc"]
    assert ends["low"] == ends["high"] == figures["image_score_auroc"] == pytest.approx(2 / 3)
    assert (figures["n_parts"], figures["part_nmi"], figures["part_f1"]) == (2, 1, 1)
