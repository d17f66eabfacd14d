"""`teach`, the fit after it, its names and metrics, on a tiny set with a tiny random ViT."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.curation.corrections import corrections_path
from pipeline.curation.examples import examples_path, read_examples
from pipeline.curation.names import names_for, names_or_numbers, run_of
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_predicted, read_regions
from pipeline.io.schemas import CROPS, IMAGES
from pipeline.io.tables import read_json, read_metadata, read_parquet, write_json
from tests.config.test_every_parameter import CATEGORY, run, settings, write_set

STAGES = ("predict", "shape", "merge", "evaluate")
BEFORE = ("backbone", "base", "manifest", "maps", "mebin", "crops", "classes", "views", "train")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teach")
    (root / "normal").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "base")
    for stage in (*BEFORE, *STAGES):
        run(stage, params_of(root), ArtifactPaths(root / "data"))
    return root


def params_of(root: Path) -> Params:
    given = settings(root)
    given["predict"] |= {"normal": "regions"}
    return parse_params(given)


@pytest.fixture
def paths(made: Path, tmp_path: Path) -> ArtifactPaths:
    shutil.copytree(made / "data", tmp_path / "data")
    return ArtifactPaths(tmp_path / "data")


def say(paths: ArtifactPaths, *words: str) -> str:
    options = ["--data", str(paths.root), "--names", str(paths.root / "names.yaml")]
    result = CliRunner().invoke(app, [*words, *options])
    return result.output if result.exit_code == 0 else f"FAILED {result.output}"


def again(made: Path, paths: ArtifactPaths) -> None:
    for stage in STAGES:
        run(stage, params_of(made), paths)


def correct(paths: ArtifactPaths, **targets: object) -> list[str]:
    """Correct the first regions that have a mask."""
    crops = read_parquet(paths.crops(CATEGORY) / "crops.parquet", CROPS)
    ids = crops.loc[crops["area_px"] > 0, "crop_id"].tolist()[: len(targets)]
    rows = [{"crop_id": i, "name": name} for i, name in zip(ids, targets, strict=True)]
    content = {"category": CATEGORY, "run": run_of(paths, CATEGORY), "corrections": rows}
    write_json(corrections_path(paths, CATEGORY), content)
    return ids


def test_corrections_are_kept_by_the_next_fit(made: Path, paths: ArtifactPaths) -> None:
    ids = correct(paths, stain=None, dent=None)
    before = read_json(paths.evaluate(CATEGORY) / "metrics.json")
    assert "n_taught_regions" not in before
    assert "has 2 examples now" in say(paths, "teach", CATEGORY)
    assert not corrections_path(paths, CATEGORY).exists()
    assert corrections_path(paths, CATEGORY).with_name(f"{CATEGORY}.json.taught").exists()
    again(made, paths)
    regions = read_regions(paths, CATEGORY).set_index("crop_id")
    names = names_for(paths.root / "names.yaml", CATEGORY, paths)
    assert [names[regions.loc[i, "class"]] for i in ids] == ["stain", "dent"]
    assert regions.loc[ids, "confidence"].tolist() == [1.0, 1.0]
    metrics = read_json(paths.evaluate(CATEGORY) / "metrics.json")
    assert (metrics["n_taught_regions"], metrics["n_taught_images"]) == (2, 2)
    assert metrics["untaught_nmi"] is not None


def test_typical_regions_of_a_named_class_are_taught(made: Path, paths: ArtifactPaths) -> None:
    regions = read_predicted(paths, CATEGORY)
    number = int(regions.loc[regions["class"] > 0, "class"].mode()[0])
    say(paths, "name", CATEGORY, str(number), "scratch")
    said = say(paths, "teach", CATEGORY, "--typical", "2")
    assert "2 of scratch" in said
    assert "nothing to teach" in say(paths, "teach", CATEGORY, "--typical", "0")
    again(made, paths)
    names, notes = names_or_numbers(paths.root / "names.yaml", CATEGORY, paths)
    assert "scratch" in names.names.values(), notes
    assert list(names.names.values()).count("scratch") == 1


def test_a_folder_of_examples_needs_no_run(made: Path, paths: ArtifactPaths) -> None:
    images = read_parquet(paths.manifest(CATEGORY) / "images.parquet", IMAGES)
    folder = paths.root / "some" / "scratch"
    folder.mkdir(parents=True)
    path = images.loc[images["split"] == "query", "path"].iloc[0]
    shutil.copy(made / "images" / CATEGORY / path, folder / "copy.png")
    shutil.rmtree(paths.predict(CATEGORY))
    said = say(paths, "teach", CATEGORY, "--folder", str(folder.parent))
    assert "1 of scratch" in said
    assert [e.path for e in read_examples(examples_path(paths, CATEGORY))] == [path]
    (folder / "other.png").write_bytes(b"no image of the set")
    said = say(paths, "teach", CATEGORY, "--folder", str(folder.parent))
    assert "FAILED" in said
    assert "other.png is not an image of metal" in " ".join(said.split())


def test_more_taught_classes_than_counted_make_more_classes(
    made: Path, paths: ArtifactPaths
) -> None:
    correct(paths, a=None, b=None, c=None, d=None, e=None, f=None)
    say(paths, "teach", CATEGORY)
    run("predict", params_of(made), paths)
    file = paths.predict(CATEGORY) / "regions.parquet"
    assert len(read_predicted(paths, CATEGORY)["probabilities"][0]) == 7
    assert read_metadata(file)["taught"]["names"]["6"] == "f"
