"""The command that redoes the paper's tables, with a runner that only notes what it would run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import tables
from pipeline.config import Params
from pipeline.presets import with_overrides
from tests.graph import ROOT

PAPER = ROOT / "params" / "paper.yaml"


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> tables.Book:
    monkeypatch.setenv("ANOMALYNCD_DATA", "/sets")
    return tables.read_book()


def test_every_row_of_every_table_on_every_set_is_possible(book: tables.Book) -> None:
    assert set(book.tables) == {2, 3, 4, 5, 6, 7, 8, 9, 14, 15, 16}
    for table in book.tables.values():
        seen = []
        for row in table.rows:
            assert all(len(c) in (0, len(table.figures)) for c in (row.mvtec, row.mtd))
            for data in book.data:
                overrides = tables.overrides_of(book, row, data, "heads", 3, PAPER)
                params = with_overrides(Params(), overrides)
                assert params.train.seed == params.predict.seed == 3
                assert params.predict.classifier == "heads"
            seen.append(params)
        assert all(a != b for i, a in enumerate(seen) for b in seen[:i]), table.title


def test_the_paper_s_own_row_is_in_each_table_but_14(book: tables.Book) -> None:
    for number, table in book.tables.items():
        assert sum(not row.overrides for row in table.rows) == (0 if number == 14 else 1)


class Notes:
    """Notes commands and writes figures that depend on their number."""

    def __init__(self, fail_at: int = -1) -> None:
        self.commands: list[Sequence[str]] = []
        self.fail_at = fail_at

    def __call__(self, command: Sequence[str]) -> None:
        self.commands.append(command)
        if len(self.commands) - 1 == self.fail_at:
            raise subprocess.CalledProcessError(255, command)
        folder = Path("data/evaluate/bottle")
        folder.mkdir(parents=True, exist_ok=True)
        value = len(self.commands) / 10
        (folder / "metrics.json").write_text(json.dumps({"nmi": value, "ari": value, "f1": 0.5}))


def _measure(book: tables.Book, runner: Notes, commit: str = "abc") -> None:
    tables.measure(book, 6, "bottle", [0, 1], "heads", PAPER, commit, runner)


def test_a_table_is_run_seeds_innermost_and_only_once(
    book: tables.Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = Notes(fail_at=2)
    _measure(book, notes)
    texts = [" ".join(command) for command in notes.commands]
    assert len(texts) == 6
    assert ["merge.weights=mean" in text for text in texts] == [True] * 2 + [False] * 4
    assert ["train.seed=1" in text for text in texts] == [False, True] * 3
    again = Notes()
    _measure(book, again)  # only the one that failed
    assert [" ".join(command) for command in again.commands] == [texts[2]]
    text = tables.markdown(book.tables[6], tables.csv_file(6, "bottle", "heads"))
    assert "| mean | 0.150/0.150/0.500 ± 0.050 | 0.610/0.521/0.709 | 0.257/0.223/0.501 |" in text
    _measure(book, Notes(), commit="def")
    text = tables.markdown(book.tables[6], tables.csv_file(6, "bottle", "heads"))
    assert "| score | 0.350/0.350/0.500 ± 0.050 |" in text


def test_params_are_put_back_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: 1  # why\n")

    def interrupted() -> None:
        with tables.params_kept(path):
            path.write_text("a: 2\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "a: 1  # why\n"
