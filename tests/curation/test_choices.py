"""The file of choices: what is written is read, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.clustering.class_choices import Merge, Split
from pipeline.config.section import ConfigError
from pipeline.curation.choices import (
    Choices,
    choices_path,
    is_choices_file,
    read_choices,
    stored_choices,
    write_choices,
)
from pipeline.io.paths import ArtifactPaths

SOME = Choices("m\u00e4", "0d3f", (Merge((2, 5)), Split(3)))


def test_written_choices_are_read(tmp_path: Path) -> None:
    path = choices_path(ArtifactPaths(tmp_path), "m\u00e4")
    write_choices(path, SOME)
    assert read_choices(path) == SOME
    assert is_choices_file(path)
    assert path.read_text("utf-8").splitlines()[2:4] == ['  {"merge": [2, 5]},', '  {"split": 3}']
    write_choices(path, SOME.without_last().without_last())
    assert not path.exists()


def test_choices_of_another_run_are_a_note(tmp_path: Path) -> None:
    paths = ArtifactPaths(tmp_path)
    write_choices(choices_path(paths, "m\u00e4"), SOME)
    assert stored_choices(paths, "m\u00e4", "0d3f") == (SOME, None)
    found, note = stored_choices(paths, "m\u00e4", "beef")
    assert found == Choices("m\u00e4", "beef")
    assert note is not None
    assert "of another run (0d3f, this one is beef)" in note
    choices_path(paths, "m\u00e4").rename(choices_path(paths, "other"))
    with pytest.raises(ConfigError, match="is for 'm\u00e4', not for 'other'"):
        stored_choices(paths, "other", "0d3f")


GOOD = {"category": "c", "run": "r", "choices": [{"split": 3}]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold category, run and choices"),
        ({**GOOD, "more": 1}, "must hold category, run and choices"),
        ({**GOOD, "run": 3}, "must be strings"),
        ({**GOOD, "choices": [{"split": -1}]}, r"choices\[0\]"),
        ({**GOOD, "choices": [{"split": True}]}, r"choices\[0\]"),
        ({**GOOD, "choices": [{"split": 1}, {"merge": "25"}]}, r"choices\[1\]"),
        ({**GOOD, "choices": [{"merge": [1, 2], "split": 3}]}, r"choices\[0\]"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: object, problem: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=problem):
        read_choices(path)


def test_nothing_to_take_back() -> None:
    with pytest.raises(ConfigError, match="no choice to take back"):
        Choices("c", "r").without_last()


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"category": "c", "run": "0d3f", "run": "beef", "choices": []}')
    with pytest.raises(ConfigError, match=r"c\.json: not valid JSON \(the key 'run' stands twice"):
        read_choices(path)
