"""The HTML page: what it says, that it escapes, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest

from pipeline.metrics import mean_figures
from pipeline.reporting import (
    FIGURES,
    CategoryReport,
    ClassGallery,
    ReportPage,
    Thumbnail,
    confusion,
    crop_thumbnail,
    data_uri,
    figure_row,
    line_chart,
    outlined,
    panels,
    render,
)

IMAGE = np.full((64, 96, 3), 120, np.uint8)


def decoded(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def page(name: str = "metal", caption: str = "a.png", labels: bool = True) -> str:
    thumbnail = Thumbnail(data_uri(IMAGE), caption, "0.91")
    table = confusion(["good", "crack", "crack"], [0, 1, 1]) if labels else None
    section = CategoryReport(
        name=name,
        classes=[ClassGallery(0, 3, 2, [thumbnail])],
        examples=[thumbnail],
        confusion=table,
        losses=line_chart({"total": [2.0, 1.0]}),
    )
    row = figure_row({"nmi": 0.5, "n_query": 3})
    return render(ReportPage([section], [(name, row)], {"packages": {}, "commit": "abc"}, "{}"))


def test_the_page_is_self_contained() -> None:
    html = page()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "http" not in re.sub(r"data:[^\"]*", "", html)


def test_names_from_disk_are_escaped() -> None:
    html = page(name="<script>x</script>", caption='"><img src=y>')
    assert "<script>" not in html
    assert "<img src=y>" not in html
    assert "&lt;script&gt;" in html


def test_figures_that_are_missing_are_dashes_not_zeros() -> None:
    html = page()
    assert "<td>0.500</td>" in html
    assert html.count("no labels or masks") == len(FIGURES) - 2


def test_without_labels_there_is_no_confusion_table() -> None:
    assert "True labels" in page()
    html = page(labels=False)
    assert "True labels" not in html
    assert "There are no labels" in html


def test_confusion_marks_the_matching() -> None:
    table = confusion(["a", "a", "b", "b", "b"], [1, 1, 0, 0, 1])
    assert table.clusters == [0, 1]
    assert table.rows == [("a", [(0, False), (2, True)]), ("b", [(2, True), (1, False)])]


def test_outline_is_drawn_around_the_mask_alone() -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[20:30, 40:60] = 1
    drawn = outlined(IMAGE, mask)
    changed = (drawn != IMAGE).any(-1)
    assert changed[20, 40:60].all()
    assert not changed[22:28, 42:58].any()
    assert not changed[:19].any()
    assert not (outlined(IMAGE, np.zeros_like(mask)) != IMAGE).any()


def test_pictures_have_the_size_they_should() -> None:
    assert decoded(crop_thumbnail(IMAGE, np.zeros((64, 96), np.uint8))).shape == (112, 112, 3)
    wide = panels(IMAGE, np.zeros((32, 32), np.float32), np.zeros((32, 32), np.bool_))
    assert decoded(wide).shape == (160, 3 * 240, 3)


def test_chart_scales_to_its_values() -> None:
    svg = str(line_chart({"a<b": [3.0, 1.0, 2.0], "flat": [1.0, 1.0, 1.0]}))
    assert "a&lt;b" in svg
    first = re.findall(r'points="([^"]*)"', svg)[0].split()
    heights = [float(p.split(",")[1]) for p in first]
    assert heights[0] < heights[2] < heights[1]
    assert "<svg" in str(line_chart({"constant": [1.0]}))


def test_summary_is_the_mean_and_null_where_a_product_has_none() -> None:
    summary = mean_figures([{"nmi": 0.5, "aupro": None}, {"nmi": 1.0, "aupro": 0.5}])
    assert summary == {"nmi": 0.75, "aupro": None}
    assert mean_figures([]) == {}


def test_figure_row_formats_counts_as_counts() -> None:
    row = dict(zip(FIGURES, figure_row({"n_query": 100.0, "f1": 0.81239}), strict=True))
    assert row["n_query"] == "100"
    assert row["f1"] == "0.812"
    assert row["nmi"] is None
    with pytest.raises(KeyError):
        _ = row["unknown"]
