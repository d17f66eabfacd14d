"""Names of files and classes can command neither a terminal nor a spreadsheet nor a page."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app, run_stage
from pipeline.config.section import ConfigError
from pipeline.curation.names import read_names, set_name
from pipeline.exports.discovered import read_discovered
from pipeline.exports.folders import write_folders
from pipeline.io.schemas import CLASSIFIED
from pipeline.report.page import ReportPage, render
from pipeline.terminal import printable, printable_lines, say
from tests.discovered_data import write_discovered

EVIL = "a\x1b]0;PWN\x07\x1b[2J\nb\u202e.png"
COMMANDS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


def test_what_commands_a_terminal_is_escaped_and_the_rest_is_not() -> None:
    assert printable(EVIL) == r"a\x1b]0;PWN\x07\x1b[2J\x0ab\u202e.png"
    assert printable("\x9b\r\t\x7f\udcff") == r"\x9b\x0d\x09\x7f\udcff"
    ordinary = "Träger 日本 🙂 e\u0301 'x' \\n"
    assert printable(ordinary) == ordinary
    assert printable_lines("a\nb\x1b") == "a\nb\\x1b"


def test_messages_of_any_kind_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    say(EVIL, err=True)
    out, err = capsys.readouterr()
    assert out == err == "a\\x1b]0;PWN\\x07\\x1b[2J\nb\\u202e.png\n"


def test_the_log_of_a_stage_and_its_error_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    (tmp_path / "params.yaml").write_text(f"base: {{root: {tmp_path / 'base'}}}\n")
    for label in ("defect", EVIL.replace("\n", " ")):
        for kind in ("images", "masks"):
            folder = tmp_path / "base" / kind / label
            folder.mkdir(parents=True)
            (folder / EVIL).write_bytes(b"nothing")
    with pytest.raises(Exception, match="1"):
        run_stage("base", None, tmp_path / "params.yaml", tmp_path / "data")
    for handler in root.handlers:
        handler.flush()
    err = capsys.readouterr().err
    assert r"\x1b]0;PWN" in err
    assert not COMMANDS.search(err.replace("\x1b[31m", "").replace("\x1b[0m", ""))


def test_files_that_classify_leaves_out_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_discovered(tmp_path)
    frame = pd.DataFrame(columns=CLASSIFIED.names)
    found = (frame, [(EVIL, f"the same bytes as {EVIL}")])
    monkeypatch.setattr("pipeline.commands.classify.classify_images", lambda *_: found)
    monkeypatch.setattr("pipeline.commands.classify.promise_of_run", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    arguments = ["classify", "raw/c", "--category", "c", "--out", "found.parquet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"left out: {printable(EVIL)}: the same bytes" in result.output
    assert not COMMANDS.search(result.output)


def test_files_that_init_cannot_use_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / EVIL).write_bytes(b"nothing")
    result = CliRunner().invoke(app, ["init", "photos"])
    assert printable(EVIL) in result.output
    assert not COMMANDS.search(result.output)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "a\u202eb", "a\tb"])
def test_names_of_classes_are_one_line_of_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "names.yaml"
    with pytest.raises(ConfigError, match="cannot be named"):
        set_name(path, "c", 1, name, "0" * 12)
    escaped = name.encode("unicode_escape").decode()
    path.write_text(f'c: {{1: "{escaped}"}}\n')
    with pytest.raises(ConfigError, match=r"names\.yaml: c\.1: .* is not a name"):
        read_names(path)


def test_no_cell_of_regions_csv_is_a_formula(tmp_path: Path) -> None:
    layout = write_discovered(tmp_path)
    formulas = {0: "@normal", 1: '=HYPERLINK("x")', 2: "+1", 3: "-rf"}
    path = tmp_path / "names.yaml"
    path.write_text("c:\n" + "".join(f"  {k}: '{name}'\n" for k, name in formulas.items()))
    write_folders(read_discovered("c", layout, path), tmp_path / "out", layout)
    with (tmp_path / "out" / "regions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {f"'{name}" for name in formulas.values()}
    for row in rows:
        assert (tmp_path / "out" / row["file"]).is_file()
        numbers = {row[column] for column in ("class", "x0", "y0", "side", "confidence")}
        assert not [text for text in numbers if not re.fullmatch(r"-?[\d.]+", text)]
        texts = set(row.values()) - numbers
        assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t"))]
    assert any(row["y0"] == "-10" for row in rows)  # numbers stay numbers


def test_the_report_may_run_and_load_nothing() -> None:
    page = ReportPage(
        categories=[], metrics=[], environment={"packages": {}}, params="{}", times=[]
    )
    html = render(page)
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "<script" not in html
