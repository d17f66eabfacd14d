"""`merge`, `split` and the stage `shape`, from the command line, on a small finished run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import stages.shape
from pipeline.cli import app
from pipeline.clustering.conformal import Limit
from pipeline.clustering.novelty import fit_novelty
from pipeline.config.params import Predict
from pipeline.config.section import ConfigError
from pipeline.curation.choices import choices_path, read_choices
from pipeline.curation.corrections import corrected_classes
from pipeline.curation.identity import identity_path
from pipeline.curation.names import run_of
from pipeline.exports.classifier import _summed
from pipeline.inference.region_classes import Seen, classify_regions
from pipeline.io.class_tree import read_tree
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.region_classifier import RegionModel
from pipeline.io.region_table import read_predicted, read_regions
from pipeline.io.schemas import CROPS, IDENTITY, REGIONS
from pipeline.io.tables import read_metadata, read_parquet, write_parquet

N = 40


def write_run(root: Path) -> ArtifactPaths:
    """A run of 40 regions in classes 0 to 3, each defect class of two clusters."""
    paths, rng = ArtifactPaths(root), np.random.default_rng(0)
    classes = np.arange(N) % 4
    x = 9 * np.eye(8)[2 * classes + np.arange(N) // 4 % 2] + rng.normal(size=(N, 8))
    p = np.full((N, 4), 0.05, np.float32)
    p[np.arange(N), classes] = 0.85
    ids = [f"{i:03d}" for i in range(N)]
    frame = pd.DataFrame({"crop_id": ids, "sample_id": ids, "class": classes, "confidence": 0.85})
    frame = frame.assign(probabilities=list(p), embedding=list(x.astype(np.float32)))
    write_parquet(paths.predict("c") / "regions.parquet", frame, REGIONS, {"classifier": "mixture"})
    crops = frame.assign(k=0, x0=0, y0=0, side=9, area_px=5, score=0.5)
    write_parquet(paths.crops("c") / "crops.parquet", crops, CROPS)
    return paths


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactPaths:
    monkeypatch.chdir(tmp_path)  # where names.yaml is
    paths = write_run(tmp_path)
    stages.shape.run("c", paths)
    return paths


def run(paths: ArtifactPaths, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--data", str(paths.root)])
    return result.output if result.exit_code == 0 else f"FAILED {result.output}"


def counts(paths: ArtifactPaths) -> list[int]:
    stages.shape.run("c", paths)
    return np.bincount(read_regions(paths, "c")["class"]).tolist()


def test_without_choices_the_regions_are_those_of_predict(paths: ArtifactPaths) -> None:
    mine, theirs = (
        (folder("c") / "regions.parquet").read_bytes() for folder in (paths.shape, paths.predict)
    )
    assert mine == theirs


def test_merge_split_and_undo(paths: ArtifactPaths) -> None:
    before, run_id = (paths.shape("c") / "regions.parquet").read_bytes(), run_of(paths, "c")
    said = run(paths, "merge", "c", "2", "3")
    assert "c: 1 choice; the classes will be 0 (10 regions), 1 (10 regions), 2 (20 reg" in said
    assert counts(paths) == [10, 10, 20]
    found = read_regions(paths, "c")
    assert len(found["probabilities"][0]) == 4  # 3 stays a number that nothing else can get
    assert found["confidence"][2] == pytest.approx(0.9)
    assert read_metadata(paths.shape("c") / "regions.parquet")["classifier"] == "mixture"
    assert "2 choices" in run(paths, "split", "c", "1")
    assert counts(paths) == [10, 5, 20, 0, 5]
    assert run_of(paths, "c") == run_id  # names stay
    assert read_choices(choices_path(paths, "c")).run == run_id
    run(paths, "merge", "c", "--undo")
    assert counts(paths) == [10, 10, 20]
    assert "is gone" in run(paths, "split", "c", "--undo")
    assert counts(paths) == [10, 10, 10, 10]
    assert (paths.shape("c") / "regions.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["merge", "c", "2"], "two or more"),
        (["merge", "c", "2", "7"], "no class 7"),
        (["merge", "c", "2", "--undo"], "give no classes"),
        (["merge", "c", "--undo"], "no choice to take back"),
        (["split", "c"], "give the number of a class, or --undo"),
        (["split", "c", "0"], "cannot be split"),
        (["split", "d", "1"], "has no run of 'd'"),
    ],
)
def test_what_is_not_possible_changes_nothing(
    paths: ArtifactPaths, words: list[str], problem: str
) -> None:
    said = " ".join(run(paths, *words).split())
    assert said.startswith("FAILED")
    assert problem in said
    assert not choices_path(paths, "c").exists()


def test_corrections_to_a_merged_class_follow_it(paths: ArtifactPaths) -> None:
    regions = read_regions(paths, "c")
    file = paths.root / "corrections" / "c.json"
    file.parent.mkdir()
    file.write_text(
        f'{{"category": "c", "run": "{run_of(paths, "c")}", '
        '"corrections": [{"crop_id": "001", "class": 3}]}'
    )
    assert corrected_classes(paths, "c", regions)[1] == 3
    run(paths, "merge", "c", "2", "3")
    stages.shape.run("c", paths)
    assert corrected_classes(paths, "c", read_regions(paths, "c"))[1] == 2


def test_a_downloaded_file_takes_the_place_of_the_choices(paths: ArtifactPaths) -> None:
    run(paths, "split", "c", "1")
    file = paths.root / "choices-c.json"
    text = f'{{"category": "c", "run": "{run_of(paths, "c")}", "choices": [{{"merge": [1, 3]}}]}}'
    file.write_text(text)
    assert "1 choice;" in run(paths, "correct", "c", str(file))
    assert counts(paths) == [10, 20, 10]
    file.write_text(text.replace("[1, 3]", "[1, 8]"))
    assert "no class 8" in run(paths, "correct", "c", str(file))
    file.write_text(text.replace(run_of(paths, "c"), "0d3f"))
    assert "about another run" in " ".join(run(paths, "correct", "c", str(file)).split())
    assert counts(paths) == [10, 20, 10]


def test_choices_of_another_run_are_kept_aside(
    paths: ArtifactPaths, caplog: pytest.LogCaptureFixture
) -> None:
    run(paths, "merge", "c", "2", "3")
    choices_path(paths, "c").write_text(
        choices_path(paths, "c").read_text().replace(run_of(paths, "c"), "0d3f")
    )
    assert counts(paths) == [10, 10, 10, 10]
    assert "of another run (0d3f" in caplog.text
    assert "kept the choices" in run(paths, "split", "c", "1")
    assert choices_path(paths, "c").with_name("c.json.old").exists()


def test_regions_of_another_run_are_refused(paths: ArtifactPaths) -> None:
    frame = read_predicted(paths, "c").assign(confidence=0.8)
    write_parquet(paths.predict("c") / "regions.parquet", frame, REGIONS)
    with pytest.raises(ArtifactError, match="run the stage 'shape' again"):
        read_regions(paths, "c")


def test_new_images_get_the_shaped_classes(paths: ArtifactPaths) -> None:
    run(paths, "merge", "c", "1", "2")
    run(paths, "split", "c", "3")
    stages.shape.run("c", paths)
    regions = read_regions(paths, "c")
    seen = Seen(
        probabilities=np.stack(read_predicted(paths, "c")["probabilities"]).astype(np.float64),
        embeddings=np.stack(regions["embedding"]),
    )
    shaped, _ = read_tree(paths, "c")
    model = RegionModel(
        Limit(-np.inf, "nothing", None, np.nan), fit_novelty(seen.features), shaped=shaped
    )
    ones = np.ones(N)
    found = classify_regions(seen, ones, ones, model, Predict(normal="none"))
    assert found.probabilities.argmax(1).tolist() == regions["class"].tolist()
    with pytest.raises(ConfigError, match="no split ones"):
        _summed("c", model)


def test_a_name_leaves_the_parts_of_a_split_where_they_are(paths: ArtifactPaths) -> None:
    run(paths, "split", "c", "2")
    before = counts(paths)
    for number in ("4", "2"):
        assert "FAILED" not in run(paths, "name", "c", number, f"stain {number}")
        assert counts(paths) == before
    known = read_parquet(identity_path(paths, "c"), IDENTITY)
    assert np.bincount(known["class"]).tolist() == before


def test_the_numbers_of_another_number_of_classes_are_not_taken(paths: ArtifactPaths) -> None:
    run(paths, "name", "c", "2", "stain")
    regions = read_predicted(paths, "c")
    regions["probabilities"] = [np.append(p, np.float32(0)) for p in regions["probabilities"]]
    path = paths.predict("c") / "regions.parquet"
    write_parquet(path, regions, REGIONS, {"classifier": "mixture"})
    assert counts(paths) == [10, 10, 10, 10]


def test_choices_that_a_file_does_not_begin_with_are_kept(paths: ArtifactPaths) -> None:
    run(paths, "merge", "c", "2", "3")
    stored = choices_path(paths, "c")
    before = stored.read_text()
    other = paths.root / "downloaded.json"
    other.write_text(before.replace("[2, 3]", "[1, 3]"), encoding="utf-8-sig")
    assert "kept the choices" in run(paths, "correct", "c", str(other))
    assert stored.with_name("c.json.old").read_text() == before
    assert "[1, 3]" in stored.read_text()


def test_a_pipe_of_choices_is_refused(paths: ArtifactPaths) -> None:
    pipe = paths.root / "pipe.json"
    os.mkfifo(pipe)
    assert "pipe.json" in run(paths, "correct", "c", str(pipe))


def undone(paths: ArtifactPaths, *words: str) -> str:
    """Try to take back a split that is applied; return the one line of refusal."""
    before = choices_path(paths, "c").read_text()
    said = " ".join(run(paths, *words).split())
    assert said.startswith("FAILED")
    assert choices_path(paths, "c").read_text() == before
    return said


def test_a_named_class_does_not_go_by_undo_or_another_file(paths: ArtifactPaths) -> None:
    """Else the next split would get its number, and with it the name."""
    names = paths.root / "names.yaml"
    run(paths, "split", "c", "1")
    stages.shape.run("c", paths)
    run(paths, "name", "c", "4", "burr", "--names", str(names))
    assert "4 of c would be gone" in undone(paths, "split", "c", "--undo", "--names", str(names))
    assert "'burr'" in undone(paths, "merge", "c", "--undo", "--names", str(names))
    other = paths.root / "downloaded.json"
    other.write_text(choices_path(paths, "c").read_text().replace('"split": 1', '"split": 3'))
    assert "'burr'" in undone(paths, "correct", "c", str(other), "--names", str(names))
    assert "2 choices" in run(paths, "merge", "c", "2", "4", "--names", str(names))
    assert "1 choice;" in run(paths, "merge", "c", "--undo", "--names", str(names))
    names.write_text("c: {1: dent}")
    assert "is gone" in run(paths, "split", "c", "--undo", "--names", str(names))
    names.write_text("c: {4: burr}")  # what the classes on disk still have
    said = run(paths, "split", "c", "3", "--names", str(names))
    assert "4 of c would be gone" in " ".join(said.split())


def test_a_class_that_corrections_use_does_not_go(paths: ArtifactPaths) -> None:
    run(paths, "split", "c", "1")
    stages.shape.run("c", paths)
    file = paths.root / "corrections" / "c.json"
    file.parent.mkdir()
    entry = '{"crop_id": "001", "class": 4}'
    start = f'{{"category": "c", "run": "{run_of(paths, "c")}", "corrections": ['
    file.write_text(f"{start}{entry}]}}")
    assert "corrections/c.json moves regions" in undone(paths, "split", "c", "--undo")
    file.write_text(f"{start}]}}")
    assert "is gone" in run(paths, "split", "c", "--undo")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["c", "2", "3", "--category", "d"], "not by --category"),
        (["c", "--undo", "--params", "other.yaml"], "--params is for the stage"),
        (["c", "2", "3", "--params", "other.yaml"], "--params is for the stage"),
        (["c", "--names", "other.yaml"], "--names is for merging classes"),
    ],
)
def test_no_option_of_merge_is_ignored(
    paths: ArtifactPaths, words: list[str], problem: str
) -> None:
    said = run(paths, "merge", *words)
    assert said.startswith("FAILED")
    assert problem in " ".join(said.replace("│", " ").split())
    assert not choices_path(paths, "c").exists()


def test_stored_choices_that_are_not_possible_can_be_taken_back(paths: ArtifactPaths) -> None:
    run(paths, "split", "c", "1")
    stored = choices_path(paths, "c")
    stored.write_text(stored.read_text().replace('"split": 1', '"split": 99'))
    assert "no class 99" in run(paths, "merge", "c", "2", "3")
    assert "is gone" in run(paths, "split", "c", "--undo")
