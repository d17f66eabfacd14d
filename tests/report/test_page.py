"""The HTML page: what it says, that it escapes, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from urllib.parse import quote

import numpy as np
import pytest

from pipeline.curation.names import ClassNames
from pipeline.evaluation.clustering import mean_figures
from pipeline.report.charts import line_chart
from pipeline.report.page import (
    METRICS,
    CategoryReport,
    ClassGallery,
    ClassPictures,
    Panel,
    PanelRow,
    PanelTable,
    ReportPage,
    ReviewLink,
    ReviewPage,
    Scatters,
    SeveralClasses,
    Thumbnail,
    confusion,
    metrics_row,
    render,
    render_review,
)
from pipeline.report.pictures import data_uri
from pipeline.report.scores import ScoreSection
from pipeline.report.timing import TimeRow

IMAGE = np.full((64, 96, 3), 120, np.uint8)


TIMES = TimeRow("metal", 3, ("1.5", None, None, None, "0.4"), (None, "7.0"), "<i>a machine</i>")


def page(name: str = "metal", caption: str = "a.png", labels: bool = True) -> str:
    thumbnail = Thumbnail(data_uri(IMAGE), caption, "0.91")
    table = confusion(["good", "crack", "crack"], [0, 1, 1]) if labels else None
    section = CategoryReport(
        name=name,
        classes=[ClassGallery(0, 3, 2, [thumbnail])],
        attended=[ClassPictures(1, [thumbnail])],
        several=SeveralClasses(f"a note on {caption}", [thumbnail]),
        embeddings=Scatters(f"a note on {caption}", [line_chart({"x": [1.0]})]),
        binarized=PanelTable(
            ["image", "Otsu"], [PanelRow(caption, "0.7", [Panel(thumbnail.uri, "image", caption)])]
        ),
        confusion=table,
        scores=ScoreSection(f"a note on {caption}", line_chart({"s": [1.0]}), [(caption, 0.5)]),
        losses=line_chart({"total": [2.0, 1.0]}),
        review=ReviewLink(quote(f"review-{name}.html"), 3, 1, [f"a note on {caption}"]),
        names=ClassNames({1: caption}),
    )
    row = metrics_row({"nmi": 0.5, "n_query": 3})
    return render(
        ReportPage([section], [(name, row)], {"packages": {}, "commit": "abc"}, "{}", [TIMES])
    )


def test_the_page_is_self_contained() -> None:
    html = page()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources
    own = ("data:", "#", "review-metal.html")
    assert all(source.startswith(own) for source in sources)
    assert not re.search(r"https?:", re.sub(r"data:[^\"]*", "", html))


def test_names_from_disk_are_escaped() -> None:
    html = page(name="<script>x</script>", caption='"><img src=y>')
    assert "<script>" not in html
    assert "<img src=y>" not in html
    assert "&lt;script&gt;" in html


def test_figures_that_are_missing_are_dashes_not_zeros() -> None:
    html = page()
    assert "<td>0.500</td>" in html
    assert html.count("no labels or masks") == len(METRICS) - 2


def test_times_that_are_not_known_are_dashes() -> None:
    html = page()
    row = html[html.index("ms an image") :]
    row = row[row.index("<tbody>") : row.index("</tbody>")].split("</tr>")[0]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    dash = '<span title="no record">\u2013</span>'
    assert cells == ["1.5", dash, dash, dash, "0.4", dash, "7.0", "3", cells[-1]]
    assert "<i>" not in cells[-1]


def test_without_labels_there_is_no_confusion_table() -> None:
    assert "True labels" in page()
    html = page(labels=False)
    assert "True labels" not in html
    assert "There are no labels" in html


def test_confusion_marks_the_matching() -> None:
    table = confusion(["a", "a", "b", "b", "b"], [1, 1, 0, 0, 1])
    assert table.clusters == [0, 1]
    assert table.rows == [("a", [(0, False), (2, True)]), ("b", [(2, True), (1, False)])]


def test_summary_is_the_mean_and_null_where_a_product_has_none() -> None:
    summary = mean_figures([{"nmi": 0.5, "aupro": None}, {"nmi": 1.0, "aupro": 0.5}])
    assert summary == {"nmi": 0.75, "aupro": None}
    assert mean_figures([]) == {}


def test_metrics_row_formats_counts_as_counts() -> None:
    row = dict(zip(METRICS, metrics_row({"n_query": 100.0, "f1": 0.81239}), strict=True))
    assert row["n_query"] == "100"
    assert row["f1"] == "0.812"
    assert row["nmi"] is None
    with pytest.raises(KeyError):
        _ = row["unknown"]


def review_page(text: str = "a.png") -> str:
    """A review page on which everything that comes from disk is `text`."""
    uri = data_uri(IMAGE)
    data = {"category": text, "classes": [{"number": 0, "name": text}], "images": {"path": [text]}}
    return render_review(
        ReviewPage(
            text, "0d3f5a1b2c4e", 1, 1, 2, 3, 1, [text], data, [uri], [(uri, uri, text), None]
        )
    )


def test_the_review_page_is_self_contained_and_may_run_nothing_else() -> None:
    html = review_page()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)[0]
    assert policy.startswith("default-src 'none'; img-src data:;")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert len(digests) == 2
    assert policy.endswith("script-src " + " ".join(f"'sha256-{d}'" for d in digests))
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["index.html"]
    assert set(re.findall(r"https?://[^\"\s]*", html)) == {
        "http://www.w3.org/2000/svg"
    }  # a namespace


@pytest.mark.parametrize(
    "text",
    ["</script><script>x</script>", '"><img src=y onerror=x>', "<!--<script>", "a&amp;'\u2028"],
)
def test_what_comes_from_disk_is_escaped_in_the_review_page(text: str) -> None:
    html = review_page(text)
    plain = review_page()
    for tag in ("<script", "</script>", "<img", "<!--"):
        assert html.count(tag) == plain.count(tag)
    blocks = re.findall(r'<script type="application/json" id="(\w+)">(.*?)</script>', html, re.S)
    content = {name: json.loads(block) for name, block in blocks}
    assert content["data"]["images"]["path"] == [text]
    assert content["pictures"][0][2] == text


def test_the_review_page_says_what_is_not_in_it() -> None:
    html = review_page()
    assert "pictures of 1 of 2 images" in html
    assert "(1 of 3 have none)" in html
    assert "1 correction applied" in html
