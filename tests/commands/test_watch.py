"""Images of a folder as they come: each once, whatever happens in between."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.commands.watch import LineWatch, watch
from pipeline.curation.names import ClassNames
from pipeline.io.paths import ArtifactError
from pipeline.io.results import COLUMNS, ResultLog, read_results
from pipeline.io.watched_folder import WatchedFolder
from tests.graph import ROOT


class Classifier:
    """Calls images by their mean grey: dark is normal, 200 and above unknown, the rest class 2."""

    options = SimpleNamespace(bits=16)
    names = ClassNames({2: "=scratch"})

    def __call__(self, images: list[np.ndarray]) -> SimpleNamespace:
        grey = float(images[0].mean())
        number = 0 if grey < 100 else -1 if grey >= 200 else 2
        return SimpleNamespace(
            classes=[number],
            names=["unknown" if number < 0 else self.names[number]],
            confidence=[0.75],
            nearest_classes=[max(number, 0)],
            scores=[grey / 255],
            image_scores=[grey],
            region_classes=[[2]],
        )


def write(folder: Path, name: str, grey: int) -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(folder / name)
    return folder / name


def look(folder: Path, out: Path, rule: str | None = None) -> tuple[bool, list[dict[str, str]]]:
    log = ResultLog(out)
    try:
        line = LineWatch(WatchedFolder(folder), log, Classifier(), rule)  # type: ignore[arg-type]
        good = watch(line, once=True, interval=0.01)
    finally:
        log.close()
    with out.open(newline="") as file:
        return good, list(csv.DictReader(file))


def test_each_image_has_a_row_and_a_line_of_json(tmp_path: Path, capsys: Any) -> None:
    folder, out = tmp_path / "in", tmp_path / "results.csv"
    write(folder, "good.png", 10)
    (folder / "notes.txt").write_text("no image")
    write(folder, ".part.png", 150)  # as a program writes what it renames later
    good, rows = look(folder, out)
    assert good
    assert [row["path"] for row in rows] == ["good.png"]
    write(folder, "defect.png", 150)
    write(folder, "unknown.png", 250)
    (folder / "=bad.png").write_bytes(b"junk")
    capsys.readouterr()
    good, rows = look(folder, out)
    assert not good
    found = {row["path"]: row for row in rows}
    assert {path: row["verdict"] for path, row in found.items()} == {
        "good.png": "good",
        "defect.png": "defect",
        "unknown.png": "unknown",
        "'=bad.png": "unreadable",
    }
    assert found["defect.png"]["name"] == "'=scratch"
    assert found["unknown.png"]["class"] == "-1"
    assert "not an image" in found["'=bad.png"]["reason"]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["path"] for line in lines} == {"defect.png", "unknown.png", "=bad.png"}
    assert read_results(out)["brightness"].max() == pytest.approx(250 / 255, abs=1e-5)
    assert look(folder, out) == (True, rows)  # nothing new


def test_an_image_that_was_written_again_is_new(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "results.csv"
    file = write(folder, "a.png", 10)
    look(folder, out)
    write(folder, "a.png", 150)
    os.utime(file, ns=(1, 1))
    _, rows = look(folder, out)
    assert [row["verdict"] for row in rows] == ["good", "defect"]


def test_an_image_counts_when_it_no_longer_grows(tmp_path: Path) -> None:
    folder = WatchedFolder(tmp_path)
    file = write(tmp_path, "a.png", 10)
    assert folder.settled() == []
    assert folder.growing
    file.write_bytes(file.read_bytes() + b"more")
    assert folder.settled() == []
    assert [state.path for state in folder.settled()] == ["a.png"]
    assert not folder.growing


def test_a_line_that_was_torn_off_is_done_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "results.csv"
    for i in range(3):
        os.utime(write(folder, f"{i}.png", 10), ns=(i, i))
    _, whole = look(folder, out)
    data = out.read_bytes()
    for cut in (1, 20, len(data.splitlines()[-1])):
        out.write_bytes(data[:-cut])
        _, rows = look(folder, out)
        assert [row["path"] for row in rows] == [row["path"] for row in whole]
    out.write_bytes(data[:10])  # not even the head
    assert len(look(folder, out)[1]) == 3


def test_the_worst_image_of_a_part_so_far_decides(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "results.csv"
    for i, (name, grey) in enumerate([("7_a", 10), ("7_b", 150), ("8_a", 10), ("x", 10)]):
        os.utime(write(folder, f"{name}.png", grey), ns=(i, i))
    _, rows = look(folder, out, r"(\d+)_")
    assert [(row["part"], row["part_verdict"]) for row in rows] == [
        ("7", "good"),
        ("7", "defect"),
        ("8", "good"),
        ("", ""),
    ]
    os.utime(write(folder, "7_c.png", 10), ns=(9, 9))
    assert look(folder, out, r"(\d+)_")[1][-1]["part_verdict"] == "defect"  # also after a restart


def test_other_files_and_other_writers_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(ArtifactError, match=r"other.csv exists and is no table"):
        ResultLog(other)
    assert other.read_text() == "a,b\n1,2\n"
    other.write_text("no line")
    with pytest.raises(ArtifactError, match="is no table"):
        ResultLog(other)
    first = ResultLog(tmp_path / "results.csv")
    with pytest.raises(ArtifactError, match="written by another process"):
        ResultLog(tmp_path / "results.csv")
    first.close()
    ResultLog(tmp_path / "results.csv").close()
    with pytest.raises(ArtifactError, match="no folder"):
        WatchedFolder(tmp_path / "none").settled()


PROGRAM = """
import sys
from pathlib import Path
from tests.commands.test_watch import Classifier
from pipeline.commands.watch import LineWatch, watch
from pipeline.io.results import ResultLog
from pipeline.io.watched_folder import WatchedFolder
log = ResultLog(Path(sys.argv[2]))
line = LineWatch(WatchedFolder(Path(sys.argv[1])), log, Classifier(), None)
watch(line, once=False, interval=0.05)
"""


def start(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for_rows(out: Path, n: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if out.exists() and out.read_bytes().count(b"\n") > n:
            return
        time.sleep(0.005)
    raise AssertionError(f"{out} has no {n} rows after a minute")


def test_a_kill_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "results.csv"
    names = {f"{i:03d}.png" for i in range(150)}
    for name in names:
        write(folder, name, 10)
    process = start(folder, out)
    wait_for_rows(out, 20)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    before = read_results(out)
    assert 20 <= len(before) < 150
    process = start(folder, out)
    wait_for_rows(out, 150)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    after = read_results(out)
    assert sorted(after["path"]) == sorted(names)
    assert after["path"].tolist()[: len(before)] == before["path"].tolist()
    assert len(shown.splitlines()) == 150 - len(before)


def test_the_columns_are_documented() -> None:
    text = (ROOT / "docs" / "line.md").read_text(encoding="utf-8")
    for name in COLUMNS:
        assert f"`{name}`" in text
