"""The review page in a real browser, from a file: filters, marks, keys, and 5,000 regions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.curation.corrections import add_corrections, corrected_classes
from pipeline.curation.names import run_of
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import REGIONS
from pipeline.io.tables import write_parquet
from pipeline.palette import class_colour, class_marker
from pipeline.report.page import ReviewPage, render_review
from pipeline.report.pictures import webp_uri
from tests.browser import CHROMIUM, Browser, browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

HOSTILE = "</script><img src=x onerror='window.hacked=1'>\"&amp;"
RUN = "0d3f5a1b2c4e"


def texture(side: int, seed: int) -> np.ndarray:
    """Noise that is as large as WebP as pictures of metal or fabric are."""
    noise = np.random.default_rng(seed).integers(90, 160, (side // 8, side // 8, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def synthetic(n: int, *, per_image: int = 2, run: str = RUN, name: str = "metal") -> ReviewPage:
    """A page of `n` regions: region i has confidence i / n, area 10 i and class i % 3."""
    n_images = -(-n // per_image)
    thumbnails = [webp_uri(texture(112, seed)) for seed in range(20)]
    picture = (webp_uri(texture(400, 0)), webp_uri(texture(160, 1)), "M10 10L90 10L90 90L10 90Z")
    row = np.arange(n)
    data = {
        "category": name,
        "run": run,
        "classes": [{"number": k, "name": HOSTILE if k == 2 else None} for k in range(3)],
        "markers": [(class_colour(k), class_marker(k)) for k in range(48)],
        "regions": {
            "id": [f"r{i}" for i in range(n)],
            "image": (row // per_image).tolist(),
            "model": (row % 3).tolist(),
            "shown": (row % 3).tolist(),
            "confidence": (row / n).tolist(),
            "typicality": (1 - row / n).tolist(),
            "area": (10 * row).tolist(),
            "score": (row % 7 / 7).tolist(),
            "square": [[10, 10, 80] if i % per_image == 0 else [150, -20, 60] for i in range(n)],
        },
        "images": {
            "path": [f"{HOSTILE if i == 1 else 'part'}/{i:04d}.png" for i in range(n_images)],
            "width": [200] * n_images,
            "height": [160] * n_images,
            "merged": [0] * n_images,
        },
    }
    return ReviewPage(
        category=name,
        run=run,
        n_regions=n,
        n_corrected=0,
        n_images=n_images,
        n_queries=n_images,
        n_pictures=n_images,
        notes=[HOSTILE],
        data=data,
        thumbnails=[thumbnails[i % 20] for i in range(n)],
        pictures=[picture if i != 2 else None for i in range(n_images)],
    )


def write(folder: Path, page: ReviewPage) -> Path:
    path = folder / f"review-{page.category}.html"
    path.write_text(render_review(page), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(tab: Browser, tmp_path: Path) -> Iterator[Path]:
    """A page of 30 regions, opened without marks; at the end it must have had no error."""
    path = write(tmp_path, synthetic(30))
    tab.open(path)
    tab.run("localStorage.clear()")
    tab.open(path)
    tab.errors.clear()
    yield path
    assert tab.errors == []
    assert tab.run("window.hacked") is None


def rows(tab: Browser) -> list[int]:
    found: list[int] = tab.run(
        "[...document.querySelectorAll('#grid .card')].map(c => +c.dataset.row)"
    )
    return found


def text(tab: Browser, selector: str) -> str:
    return str(tab.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def test_it_loads_nothing_and_shows_everything(tab: Browser, page: Path) -> None:
    tab.requests.clear()
    tab.open(page)
    assert {r for r in tab.requests if not r.startswith("data:")} <= {page.as_uri(), "about:blank"}
    assert rows(tab) == list(range(30))
    card = text(tab, "#grid .card:nth-child(3)")
    assert card.startswith(f"\u25b22 {HOSTILE}conf. 0.07score 0.29typ. 0.9320 px{HOSTILE}/0001")
    label = tab.run("document.querySelector('#grid .card:nth-child(4)').ariaLabel")
    assert label.startswith("0 normal, confidence 0.10, score 0.43, typicality 0.90, area in pix")
    assert text(tab, "#count") == "30 of 30 regions"


def test_filters_and_order(tab: Browser, page: Path) -> None:
    del page
    tab.set("[name=class]", "1")
    assert rows(tab) == list(range(1, 30, 3))
    tab.set("[name=class]", "defects")
    assert rows(tab) == [i for i in range(30) if i % 3]
    tab.set("[name=confidenceFrom]", "0.5")
    tab.set("[name=areaTo]", "200")
    assert rows(tab) == [16, 17, 19, 20]
    tab.set("[name=order]", "confidence down")
    assert rows(tab) == [20, 19, 17, 16]
    tab.set("[name=order]", "typicality down")
    assert rows(tab) == [16, 17, 19, 20]
    tab.set("[name=text]", " PART/0008 ")
    assert rows(tab) == [16, 17]
    assert text(tab, "#count") == "2 of 30 regions"
    tab.click("#filters button[type=reset]")
    tab.wait("document.querySelectorAll('#grid .card').length === 30")
    tab.set("[name=order]", "score up")
    assert rows(tab)[:5] == [0, 7, 14, 21, 28]
    tab.click("#all")
    assert text(tab, "#target") == "30 selected"
    tab.set("[name=text]", "no such file")
    assert rows(tab) == []
    assert text(tab, "#target") == "0 selected"  # what is not seen is not marked
    tab.press("x", "ArrowDown", "Enter")


def test_the_link_from_the_report_chooses_a_class(tab: Browser, page: Path) -> None:
    tab.open(page, "#class=2")
    assert rows(tab) == list(range(2, 30, 3))


def test_marks_by_key_survive_a_reload_and_belong_to_the_run(tab: Browser, page: Path) -> None:
    tab.run("document.querySelector('#grid .card').focus()")
    tab.press("2", "ArrowRight", "x", "ArrowRight", "1", "ArrowRight", "2", "u")
    tab.press("End", "0", "Home", "ArrowDown", " ", "ArrowRight", " ", "1")
    columns = tab.run("getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    expected = {"r0": 2, "r2": 1, "r29": 0, f"r{columns}": 1, f"r{columns + 1}": 1}
    for i in (columns, columns + 1):
        if i % 3 == 1:
            del expected[f"r{i}"]  # it has that class
    status = f"{len(expected)} corrections, 1 wrong without a class (not in the file)"
    assert text(tab, "#status") == status
    assert "wrong" in tab.run("document.querySelectorAll('#grid .card')[1].className")
    tab.open(page)
    assert text(tab, "#status") == status
    assert text(tab, "#grid .card .badge") == f"\u2192 2 {HOSTILE}"
    tab.set("[name=marks]", "wrong")
    assert rows(tab) == [1]
    tab.set("[name=marks]", "marked")
    assert len(rows(tab)) == len(expected) + 1
    tab.open(write(page.parent, synthetic(30, run="ffffffffffff")))
    assert text(tab, "#status") == "0 corrections"


def test_what_is_downloaded_can_be_applied(tab: Browser, page: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"crop_id": [f"r{i}" for i in range(30)], "sample_id": "a"})
    frame = frame.assign(
        **{"class": np.arange(30) % 3},
        confidence=0.5,
        probabilities=[np.ones(3, np.float32)] * 30,
        embedding=[np.ones(2, np.float32)] * 30,
    )
    artifacts = ArtifactPaths(tmp_path / "data")
    write_parquet(artifacts.predict("metal") / "regions.parquet", frame, REGIONS)
    page = write(tmp_path, synthetic(30, run=run_of(artifacts, "metal")))
    tab.open(page)
    tab.click("#grid .card:nth-child(2) .tick")
    tab.click("#grid .card:nth-child(5)", modifiers=2)
    assert text(tab, "#target") == "2 selected"
    tab.set("#give", "new")
    tab.set("#name", "  weld\u200b  spatter ")
    tab.click("#giving button")
    tab.click("#none")
    tab.click("#grid .card:nth-child(7) .tick")
    tab.set("#give", "2")
    tab.click("#giving button")
    tab.press("x")  # the button has the focus: no key of the grid
    tab.click("#none")
    tab.run("document.querySelectorAll('#grid .card')[9].focus()")
    tab.press("ArrowRight", "ArrowLeft", "x")  # wrong without a class is not in the file
    assert text(tab, "#status").startswith("3 corrections, 1 wrong")
    tab.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.click("#download")
    file = tmp_path / "corrections-metal.json"
    tab.until(file.exists, "the download")
    assert add_corrections(artifacts, "metal", file, frame) == 3
    expected: list[object] = (np.arange(30) % 3).tolist()
    expected[1] = expected[4] = "weld spatter"
    expected[6] = 2
    assert corrected_classes(artifacts, "metal", frame) == expected


def test_an_image_opens_with_its_regions_map_and_mask(tab: Browser, page: Path) -> None:
    del page
    tab.click("#grid .card:nth-child(2) img")
    assert tab.run("viewer.open")
    assert text(tab, "#title") == "part/0000.png"
    assert tab.run("document.querySelectorAll('#own .card').length") == 2
    assert tab.run("document.querySelectorAll('#stage rect, #stage .line').length") == 3
    box = "document.querySelectorAll('#stage rect')[1]"
    sides = [tab.run(f"{box}.getAttribute('{name}')") for name in ("x", "y", "width", "height")]
    assert sides == ["150", "0", "50", "40"]  # cut at the border of the image
    assert tab.run("document.querySelector('#stage img[alt=\"anomaly map\"]').hidden")
    tab.press("m", "o", "2")
    assert not tab.run("document.querySelector('#stage img[alt=\"anomaly map\"]').hidden")
    assert tab.run("document.querySelectorAll('#stage .line').length") == 0
    assert HOSTILE in text(tab, "#stage .tag.here")
    tab.press("ArrowRight")
    assert text(tab, "#title").startswith(HOSTILE)
    tab.press("ArrowRight", "ArrowRight")
    assert "is not in this page" in text(tab, "#stage")
    tab.press("Escape")
    tab.wait("!viewer.open")
    tab.wait("document.activeElement.dataset.row === '4'", 10)  # "close" comes after the closing
    assert text(tab, "#status") == "1 correction"


def test_a_corrected_region_says_what_the_model_said(tab: Browser, page: Path) -> None:
    made = synthetic(30)
    made.data["regions"]["shown"][4] = 0
    tab.open(write(page.parent, made))
    tab.set("[name=marks]", "corrected")
    assert rows(tab) == [4]
    assert text(tab, "#grid .card .kind").endswith("0 normal")
    assert text(tab, "#grid .card .before") == "model: class 1"
    tab.run("document.querySelector('#grid .card').focus()")
    tab.press("1")  # what the model says is a correction here: it takes the other one back
    assert text(tab, "#status") == "1 correction"


def test_the_colours_follow_the_scheme(page: Path, tmp_path: Path) -> None:
    colours = set()
    for dark in (False, True):
        with browser(tmp_path / f"profile{dark}", dark=dark) as other:
            other.open(page)
            colours.add(other.run("getComputedStyle(document.body).backgroundColor"))
    assert colours == {"rgb(251, 251, 250)", "rgb(20, 23, 26)"}


def test_most_and_least_typical(tab: Browser, page: Path) -> None:
    del page
    tab.click("#typical summary")
    tab.wait("document.querySelectorAll('#strips .strip').length === 3")
    shown = tab.run(
        "[...document.querySelectorAll('#strips .strip:nth-child(2) .row')]"
        ".map(r => [...r.querySelectorAll('.card')].map(c => +c.dataset.row))"
    )
    assert shown == [[1, 4, 7, 10, 13, 16], [28, 25, 22, 19]]


def test_what_storage_holds_is_not_trusted(tab: Browser, page: Path) -> None:
    stored = [
        ["r0", {"class": 9}],
        ["r1", {"class": "__proto__"}],
        ["no", {"class": 1}],
        ["r2", None],
    ]
    stored += [
        ["r3", {"name": "\u0007"}],
        ["r4", {"class": 1}],
        ["r5", {"class": 1}],
        ["r6", {"name": "a"}],
    ]
    tab.run(f"localStorage.setItem('anomalyncd:metal:{RUN}', {json.dumps(json.dumps(stored))})")
    tab.open(page)
    assert text(tab, "#status") == "2 corrections"  # r4 has that class
    tab.run(f"localStorage.setItem('anomalyncd:metal:{RUN}', '{{broken')")
    tab.open(page)
    assert text(tab, "#status") == "0 corrections"


@pytest.mark.slow
def test_five_thousand_regions(
    tab: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, synthetic(5000, per_image=2))
    seconds = tab.open(path)
    drawn = len(rows(tab))
    start = time.perf_counter()
    tab.set("[name=order]", "typicality up")
    sort = time.perf_counter() - start
    tab.run("document.querySelector('#grid .card').focus()")
    start = time.perf_counter()
    tab.press("End")
    end = time.perf_counter() - start
    tab.press("Enter")
    assert text(tab, "#title") == "part/0000.png"
    with capsys.disabled():
        size = path.stat().st_size / 1e6
        print(
            f"\n5000 regions, {size:.0f} MB: open {seconds:.1f} s, sort {sort:.2f} s, "
            f"to the end {end:.1f} s"
        )
    assert drawn < 1000
    assert len(rows(tab)) == 5000
    assert max(seconds, sort, end) < 60
    assert tab.errors == []
