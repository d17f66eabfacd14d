"""The snippet of docs/detectors.md, as printed, with maps that anomalib itself writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.config.reading import load_params
from pipeline.demo.generate import generate
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import read_parquet
from stages import manifest, maps
from tests.graph import ROOT
from tests.running import run_stage

SIDE, MAP = 96, 128


def snippet() -> dict[str, Any]:
    text = (ROOT / "docs/detectors.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"__name__": "anomalib_maps"}
    exec(compile(code, "docs/detectors.md", "exec"), names)
    return names


def write_project(root: Path) -> None:
    """Write a plain folder of images (one of them of another size) and references."""
    for i, sample in enumerate(generate("metal", good=6, per_defect=3, normals=12, seed=0)):
        normal = sample.split == "train"
        folder = root / ("data/raw/normal/a b" if normal else "photos/a b/monday")
        folder.mkdir(parents=True, exist_ok=True)
        size = (SIDE, SIDE) if i else (SIDE, 2 * SIDE)
        small = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{sample.label}{i}.png"), small)
    (root / "photos/a b/broken.png").write_bytes(b"no image")
    (root / "params.yaml").write_text(
        "dataset: {root: photos, categories: [a b]}\nmanifest: {layout: folder}\n"
        f"maps: {{method: precomputed, map_size: {MAP}}}\n"
    )


@pytest.mark.anomalib
@pytest.mark.filterwarnings("ignore")
def test_the_snippet_and_the_stage_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("anomalib.models")
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    params, paths, category = load_params(), ArtifactPaths(), "a b"
    run_stage(manifest, category, params, paths)
    # Random weights: no download, and good enough for the marks on the demo's metal.
    without = {"post_processor": False, "evaluator": False, "visualizer": False}
    snippet()["write_maps"](category, models.Padim(pre_trained=False, **without))
    run_stage(maps, category, params, paths)

    images = read_parquet(paths.manifest(category) / "images.parquet", schemas.IMAGES)
    queries = images[images["split"] == "query"]
    written = sorted(Path("data/raw/maps/a b").rglob("*.npy"))
    assert len(written) == len(queries) == 18
    raw = {}
    for path in queries["path"]:
        values = np.load(Path("data/raw/maps/a b", path).with_suffix(".npy"), allow_pickle=False)
        assert values.ndim == 2
        raw[path] = cv2.resize(values, (MAP, MAP), interpolation=cv2.INTER_LINEAR)
    low, high = min(m.min() for m in raw.values()), max(m.max() for m in raw.values())
    stored = np.asarray(open_arrays(paths.maps(category) / "maps.zarr")["maps"])
    for path, amap in zip(queries["path"], stored, strict=True):
        np.testing.assert_allclose(amap, (raw[path] - low) / (high - low), atol=1e-5)
    defective = ["good" not in path for path in queries["path"]]
    assert roc_auc_score(defective, stored.max(axis=(1, 2))) > 0.6
