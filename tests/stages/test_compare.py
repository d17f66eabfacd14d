"""The comparison over a tiny set: features, two methods, ours, and the table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.inference import own_rows, peer_rows
from pipeline.inference.fresh_process import Measured
from pipeline.inference.peer_data import load_peer_data
from pipeline.inference.peer_features import on_patches
from pipeline.inference.region_features import pooled_tokens
from pipeline.io.paths import ArtifactPaths
from pipeline.io.peer_files import RowRun, open_array, read_predictions
from pipeline.io.schemas import CROPS, LABELS
from pipeline.io.tables import read_json, read_parquet, write_parquet
from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.order import with_settings
from stages import compare, features, ours, peer
from tests.config.test_every_parameter import CATEGORY, settings, write_set
from tests.config.test_every_parameter import run as run_named
from tests.running import run_stage

BEFORE = ("backbone", "base", "manifest", "maps", "mebin", "crops", "classes", "views", "train")
METHODS = ["floors", "gcd_kmeans"]


def here(function: Callable[..., Any], arguments: tuple[Any, ...], *, limit_s: float) -> Any:
    del limit_s
    return Measured(function(*arguments), 1.0, None)


def params(root: Path, **options: object) -> Params:
    section = {"methods": METHODS, "seeds": 2, **options}
    return parse_params({**settings(root), "compare": section})


def run_peers(paths: ArtifactPaths, given: Params) -> None:
    for method in given.compare.methods:
        run_stage(peer, CATEGORY, given, paths, method=method)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    (root / "normal").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "base")
    paths, given = ArtifactPaths(root / "data"), params(root)
    for stage in BEFORE:
        run_named(stage, given, paths)
    run_stage(features, CATEGORY, given, paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer_rows, "in_fresh_process", here)
        patch.setattr(own_rows, "in_fresh_process", here)
        run_peers(paths, given)
        run_stage(ours, CATEGORY, given, paths)
    run_stage(compare, CATEGORY, given, paths)
    return root


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_rows, "in_fresh_process", here)


def predictions(paths: ArtifactPaths, method: str) -> dict[tuple[str, str], RowRun]:
    runs, _ = read_predictions(paths.peer(CATEGORY) / f"{method}.parquet")
    return {(run.row, run.input): run for run in runs}


def test_features_are_those_of_the_images(made: Path) -> None:
    folder = ArtifactPaths(made / "data").features(CATEGORY)
    whole, crop, patch = (load_peer_data(folder, given) for given in ("whole", "crop", "patch"))
    assert list(whole.sample_ids) == sorted(whole.sample_ids)
    assert whole.class_tokens.shape == patch.class_tokens.shape == (14, 64)
    assert whole.view_tokens is not None
    assert whole.view_tokens.shape == (2, 14, 64)
    assert np.isfinite(whole.class_tokens).all()
    assert crop.pooled is not None
    assert len(crop.pooled) == len(crop.sample_ids) >= 14
    assert patch.patch_tokens is not None
    assert patch.normals is not None
    assert len(patch.patch_tokens) == 2
    assert len(patch.normals[0]) == 2
    assert patch.scores is not None
    assert patch.scores.shape == patch.patch_tokens[0].shape[:2]
    assert patch.attention is not None
    assert (patch.attention > 0).all()
    assert (patch.attention.sum(1) < 1).all()
    assert whole.base_labels is not None
    assert sorted(set(whole.base_labels.tolist())) == [0, 1]


def test_pooled_tokens_are_those_that_the_pipeline_classifies(made: Path) -> None:
    """Rows of ours are the pipeline's own, weights of the pixels included."""
    paths, given = ArtifactPaths(made / "data"), params(made)
    stored = read_parquet(paths.crops(CATEGORY) / "crops.parquet", CROPS)["crop_id"]
    expected = pooled_tokens(
        paths, CATEGORY, given.compute, given.predict.layers, image_size=given.views.image_size
    )[np.argsort(stored.to_numpy(np.str_), kind="stable")]
    found = open_array(paths.features(CATEGORY), "crop_pooled")
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_map_is_seen_where_the_view_sees_the_image() -> None:
    """Of a map with one bright quarter the view shows the centre, 7/8 of its side."""
    maps = np.zeros((1, 256, 256), np.float32)
    maps[:, :128, 128:] = 1
    found = on_patches(maps, (2, 2), 224)
    np.testing.assert_allclose(found, [[0, 1, 0, 0]])
    maps[:, :16] = 5  # beyond the view
    np.testing.assert_allclose(on_patches(maps, (2, 2), 224), [[0, 1, 0, 0]])


def test_the_table_holds_every_row(made: Path) -> None:
    paths = ArtifactPaths(made / "data")
    folder = paths.compare(CATEGORY)
    assert {path.stem for path in folder.glob("*.json")} == {*METHODS, "ours"}
    metrics = read_json(folder.parent / f"{CATEGORY}.json")
    expected = {
        *("kmeans_class_whole", "kmeans_class_crop", "kmeans_pooled_crop", "ward_class_whole"),
        *("ward_class_crop", "ward_pooled_crop", "gcd_kmeans_whole", "gcd_kmeans_crop"),
        *("heads_crop", "heads_free_crop", "mixture_crop", "mixture_free_crop"),
    }
    assert set(metrics) == expected
    assert all(0 <= row["f1"] <= 1 for row in metrics.values())
    assert set(pd.read_csv(folder.parent / f"{CATEGORY}.csv")["row"]) == expected
    floors = read_json(folder / "floors.json")
    assert floors["ward_class_whole"]["deviations"] is None
    assert floors["kmeans_class_whole"]["deviations"].keys() == {"nmi", "ari", "f1"}
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "GCD (k-means only), whole" in html
    assert "AnomalyNCD (heads), normal by score, crop" in html


def test_shuffled_labels_change_no_prediction(made: Path, tmp_path: Path, in_place: None) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    paths = ArtifactPaths(tmp_path / "data")
    before = predictions(paths, "floors")
    file = paths.manifest(CATEGORY) / "labels.parquet"
    labels = read_parquet(file, LABELS)
    labels["label"] = np.random.default_rng(0).permutation(labels["label"])
    write_parquet(file, labels, LABELS)
    run_peers(paths, params(made))
    for key, run in predictions(paths, "floors").items():
        assert run.classes.tolist() == before[key].classes.tolist()


def test_input_and_seeds(made: Path, tmp_path: Path, in_place: None) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    paths = ArtifactPaths(tmp_path / "data")
    run_peers(paths, params(made, input=["whole"], seeds=3))
    found = predictions(paths, "floors")
    assert set(found) == {("kmeans_class", "whole"), ("ward_class", "whole")}
    assert found["kmeans_class", "whole"].classes.shape == (3, 14)
    assert found["ward_class", "whole"].classes.shape == (1, 14)


def test_open_and_budget_reach_the_methods_that_know_them(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = params(made, open=True, budget="official")
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(
        peer, "run_rows", lambda method, inputs, bench: seen.append(dict(bench.settings)) or []
    )
    monkeypatch.setattr(peer, "write_predictions", lambda *_: None)
    run_stage(peer, CATEGORY, given, ArtifactPaths(made / "data"), method="floors")
    assert seen == [{"budget": "official", "open_set": True}]

    @dataclass(frozen=True)
    class Knowing:
        budget: str = "equal"

        def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
            return Assignment(np.zeros(len(data.class_tokens), np.int64), None)

    assert with_settings(Knowing(), seen[0]) == Knowing("official")


def test_a_method_that_is_not_there_is_named(made: Path) -> None:
    with pytest.raises(ConfigError, match="k_medoids"):
        run_stage(peer, CATEGORY, params(made), ArtifactPaths(made / "data"), method="k_medoids")


def test_one_hot_classes_merge_by_area() -> None:
    crops = pd.DataFrame(
        {
            "crop_id": ["a0", "a1", "b0"],
            "sample_id": ["a", "a", "b"],
            "area_px": [4, 90_000, 9],
            "score": [1.0, 1.0, 1.0],
        }
    )
    merging = Params().merge
    ids, soft = peer_rows.merged(["b0", "a0", "a1"], np.array([[2, 0, 1]]), None, crops, merging)
    assert ids == ["b", "a"]
    assert soft.argmax(2).tolist() == [[2, 1]]
