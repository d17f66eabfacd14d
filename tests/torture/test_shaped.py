"""The class tree and the classes that people know, in damaged files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import stages.shape
from pipeline.clustering.class_tree import grow_tree
from pipeline.curation.identity import identity_path
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import IDENTITY
from pipeline.io.tables import read_metadata, read_parquet, write_parquet
from tests.commands.test_reshape import run, write_run


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactPaths:
    """A run of classes 0 to 3, of which 1 has a name."""
    monkeypatch.chdir(tmp_path)
    paths = write_run(tmp_path / "data")
    stages.shape.run("c", paths)
    assert "FAILED" not in run(paths, "name", "c", "1", "dent")
    return paths


def one_line(said: str) -> str:
    """Return what a command said, if it was the one line of an error."""
    assert said.startswith("FAILED anomalyncd"), said
    assert "Traceback" not in said
    return " ".join(said.split())


KNOWN: dict[str, dict[str, Any]] = {
    "numbers of text": {"numbers": ["a", "b", "c", "d"]},
    "numbers twice": {"numbers": [0, 1, 1, 2]},
    "numbers below 0": {"numbers": [0, -1, 2, 3]},
    "numbers of truth": {"numbers": [False, True, 2, 3]},
    "numbers without normal": {"numbers": [3, 2, 1, 0]},
    "numbers of a list": {"numbers": [[0], [1], [2], [3]]},
    "numbers that fill the memory": {"numbers": [0, 1, 2, 10**12], "n_numbers": 10**12 + 1},
    "no numbers": {"numbers": None},
    "fewer than there are": {"n_numbers": 2},
    "a negative count": {"n_numbers": -1},
    "a count of text": {"n_start": "x"},
    "a count that fills the memory": {"n_start": 10**12},
    "a run that is none": {"run": 5},
}


@pytest.mark.parametrize("kind", KNOWN)
def test_known_classes_with_nonsense_are_refused(paths: ArtifactPaths, kind: str) -> None:
    path = identity_path(paths, "c")
    content = {**read_metadata(path), **KNOWN[kind]}
    write_parquet(path, read_parquet(path, IDENTITY), IDENTITY, content)
    with pytest.raises(ArtifactError, match=r"identity/c\.parquet: .*take the file from git, or"):
        stages.shape.run("c", paths)


@pytest.mark.parametrize("number", [-1, 4, 10**9])
def test_known_regions_of_no_class_are_refused(paths: ArtifactPaths, number: int) -> None:
    path = identity_path(paths, "c")
    frame, content = read_parquet(path, IDENTITY), read_metadata(path)
    frame.loc[3, "class"] = number
    write_parquet(path, frame, IDENTITY, {**content, "run": "another"})
    with pytest.raises(ArtifactError, match=r"identity/c\.parquet: .*take the file from git"):
        stages.shape.run("c", paths)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("sample_id,x0\n"),
    "pipe": pipe,
    "folder": folder,
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_of_known_classes_that_is_none_is_refused(paths: ArtifactPaths, kind: str) -> None:
    UNREADABLE[kind](identity_path(paths, "c"))
    with pytest.raises(ArtifactError, match=r"identity/c\.parquet: .*take the file from git"):
        stages.shape.run("c", paths)


FATE = {"number": 1, "fate": "kept", "other": None, "before": 1, "now": 1, "shared": 1}
TREE: dict[str, dict[str, Any]] = {
    "too few numbers": {"numbers": [0]},
    "no numbers": {"numbers": []},
    "numbers below 0": {"numbers": [0, -1, 2, 3]},
    "numbers that fill the memory": {"n_numbers": 10**12},
    "fewer classes than members": {"n_classes": 1},
    "classes that fill the memory": {"n_classes": 10**12},
    "moved from text": {"moved": {"a": 1}},
    "moved to text": {"moved": {"1": "x"}},
    "no nodes": {"nodes": []},
    "a node of one": {"nodes": [[1]]},
    "nodes of one leaf": {"nodes": [[0, 0, 1.0]] * 7},
    "nodes of no leaf": {"nodes": [[99, 98, 1.0]] * 7},
    "a fate of text": {"identity": {"run": "a", "fates": ["x"]}},
    "half a fate": {"identity": {"run": "a", "fates": [{"number": 1}]}},
    "a fate of no class": {"identity": {"run": "a", "fates": [{**FATE, "number": "one"}]}},
    "choices that are none": {"choices": ["x"]},
}


@pytest.mark.parametrize("kind", TREE)
def test_a_tree_with_nonsense_is_one_line(paths: ArtifactPaths, kind: str) -> None:
    file = paths.shape("c") / "tree.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **TREE[kind]}))
    said = one_line(run(paths, "split", "c", "1"))
    assert "shape/c" in said
    assert "run the stage 'shape' again" in said
    assert not (paths.root / "choices").exists()


@pytest.mark.parametrize("regions", [1, 7])
def test_classes_of_regions_without_an_embedding_have_a_tree(regions: int) -> None:
    """As where all images are normal: no mixture was fitted, and there is no space."""
    tree = grow_tree(np.zeros((regions, 0)), np.zeros(regions), 3)
    assert tree.owners.tolist() == [0, 1, 2]
    assert tree.sizes.tolist() == [regions, 0, 0]
    empty = grow_tree(np.zeros((0, 1)), pd.Series([], dtype=int), 2)
    assert empty.sizes.tolist() == [0, 0]
