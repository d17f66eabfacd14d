"""Names and numbers from run to run, through the stage `shape` and the command `name`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import stages.shape
from pipeline.cli import app
from pipeline.config.section import ConfigError
from pipeline.curation.names import names_for, names_or_numbers, read_names, run_of
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_table import read_predicted, read_regions
from pipeline.io.schemas import CROPS, HISTORY, REGIONS
from pipeline.io.tables import read_parquet, write_parquet
from tests.commands.test_reshape import write_run

PERMUTED = np.array([0, 3, 1, 2])


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    """A run with classes 2 and 3 named."""
    paths = write_run(tmp_path / "data")
    stages.shape.run("c", paths)
    name(paths, 2, "dent")
    name(paths, 3, "scratch")
    return paths


def name(paths: ArtifactPaths, number: int, text: str) -> str:
    file = paths.root / "names.yaml"
    words = ["name", "c", str(number), text, "--names", str(file), "--data", str(paths.root)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.output


def rerun(paths: ArtifactPaths, classes: np.ndarray, width: int = 4, shift: int = 0) -> None:
    """Write the same regions as another run would, and shape them."""
    frame = read_predicted(paths, "c")
    p = np.full((len(frame), width), 0.01, np.float32)
    p[np.arange(len(frame)), classes] = 0.9
    frame = frame.assign(**{"class": classes}, probabilities=list(p))
    write_parquet(paths.predict("c") / "regions.parquet", frame, REGIONS)
    file = paths.crops("c") / "crops.parquet"
    crops = read_parquet(file, CROPS)
    write_parquet(file, crops.assign(x0=crops["x0"] + shift), CROPS)
    stages.shape.run("c", paths)


def history(paths: ArtifactPaths) -> pd.DataFrame:
    return read_parquet(paths.shape("c") / "history.parquet", HISTORY)


def test_the_run_in_which_classes_were_named_is_left_as_it_is(paths: ArtifactPaths) -> None:
    stages.shape.run("c", paths)
    mine, theirs = (
        (folder("c") / "regions.parquet").read_bytes() for folder in (paths.shape, paths.predict)
    )
    assert mine == theirs
    assert not len(history(paths))


def test_numbers_and_names_follow_the_regions(paths: ArtifactPaths) -> None:
    before = read_regions(paths, "c")["class"].tolist()
    rerun(paths, PERMUTED[before], shift=2)
    after = read_regions(paths, "c")
    assert after["class"].tolist() == before
    assert np.stack(after["probabilities"]).argmax(1).tolist() == before
    file = paths.root / "names.yaml"
    assert names_for(file, "c", paths).names == {2: "dent", 3: "scratch"}
    _, notes = names_or_numbers(file, "c", paths)
    assert len(notes) == 1
    assert "have numbers and names of run" in notes[0]
    assert history(paths)["fate"].tolist() == ["kept"] * 3
    # a new name makes this run the one that people know, and keeps the other names
    name(paths, 1, "stain")
    found = read_names(file)["c"]
    assert found.names == {1: "stain", 2: "dent", 3: "scratch"}
    assert found.run == run_of(paths, "c")
    stages.shape.run("c", paths)
    assert read_regions(paths, "c")["class"].tolist() == before
    rerun(paths, np.array(before))
    assert read_regions(paths, "c")["class"].tolist() == before


def test_a_split_and_a_merge_are_told(paths: ArtifactPaths) -> None:
    before = read_regions(paths, "c")["class"].to_numpy()
    half = np.where((before == 2) & (np.arange(len(before)) % 8 < 4), 4, before)
    half = np.where(before == 3, 1, half)
    rerun(paths, half, width=5)
    names, notes = names_or_numbers(paths.root / "names.yaml", "c", paths)
    assert names.names == {2: "dent"}
    said = " ".join(notes)
    assert "Split: class 2 (dent) has 5 of its 10 regions" in said
    assert "class 4 has 5 of its 5 regions from class 2." in said
    assert "Merged: 10 of 10 regions of class 3 (scratch) are in class 1 now." in said
    assert history(paths)["number"].tolist() == [1, 2, 3, 4]


def test_other_images_get_no_name(paths: ArtifactPaths) -> None:
    before = read_regions(paths, "c")["class"].to_numpy()
    rerun(paths, before, shift=40)  # no square overlaps
    assert set(read_regions(paths, "c")["class"]) == {0, 4, 5, 6}
    names, notes = names_or_numbers(paths.root / "names.yaml", "c", paths)
    assert names.names == {}
    assert any(note.startswith("Gone: class 2 (dent)") for note in notes)


def test_names_of_a_run_that_was_not_compared_are_refused(paths: ArtifactPaths) -> None:
    before = read_regions(paths, "c")["class"].to_numpy()
    rerun(paths, PERMUTED[before])
    file = paths.root / "names.yaml"
    file.write_text(file.read_text().replace(read_names(file)["c"].run or "", "0d3f5a1b2c4e"))
    with pytest.raises(ConfigError, match="of an earlier run"):
        names_for(file, "c", paths)
