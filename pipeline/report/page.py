"""The HTML pages: their content, and their rendering as self-contained files."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.curation.names import ClassNames
from pipeline.evaluation.clustering import contingency, match_clusters
from pipeline.report.category import class_label
from pipeline.report.scores import ScoreSection
from pipeline.report.timing import TimeRow

METRICS = {
    "nmi": "NMI",
    "ari": "ARI",
    "f1": "F1",
    "image_auroc": "image AUROC",
    "aupro": "AUPRO",
    "normal_precision": "normal precision",
    "normal_recall": "normal recall",
    "region_fpr": "region FPR",
    "region_fnr": "region FNR",
    "n_query": "images",
    "n_regions": "regions",
}


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, with its caption, and lines of details."""

    uri: str
    caption: str
    note: str = ""
    details: Sequence[str] = ()


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of one class."""

    number: int
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True)
class ClassGallery:
    """One discovered class."""

    number: int
    n_regions: int
    n_images: int
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True)
class Panel:
    """One picture of a row with a short note below it."""

    uri: str
    alt: str
    note: str = ""


@dataclass(frozen=True)
class PanelRow:
    """One image: its file name, its score and its pictures, one a column."""

    caption: str
    score: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class PanelTable:
    """Images under column heads."""

    columns: Sequence[str]
    rows: Sequence[PanelRow]


@dataclass(frozen=True)
class Scatters:
    """Scatter plots (SVG) with a note; none if there is too little to show."""

    note: str
    charts: Sequence[Markup] = ()


@dataclass(frozen=True)
class SeveralClasses:
    """Images whose regions have two or more defect classes: a note, and some of them."""

    note: str
    thumbnails: Sequence[Thumbnail] = ()


@dataclass(frozen=True)
class Confusion:
    """True labels (rows) against discovered classes; cells are (count, matched)."""

    clusters: Sequence[int]
    rows: Sequence[tuple[str, Sequence[tuple[int, bool]]]]


@dataclass(frozen=True)
class ReviewPage:
    """The review page of a category.

    `data` are columns over regions, classes and images (`pipeline.report.review`); `pictures` of
    the images are (image, map, outline) or None.
    """

    category: str
    run: str
    n_regions: int
    n_corrected: int
    n_images: int
    n_queries: int
    n_pictures: int
    notes: Sequence[str]
    data: Mapping[str, Any]
    thumbnails: Sequence[str]
    pictures: Sequence[tuple[str, str, str] | None]


@dataclass(frozen=True)
class ReviewLink:
    """A link from the report to a review page."""

    href: str
    n_regions: int
    n_corrected: int
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class PartTable:
    """The verdicts on parts; rows are part, class, confidence, defective images and images."""

    note: str
    rows: Sequence[tuple[str, int, str, int, int]]


@dataclass(frozen=True)
class CategoryReport:
    """The section of one category.

    `losses` is SVG, None where nothing was trained; `parts` is None without `manifest.part`.
    """

    name: str
    classes: Sequence[ClassGallery]
    attended: Sequence[ClassPictures]
    several: SeveralClasses
    embeddings: Scatters
    binarized: PanelTable
    confusion: Confusion | None
    scores: ScoreSection
    losses: Markup | None
    review: ReviewLink
    names: ClassNames = field(default_factory=ClassNames)
    parts: PartTable | None = None


@dataclass(frozen=True)
class ReportPage:
    """The content of the report."""

    categories: Sequence[CategoryReport]
    metrics: Sequence[tuple[str, Sequence[str | None]]]
    environment: Mapping[str, Any]
    params: str
    times: Sequence[TimeRow] = ()
    metric_names: Sequence[str] = tuple(METRICS.values())


def render(page: ReportPage) -> str:
    """Return the HTML of the report; everything read from disk is escaped."""
    return _environment().get_template("report.html.j2").render(report=page)


def render_review(page: ReviewPage) -> str:
    """Return the HTML of a review page; everything read from disk is escaped, in JSON too.

    Its content security policy allows no request and no script but review.js and tree.js.
    """
    scripts, style = [_inlined("review.js"), _inlined("tree.js")], _inlined("review.css")
    hashes = [base64.b64encode(sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = Markup(" ".join(f"'sha256-{digest}'" for digest in hashes))
    return (
        _environment()
        .get_template("review.html.j2")
        .render(page=page, scripts=scripts, style=style, allowed=allowed)
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "templates"),
        autoescape=True,
        trim_blocks=True,
    )
    environment.filters["embedded"] = _embedded
    environment.globals["class_label"] = class_label
    return environment


def _embedded(content: object) -> Markup:
    """Return JSON for a script element, with <, > and & escaped."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def _inlined(name: str) -> Markup:
    """Return a template file that is included unchanged."""
    return Markup((files("pipeline.report") / "templates" / name).read_text(encoding="utf-8"))


def without_intervals(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the metrics alone: the mean of intervals is the interval of nothing."""
    return {name: value for name, value in metrics.items() if name != "intervals"}


def metrics_row(metrics: Mapping[str, Any]) -> list[str | None]:
    """Format the metrics of one category in the order of `METRICS`, with their intervals.

    None stays None.
    """
    row: list[str | None] = []
    for name in METRICS:
        value, ends = metrics.get(name), metrics.get("intervals", {}).get(name)
        if value is None:
            row.append(None)
        elif name.startswith("n_"):
            row.append(f"{value:.0f}")
        else:
            shown = f" [{ends['low']:.3f}, {ends['high']:.3f}]" if ends else ""
            row.append(f"{value:.3f}{shown}")
    return row


def confusion(true: Sequence[str], predicted: Sequence[int]) -> Confusion:
    """Count labels against classes and mark the matched cells."""
    table = contingency(true, predicted)
    matched = match_clusters(true, predicted)
    clusters = [int(k) for k in table.clusters]
    rows = [
        (
            str(label),
            [
                (int(n), matched.get(k) == label)
                for k, n in zip(clusters, table.counts[i], strict=True)
            ],
        )
        for i, label in enumerate(table.classes.tolist())
    ]
    return Confusion(clusters, rows)
