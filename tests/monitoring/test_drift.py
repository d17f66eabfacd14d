"""`anomalyncd drift` over the results of a run, with names that must not become HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.curation.names import run_of, set_name
from pipeline.io.paths import ArtifactPaths
from pipeline.io.results import COLUMNS, ResultLog
from pipeline.io.schemas import IMAGES, MAP_SCORES, MERGED, REFERENCE_SCORES, REGIONS
from pipeline.io.tables import write_json, write_parquet
from tests.browser import CHROMIUM, browser

NAME = "<b>scratch</b>"
IDS = [f"{i:016x}" for i in range(60)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write what `drift` reads: 40 good images and 20 of class 1 named `NAME`, 60 references."""
    rng, paths = np.random.default_rng(0), ArtifactPaths(tmp_path / "data")
    classes = np.repeat([0, 1], [40, 20])
    scores = np.where(classes > 0, 10.0, 0.0) + rng.normal(0, 0.5, 60)
    references = [f"{i:016x}" for i in range(100, 160)]
    images = pd.DataFrame({"sample_id": [*IDS, *references]})
    images = images.assign(path=[f"{i}.png" for i in images["sample_id"]], split="query", height=8)
    images = images.assign(width=8, channels=3, part=images["sample_id"])
    write_parquet(paths.manifest("c") / "images.parquet", images, IMAGES)
    table = pd.DataFrame({"sample_id": IDS, "score": 0.5, "image_score": scores})
    write_parquet(paths.maps("c") / "scores.parquet", table, MAP_SCORES)
    held_out = pd.DataFrame({"sample_id": references, "score": 0.1})
    held_out["image_score"] = rng.normal(0, 0.5, 60)
    write_parquet(paths.maps("c") / "references.parquet", held_out, REFERENCE_SCORES)
    merged = pd.DataFrame({"sample_id": IDS, "class": classes, "confidence": 0.9})
    merged = merged.assign(probabilities=[[0.1, 0.9]] * 60, region_classes=[[1]] * 60)
    write_parquet(paths.merge("c") / "images.parquet", merged.assign(class_set=[[1]] * 60), MERGED)
    regions = merged.assign(crop_id=IDS, embedding=[[0.0]] * 60)
    write_parquet(paths.predict("c") / "regions.parquet", regions, REGIONS)
    predict = {"predict": {"normal": "scores", "false_alarms": 0.05}}
    stored = {"score_limit": 1.5, "score_limit_basis": "references", "params": predict}
    write_json(paths.predict("c") / "classifier.json", stored)
    return tmp_path


def results(root: Path, shift: float) -> Path:
    """Write 40 good images whose scores are moved by `shift`, 5 defects, an unknown one."""
    rng, out = np.random.default_rng(1), root / "results.csv"
    log = ResultLog(out)
    verdicts = [*["good"] * 40, *["defect"] * 5, "unknown"]
    for i, verdict in enumerate(verdicts):
        row = dict.fromkeys(COLUMNS) | {
            "modified": f"2026-12-0{1 + i % 3}T10:00:00.000000000Z",
            "path": f"{i}.png",
            "verdict": verdict,
            "class": {"good": 0, "defect": 1, "unknown": -1}[verdict],
            "name": {"good": "normal", "defect": NAME, "unknown": "unknown"}[verdict],
            "image_score": shift + rng.normal(0, 0.3) if verdict == "good" else 10.0,
            "confidence": 0.9,
            "brightness": 0.5,
        }
        log.append(row)
    log.close()
    return out


def drift(root: Path, *more: str) -> tuple[int, str]:
    options = ["--data", str(root / "data"), "--params", str(root / "none.yaml")]
    options += ["--names", str(root / "names.yaml")]
    found = CliRunner().invoke(app, ["drift", "c", *more, *options])
    return found.exit_code, found.output


def test_what_moved_is_said_and_decides_the_status(run: Path) -> None:
    same = results(run, 0.0)
    code, text = drift(run, str(same), "--fail-at", "0.4")
    assert code == 0, text
    assert re.search(r"score of good images, beside references .* as in the run", text)
    assert "of 200 good parts 10 at most are expected to be stopped" in text
    same.unlink()
    code, text = drift(run, str(results(run, 0.8)), "--fail-at", "0.4", "--json", str(run / "d"))
    assert code == 1
    assert "moved: score of good images" in text
    found = json.loads((run / "d").read_text())
    assert found["days"] == ["2026-12-01", "2026-12-02", "2026-12-03"]
    shares = {share["name"]: share for share in found["shares"]}
    assert shares["stopped (defect or unknown)"]["count"] == 6
    assert shares["unknown, of those stopped"]["total"] == 6
    rows = {row["number"]: row for row in found["classes"]}
    assert (rows[1]["run"], rows[1]["new"], rows[1]["by_day"]) == (20, 5, [1, 2, 2])
    assert (rows[-1]["run"], rows[-1]["new"]) == (0, 1)


def test_since_takes_later_images_alone(run: Path) -> None:
    code, text = drift(run, str(results(run, 0.0)), "--since", "2026-12-03")
    assert code == 0
    assert "15 new images" in text
    assert drift(run, str(run / "results.csv"), "--since", "2027-01-01")[0] == 2


def test_what_is_wrong_is_said(run: Path) -> None:
    found = results(run, 0.0)
    (run / "wrong.csv").write_text("a,b\n")
    assert "is no table" in drift(run, str(run / "wrong.csv"))[1]
    assert "cannot be read" in drift(run, str(run / "none.csv"))[1]
    other = run / "other.html"
    other.write_text("mine")
    code, text = drift(run, str(found), "--html", str(other))
    assert (code, other.read_text()) == (2, "mine")
    assert "is no file of `drift`" in text
    assert drift(run, str(found), "--fail-at", "3")[0] == 2


def test_the_page_escapes_names_and_asks_for_nothing(run: Path) -> None:
    paths, page = ArtifactPaths(run / "data"), run / "d.html"
    found = results(run, 0.0)
    set_name(run / "names.yaml", "c", 1, NAME, run_of(paths, "c"), {})
    for _ in range(2):  # its own page is written again
        code, text = drift(run, str(found), "--html", str(page))
        assert code == 0, text
    html = page.read_text()
    assert "&lt;b&gt;scratch&lt;/b&gt;" in html
    assert NAME not in html
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert not re.search(r"(src|href)=", html)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_shows_the_page_without_errors(run: Path, tmp_path: Path) -> None:
    page = run / "d.html"
    drift(run, str(results(run, 0.8)), "--html", str(page))
    with browser(tmp_path / "profile") as tab:
        tab.open(page)
        assert tab.errors == []
