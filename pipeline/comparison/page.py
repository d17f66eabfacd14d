"""The page of the comparison: a sortable table with cost, notes, and confusion tables."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

import jinja2
from markupsafe import Markup

from pipeline.comparison.table import METRICS, Judged, ranked, within_a_deviation
from pipeline.report.page import Confusion, confusion


@dataclass(frozen=True)
class Column:
    """A heading, and whether its cells are numbers."""

    name: str
    number: bool = True


COLUMNS = (
    Column("row", number=False),
    Column("trains", number=False),
    Column("input", number=False),
    Column("uses", number=False),
    *(Column(name.upper()) for name in METRICS),
    Column("features s"),
    Column("method s"),
    Column("host MB"),
    Column("GPU MB"),
    Column("published, other settings", number=False),
    Column("basis", number=False),
)


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it is sorted by, and a deviation."""

    text: str
    value: str
    deviation: str = ""
    words: bool = False
    small: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the table; `note` is the number of its footnote, 0 without one."""

    name: str
    own: bool
    note: int
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Page:
    """The content of the page."""

    category: str
    n_images: int
    n_classes: int
    commit: str | None
    settings: Sequence[str]
    rows: Sequence[Row]
    skipped: Sequence[tuple[str, str]]
    findings: Sequence[str]
    notes: Sequence[str]
    confusions: Sequence[tuple[str, Confusion]]
    columns: Sequence[Column] = COLUMNS


def comparison_page(
    category: str,
    rows: Sequence[Judged],
    *,
    n_classes: int,
    commit: str | None,
    settings: Sequence[str],
    feature_seconds: Mapping[str, float],
) -> Page:
    """Return the content of the page; rows by falling NMI, skipped ones in a list of their own."""
    judged = [row for row in ranked(rows) if row.skipped is None]
    notes = list(dict.fromkeys(note for row in judged if (note := _note(row))))
    return Page(
        category=category,
        n_images=len(judged[0].labels) if judged else 0,
        n_classes=n_classes,
        commit=commit,
        settings=settings,
        rows=[
            Row(
                row.about.name,
                row.about.own,
                notes.index(note) + 1 if (note := _note(row)) else 0,
                _cells(row, feature_seconds),
            )
            for row in judged
        ],
        skipped=[(row.about.name, row.skipped) for row in rows if row.skipped is not None],
        findings=within_a_deviation(judged),
        notes=notes,
        confusions=[(row.about.name, confusion(row.labels, row.classes)) for row in judged],
    )


def _note(row: Judged) -> str:
    """Return the footnote of a row, with the numbers that its method gave."""
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in row.notes.items())
    return " ".join(part for part in (row.about.footnote, numbers and f"{numbers}.") if part)


def _cells(row: Judged, feature_seconds: Mapping[str, float]) -> list[Cell]:
    about = row.about
    metrics = [
        Cell(
            _three(row.means[name]),
            f"{row.means[name]:.6f}",
            "" if row.deviations is None else _three(row.deviations[name]),
        )
        for name in METRICS
    ]
    published = "; ".join(
        f"{data} {'/'.join(map(_three, figures))}" for data, figures in about.published.items()
    )
    return [
        _words(about.trains),
        _words(row.given),
        _words("".join(sorted(about.uses)) or "-"),
        *metrics,
        _number(feature_seconds.get(row.given), 1),
        _number(row.seconds, 2),
        _number(row.host_mib, 0),
        _number(row.gpu_mib, 0),
        Cell(published or "-", published or "-", words=True, small=True),
        _words(about.basis),
    ]


def _words(text: str) -> Cell:
    return Cell(text, text, words=True)


def _number(value: float | None, digits: int) -> Cell:
    return Cell("-", "") if value is None else Cell(f"{value:.{digits}f}", f"{value:.6f}")


def _three(value: float) -> str:
    """Return .123 for 0.123, as the tables of the papers do."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text.replace("-0.", "-.")


def render_comparison(page: Page) -> str:
    """Return the HTML of the page: self-contained, everything read from disk escaped.

    Its content security policy allows no request and no script but compare.js.
    """
    script = (files("pipeline.comparison") / "templates" / "compare.js").read_text("utf-8")
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.comparison", "templates"),
        autoescape=True,
        trim_blocks=True,
    )
    template = environment.get_template("compare.html.j2")
    return template.render(page=page, script=Markup(script), script_hash=Markup(digest))
