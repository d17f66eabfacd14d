"""New images get the classes of the run, one at a time or together, and strange ones none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.artifacts import CLASSIFIED, MERGED, Layout, read_json, read_parquet, write_json
from pipeline.cli import app
from pipeline.config import parse_params
from pipeline.names import run_of, set_name
from tests.test_parameters import CATEGORY, ORDER, run, settings, write_set


@pytest.fixture(scope="module", params=["patchcore mixture", "musc heads"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classify")
    (root / "normal").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "base")
    method, classifier = request.param.split()
    content = settings(root)
    content["maps"]["method"] = method
    content["predict"]["classifier"] = classifier
    if classifier == "heads":  # with seed 0 the small network says "normal" of every image
        content["predict"]["normal"] = "regions"
        content["train"]["seed"] = 2
    params = parse_params(content)
    for stage in ("backbone", "base", *ORDER[:-1]):
        run(stage, params, Layout(root / "data"))
    folder = root / "new"
    (folder / "deep").mkdir(parents=True)
    for number, path in enumerate(sorted((root / "images" / CATEGORY / "test").rglob("*.png"))):
        shutil.copy(
            path, folder / "deep" / f"{number}.png" if number % 2 else folder / f"{number}.png"
        )
    return root


def classify(root: Path, images: Path, out: Path, *more: str) -> tuple[int, str]:
    options = ["--category", CATEGORY, "--out", str(out), "--data", str(root / "data")]
    options += ["--params", str(root / "none.yaml"), "--names", str(root / "names.yaml"), *more]
    result = CliRunner().invoke(app, ["classify", str(images), *options])
    return result.exit_code, result.output


def table(root: Path, images: Path, out: Path) -> pd.DataFrame:
    code, text = classify(root, images, out)
    assert code == 0, text
    return read_parquet(out, CLASSIFIED)


def test_images_of_the_run_keep_their_classes(made: Path, tmp_path: Path) -> None:
    found = table(made, made / "new", tmp_path / "found.parquet").set_index("sample_id")
    merged = read_parquet(Layout(made / "data").merge(CATEGORY) / "images.parquet", MERGED)
    merged = merged.set_index("sample_id")
    assert set(merged.index) <= set(found.index)
    same = merged["class"] == found["nearest_class"].reindex(merged.index)
    method = read_json(Layout(made / "data").train(CATEGORY) / "model.json")["params"]["maps"]
    assert same.mean() >= (1.0 if method["method"] == "patchcore" else 0.8)
    assert "deep/1.png" in set(found["path"])


def test_one_at_a_time_or_together_is_the_same(made: Path, tmp_path: Path) -> None:
    together = table(made, made / "new", tmp_path / "all.parquet").set_index("sample_id")
    for number in (0, 7):
        alone = tmp_path / str(number)
        alone.mkdir()
        source = made / "new" / (f"deep/{number}.png" if number % 2 else f"{number}.png")
        shutil.copy(source, alone)
        row = table(made, alone, tmp_path / f"{number}.parquet").iloc[0]
        other = together.loc[row["sample_id"]]
        assert (row["class"], row["name"]) == (other["class"], other["name"])
        np.testing.assert_allclose(row["probabilities"], other["probabilities"], atol=1e-4)
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)


def test_names_show_and_files_that_are_no_images_are_left_out(made: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(made / "new", images)
    (images / "broken.png").write_bytes(b"nothing")
    layout = Layout(made / "data")
    for number in range(5):
        set_name(made / "names.yaml", CATEGORY, number, f"kind {number}", run_of(layout, CATEGORY))
    code, text = classify(made, images, tmp_path / "found.parquet")
    (made / "names.yaml").unlink()
    assert code == 0
    assert "left out: broken.png" in text
    found = read_parquet(tmp_path / "found.parquet", CLASSIFIED)
    known = found[found["class"] >= 0]
    assert known["name"].tolist() == [f"kind {k}" for k in known["class"]]
    assert not list((made / "data").glob("tmp*"))


def test_what_cannot_be_classified_is_said(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.parquet"
    assert "does not exist" in classify(made, tmp_path / "none", out)[1]
    (tmp_path / "empty").mkdir()
    code, text = classify(made, tmp_path / "empty", out)
    assert (code, out.exists()) == (1, False)
    assert "image" in text
    assert "--maps is needed" in classify(made, made / "new", out, "--maps", str(tmp_path))[1]
    shutil.copytree(made / "data", tmp_path / "data")
    (tmp_path / "data" / "maps" / CATEGORY / "bank.safetensors").unlink()
    assert "dvc repro" in classify(tmp_path, made / "new", out)[1]


def test_what_is_farther_than_all_known_regions_is_unknown(made: Path, tmp_path: Path) -> None:
    before = table(made, made / "new", tmp_path / "before.parquet")
    shutil.copytree(made / "data", tmp_path / "data")
    path = Layout(tmp_path / "data").predict(CATEGORY) / "classifier.json"
    write_json(path, {**read_json(path), "known_limit": -1.0})
    found = table(tmp_path, made / "new", tmp_path / "found.parquet")
    defect = found["nearest_class"] > 0
    assert defect.any()
    assert (found.loc[defect, "class"] == -1).all()
    assert set(found.loc[defect, "name"]) == {"unknown"}
    assert found["nearest_class"].tolist() == before["nearest_class"].tolist()
