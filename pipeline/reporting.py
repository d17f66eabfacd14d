"""The HTML page: what it shows, and its rendering as one self-contained file (an edge)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.metrics import contingency, match_clusters
from pipeline.timing import TimeRow

FIGURES = {
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
    "n_regions": "sub-images",
}


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI with what is written below it."""

    uri: str
    caption: str
    note: str = ""


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
    """Scatter plots (SVG) with a sentence about them; none when there is too little to show."""

    note: str
    charts: Sequence[Markup] = ()


@dataclass(frozen=True)
class SeveralClasses:
    """Images whose regions have two or more defect classes: how many, and some of them."""

    note: str
    thumbnails: Sequence[Thumbnail] = ()


@dataclass(frozen=True)
class Confusion:
    """True labels (rows) against discovered classes; a cell is (count, whether it is matched)."""

    clusters: Sequence[int]
    rows: Sequence[tuple[str, Sequence[tuple[int, bool]]]]


@dataclass(frozen=True)
class CategoryReport:
    """The section of one category; `losses` is SVG."""

    name: str
    classes: Sequence[ClassGallery]
    attended: Sequence[ClassPictures]
    several: SeveralClasses
    embeddings: Scatters
    binarized: PanelTable
    confusion: Confusion | None
    losses: Markup


@dataclass(frozen=True)
class ReportPage:
    """All that the page shows."""

    categories: Sequence[CategoryReport]
    figures: Sequence[tuple[str, Sequence[str | None]]]
    environment: Mapping[str, Any]
    params: str
    times: Sequence[TimeRow] = ()
    figure_names: Sequence[str] = tuple(FIGURES.values())


def render(page: ReportPage) -> str:
    """Return the page; everything that comes from disk is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."), autoescape=True, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(report=page)


def figure_row(metrics: Mapping[str, float | None]) -> list[str | None]:
    """Format the figures of one category in the order of `FIGURES`; None stays None."""
    row: list[str | None] = []
    for name in FIGURES:
        value = metrics.get(name)
        if value is None:
            row.append(None)
        else:
            row.append(f"{value:.0f}" if name.startswith("n_") else f"{value:.3f}")
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
