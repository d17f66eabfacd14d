"""Named classes become labelled base data that the stage `base` reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.reading import parse_params
from pipeline.curation.corrections import corrections_path
from pipeline.curation.names import run_of, set_name
from pipeline.io.images import read_mask
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import BASE_CROPS, CROPS, REGIONS
from pipeline.io.tables import read_parquet, write_json
from tests.config.test_every_parameter import CATEGORY, ORDER, run, settings, write_set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("promote")
    (root / "normal").mkdir()
    (root / "base").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "first_base")
    content = settings(root)
    content["base"] = {"root": str(root / "base")}
    content["mebin"] = {"method": "fixed", "fixed_threshold": 0.1, "erode_px": 0}
    content["predict"]["normal"] = "regions"
    for stage in ("backbone", "base", *ORDER[:-2]):
        run(stage, parse_params(content), ArtifactPaths(root / "data"))
    lines = [f"dataset: {{root: {root / 'images'}, categories: [{CATEGORY}]}}"]
    (root / "params.yaml").write_text("\n".join([*lines, f"base: {{root: {root / 'base'}}}", ""]))
    return root


def promote(root: Path, *more: str) -> tuple[int, str]:
    options = ["--data", str(root / "data"), "--params", str(root / "params.yaml")]
    result = CliRunner().invoke(
        app, ["promote", CATEGORY, "--names", str(root / "names.yaml"), *options, *more]
    )
    return result.exit_code, result.output


def classes(root: Path) -> pd.DataFrame:
    paths = ArtifactPaths(root / "data")
    regions = read_parquet(paths.predict(CATEGORY) / "regions.parquet", REGIONS)
    crops = read_parquet(paths.crops(CATEGORY) / "crops.parquet", CROPS)
    return crops.assign(of=regions["class"])[crops["area_px"] > 0]


def test_without_a_name_there_is_nothing_to_promote(made: Path) -> None:
    code, text = promote(made)
    assert code == 1
    assert "anomalyncd name" in text


def test_named_classes_are_the_next_base_set(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    (root / "params.yaml").write_text(
        (made / "params.yaml").read_text().replace(str(made), str(root))
    )
    found = classes(root)
    number = int(found.loc[found["of"] > 0, "of"].mode()[0])
    images = found.loc[found["of"] == number, "sample_id"].unique()
    set_name(
        root / "names.yaml", CATEGORY, number, "a/b", run_of(ArtifactPaths(root / "data"), CATEGORY)
    )
    code, text = promote(root)
    assert code == 0, text
    assert f"{len(images)} images of 'a/b'" in text
    label = f"{CATEGORY} a_b"
    assert {p.stem for p in (root / "base" / "images" / label).iterdir()} == set(images)
    for file in (root / "base" / "masks" / label).iterdir():
        assert read_mask(file).any()
    content = settings(root)
    content["base"] = {"root": str(root / "base"), "layout": "class_folders"}
    run("base", parse_params(content), ArtifactPaths(root / "data"))
    base = read_parquet(ArtifactPaths(root / "data").base() / "crops.parquet", BASE_CROPS)
    assert set(base["label"]) == {label}
    assert base["sample_id"].nunique() == len(images)

    (root / "names.yaml").unlink()
    other = int(found.loc[~found["of"].isin([0, number]), "of"].mode().get(0, number))
    set_name(
        root / "names.yaml", CATEGORY, other, "new", run_of(ArtifactPaths(root / "data"), CATEGORY)
    )
    assert promote(root)[0] == 0
    assert [p.name for p in (root / "base" / "images").iterdir()] == [f"{CATEGORY} new"]


def test_corrections_count(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    (root / "params.yaml").write_text(
        (made / "params.yaml").read_text().replace(str(made), str(root))
    )
    paths, found = ArtifactPaths(root / "data"), classes(root)
    run_id = run_of(paths, CATEGORY)
    crop = found.iloc[0]
    rows = [{"crop_id": crop["crop_id"], "name": "new kind"}]
    content = {"category": CATEGORY, "run": run_id, "corrections": rows}
    write_json(corrections_path(paths, CATEGORY), content)
    code, text = promote(root)
    assert code == 0, text
    files = list((root / "base" / "images" / f"{CATEGORY} new kind").iterdir())
    assert [file.stem for file in files] == [crop["sample_id"]]


def test_a_folder_of_something_else_is_left_alone(made: Path, tmp_path: Path) -> None:
    set_name(
        made / "names.yaml", CATEGORY, 1, "one", run_of(ArtifactPaths(made / "data"), CATEGORY)
    )
    (tmp_path / "ground_truth").mkdir()
    code, text = promote(made, "--to", str(tmp_path))
    (made / "names.yaml").unlink()
    assert code == 1
    assert "'ground_truth'" in text
    assert [p.name for p in tmp_path.iterdir()] == ["ground_truth"]
