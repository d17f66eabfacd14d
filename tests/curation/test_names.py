"""Names of classes: kept with the run they were given for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config.section import ConfigError
from pipeline.curation.names import (
    ClassNames,
    names_for,
    names_or_numbers,
    read_names,
    run_of,
    set_name,
)
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, REGIONS
from pipeline.io.tables import write_parquet

CLASSES = {"a-0": 1, "a-1": 0, "b-0": 11, "b-1": 2}


def write_regions(paths: ArtifactPaths, classes: dict[str, int], *, seed: int = 0) -> None:
    """Write regions in these classes; all else that regions.parquet holds depends on `seed`."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "crop_id": list(classes),
            "sample_id": [crop_id[0] for crop_id in classes],
            "class": list(classes.values()),
            "confidence": rng.random(len(classes)),
            "probabilities": list(rng.random((len(classes), 12))),
            "embedding": list(rng.random((len(classes), 4))),
        }
    )
    path = paths.predict("metal") / "regions.parquet"
    write_parquet(path, frame, REGIONS, {"head": seed})


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    paths = ArtifactPaths(tmp_path / "data")
    write_regions(paths, CLASSES)
    return paths


def test_what_has_no_name_has_its_number() -> None:
    names = ClassNames({3: "scratch"})
    assert [names[k] for k in (0, 1, 3)] == ["normal", "class 1", "scratch"]


def test_a_name_is_kept_beside_those_there(tmp_path: Path, paths: ArtifactPaths) -> None:
    path, run = tmp_path / "names.yaml", run_of(paths, "metal")
    assert read_names(path) == {}
    set_name(path, "metal", 3, "scratch", run)
    set_name(path, "metal", 1, " a: dent ", run)
    set_name(path, "fabric", 2, "hole", "0" * 12)
    assert read_names(path)["metal"] == ClassNames({1: "a: dent", 3: "scratch"}, run)
    assert names_for(path, "metal", paths)[1] == "a: dent"
    assert read_names(path)["fabric"].run == "0" * 12


def test_names_of_another_run_are_refused_and_replaced(
    tmp_path: Path, paths: ArtifactPaths
) -> None:
    path = tmp_path / "names.yaml"
    set_name(path, "metal", 3, "scratch", run_of(paths, "metal"))
    write_regions(paths, {**CLASSES, "b-1": 1})
    with pytest.raises(ConfigError, match="an earlier run"):
        names_for(path, "metal", paths)
    set_name(path, "metal", 1, "dent", run_of(paths, "metal"))
    assert names_for(path, "metal", paths).names == {1: "dent"}


def test_names_outlive_a_run_that_leaves_every_region_in_its_class(
    tmp_path: Path, paths: ArtifactPaths
) -> None:
    path = tmp_path / "names.yaml"
    set_name(path, "metal", 2, "scratch", run_of(paths, "metal"))
    write_regions(paths, dict(reversed(CLASSES.items())), seed=1)
    assert names_for(path, "metal", paths)[2] == "scratch"
    set_name(path, "metal", 1, "dent", run_of(paths, "metal"))
    assert names_for(path, "metal", paths).names == {1: "dent", 2: "scratch"}


def test_other_squares_under_the_same_ids_are_another_run(paths: ArtifactPaths) -> None:
    runs = set()
    for x0 in (0, 0, 8):
        rows = [(crop_id, crop_id[0], 0, x0, 0, 32, 50, 0.5) for crop_id in CLASSES]
        frame = pd.DataFrame(rows, columns=CROPS.names)
        write_parquet(paths.crops("metal") / "crops.parquet", frame, CROPS)
        runs.add(run_of(paths, "metal"))
    assert len(runs) == 2


@pytest.mark.parametrize(
    "other",
    [
        {**CLASSES, "a-1": 1},
        {**CLASSES, "a-0": 0, "a-1": 1},
        {**CLASSES, "c-0": 0},
        {k: v for k, v in CLASSES.items() if k != "a-1"},
        {"a-0": 1, "a-1": 0, "b-01": 1, "b-1": 2},
    ],
)
def test_other_regions_or_classes_are_another_run(
    paths: ArtifactPaths, other: dict[str, int]
) -> None:
    before = run_of(paths, "metal")
    write_regions(paths, other)
    assert run_of(paths, "metal") != before


def test_names_or_else_numbers_and_a_note(tmp_path: Path, paths: ArtifactPaths) -> None:
    path = tmp_path / "names.yaml"
    set_name(path, "metal", 2, "scratch", run_of(paths, "metal"))
    assert names_or_numbers(path, "metal", paths) == (names_for(path, "metal", paths), ())
    write_regions(paths, {**CLASSES, "b-1": 1})
    names, notes = names_or_numbers(path, "metal", paths)
    assert names == ClassNames()
    assert [note.split(": ")[0] for note in notes] == ["Classes are shown by number"]
    assert "name the classes again" in notes[0]
    path.write_text("- a")
    with pytest.raises(ConfigError, match="must map categories"):
        names_or_numbers(path, "metal", paths)


def test_a_file_edited_by_hand_is_taken_as_it_stands(tmp_path: Path, paths: ArtifactPaths) -> None:
    path = tmp_path / "names.yaml"
    path.write_text("metal: {2: pit}\n")
    assert names_for(path, "metal", paths)[2] == "pit"
    assert names_for(path, "fabric", paths) == ClassNames()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must map categories"),
        ("metal: scratch", "metal: must map"),
        ("metal: {a: scratch}", "'a' is not a class number"),
        ("metal: {-1: scratch}", "-1 is not a class number"),
        ("metal: {1: ''}", "metal.1: '' is not a name"),
        ("metal: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_names(path)
    assert "names.yaml" in str(error.value)


def test_without_a_run_nothing_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dvc repro"):
        run_of(ArtifactPaths(tmp_path), "metal")
    with pytest.raises(ConfigError, match="cannot be named"):
        set_name(tmp_path / "names.yaml", "metal", 1, "  ", "0")
