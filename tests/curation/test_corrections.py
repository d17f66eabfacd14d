"""Corrections: what is taken, what is refused, and what everybody else reads of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.section import ConfigError
from pipeline.curation.corrections import (
    add_corrections,
    applied_corrections,
    corrected_classes,
    corrections_path,
)
from pipeline.curation.names import ClassNames, run_of
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import REGIONS
from pipeline.io.tables import write_parquet

CLASSES = [1, 0, 2, 2]


def write_regions(root: Path, classes: list[int], *, confidence: float = 0.9) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "crop_id": [f"r{i}" for i in range(len(classes))],
            "sample_id": "a",
            "class": classes,
            "confidence": confidence,
            "probabilities": list(np.eye(3, dtype=np.float32)[classes]),
            "embedding": [np.full(2, confidence, np.float32)] * len(classes),
        }
    )
    write_parquet(ArtifactPaths(root).predict("metal") / "regions.parquet", frame, REGIONS, {})
    return frame


@pytest.fixture
def regions(tmp_path: Path) -> pd.DataFrame:
    return write_regions(tmp_path, CLASSES)


def download(root: Path, entries: object, **changes: object) -> Path:
    """Write what the page would download."""
    run = run_of(ArtifactPaths(root), "metal")
    content = {"category": "metal", "run": run, "corrections": entries, **changes}
    path = root / "download.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def add(root: Path, regions: pd.DataFrame, *entries: dict[str, object]) -> int:
    return add_corrections(ArtifactPaths(root), "metal", download(root, list(entries)), regions)


def test_without_a_file_it_is_what_the_model_says(tmp_path: Path, regions: pd.DataFrame) -> None:
    found = corrected_classes(ArtifactPaths(tmp_path), "metal", regions)
    assert found == CLASSES
    assert {type(k) for k in found} == {int}


def test_corrections_are_kept_merged_and_taken_back(tmp_path: Path, regions: pd.DataFrame) -> None:
    paths = ArtifactPaths(tmp_path)
    assert (
        add(tmp_path, regions, {"crop_id": "r2", "name": " stain "}, {"crop_id": "r0", "class": 2})
        == 2
    )
    assert corrected_classes(paths, "metal", regions) == [2, 0, "stain", 2]
    assert (
        add(tmp_path, regions, {"crop_id": "r0", "class": 0}, {"crop_id": "r3", "name": "dent"})
        == 3
    )
    assert corrected_classes(paths, "metal", regions) == [0, 0, "stain", "dent"]
    assert add(tmp_path, regions, {"crop_id": "r0", "class": 1}) == 2  # as the model says
    assert applied_corrections(paths, "metal", regions) == {"r2": "stain", "r3": "dent"}
    assert [path.name for path in corrections_path(paths, "metal").parent.iterdir()] == [
        "metal.json"
    ]


def test_what_is_stored_can_be_applied_again(tmp_path: Path, regions: pd.DataFrame) -> None:
    add(tmp_path, regions, {"crop_id": "r2", "name": "stain"}, {"crop_id": "r0", "class": 2})
    stored = corrections_path(ArtifactPaths(tmp_path), "metal")
    before = stored.read_bytes()
    assert add_corrections(ArtifactPaths(tmp_path), "metal", stored, regions) == 2
    assert stored.read_bytes() == before


def test_a_name_that_a_class_has_is_that_class(tmp_path: Path, regions: pd.DataFrame) -> None:
    add(
        tmp_path,
        regions,
        *({"crop_id": f"r{i}", "name": n} for i, n in enumerate(("b", "class 2", "normal", "c"))),
    )
    paths = ArtifactPaths(tmp_path)
    assert corrected_classes(paths, "metal", regions) == ["b", 2, 0, "c"]
    names = ClassNames({1: "b", 2: "b"})
    assert corrected_classes(paths, "metal", regions, names) == [1, "class 2", 0, "c"]


def test_corrections_of_another_run_are_refused(tmp_path: Path, regions: pd.DataFrame) -> None:
    paths = ArtifactPaths(tmp_path)
    path = download(tmp_path, [{"crop_id": "r0", "class": 2}])
    add_corrections(paths, "metal", path, regions)
    later = write_regions(tmp_path, [1, 1, 1, 1])
    with pytest.raises(ConfigError, match=r"download\.json: .* are of another run"):
        add_corrections(paths, "metal", path, later)
    with pytest.raises(ConfigError, match=r"corrections.metal\.json: .* are of another run"):
        corrected_classes(paths, "metal", later)
    with pytest.raises(ConfigError, match=r"corrections.metal\.json: .* move the file away"):
        add(tmp_path, later, {"crop_id": "r0", "class": 2})


def test_corrections_outlive_a_run_that_leaves_every_region_in_its_class(
    tmp_path: Path, regions: pd.DataFrame
) -> None:
    download(tmp_path, [{"crop_id": "r0", "class": 2}])
    add_corrections(ArtifactPaths(tmp_path), "metal", tmp_path / "download.json", regions)
    later = write_regions(tmp_path, CLASSES, confidence=0.5)
    assert corrected_classes(ArtifactPaths(tmp_path), "metal", later) == [2, *CLASSES[1:]]
    entry = {"crop_id": "r1", "class": 1}
    assert add(tmp_path, later, entry) == 2


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"crop_id": "r9", "class": 1}], "no region 'r9'"),
        ([{"crop_id": "r0", "class": 3}], r"no class 3: its classes are 0 \(normal\) to 2"),
        ([{"crop_id": "r0", "class": -1}], "no class -1"),
        ([{"crop_id": "r0", "class": True}], "True is not a class number"),
        ([{"crop_id": "r0", "class": "1"}], "'1' is not a class number"),
        ([{"crop_id": "r0", "name": "  "}], "'  ' is not a name"),
        ([{"crop_id": "r0", "name": "a\nb"}], "is not a name"),
        ([{"crop_id": "r0", "name": "\ud800"}], "is not a name"),
        ([{"crop_id": "r0", "name": "x" * 101}], "is not a name"),
        ([{"crop_id": "r0", "name": 3}], "3 is not a name"),
        ([{"crop_id": "r0"}], r"corrections\[0\]: must have, beside crop_id"),
        ([{"crop_id": "r0", "class": 1, "name": "b"}], "either class or name"),
        ([{"class": 1}], "must have a crop_id"),
        (["r0"], "must have a crop_id"),
        (
            [{"crop_id": "r0", "class": 1}, {"crop_id": "r0", "class": 2}],
            r"\[1\]: 'r0' is .* twice",
        ),
        ({}, "corrections a list"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    tmp_path: Path, regions: pd.DataFrame, entries: object, message: str
) -> None:
    path = download(tmp_path, entries)
    with pytest.raises(ConfigError, match=message) as caught:
        add_corrections(ArtifactPaths(tmp_path), "metal", path, regions)
    assert "\n" not in str(caught.value)
    assert not corrections_path(ArtifactPaths(tmp_path), "metal").exists()


@pytest.mark.parametrize("text", ["", "[1", "[]", "\xff", "[" * 100_000, '{"run": "x"}', "3"])
def test_a_file_that_holds_no_corrections_is_named(
    tmp_path: Path, regions: pd.DataFrame, text: str
) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"some\.json: (not valid JSON|not UTF-8|must hold)"):
        add_corrections(ArtifactPaths(tmp_path), "metal", path, regions)


def test_the_command_says_what_it_did_or_what_is_wrong(
    tmp_path: Path, regions: pd.DataFrame
) -> None:
    del regions
    path = download(tmp_path, [{"crop_id": "r0", "class": 2}])

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["correct", *arguments, "--data", str(tmp_path)])
        return done.exit_code, done.output

    code, text = run("metal", str(path))
    first = text.split("\n")[0]
    assert code == 0
    assert first.startswith("metal: read 1 corrections; ")
    assert "metal.json now corrects 1 of 4 regions" in first
    for arguments, message in (
        (("metal", str(tmp_path / "no.json")), "cannot be read (No such file"),
        (("wood", str(path)), "run `dvc repro` first"),
        (("metal", str(download(tmp_path, [], category="wood"))), "is for 'wood', not for 'metal'"),
    ):
        code, text = run(*arguments)
        assert code == 1
        assert message in text
        assert text.count("\n") == 1
