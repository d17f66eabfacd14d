"""The page and the table of `anomalyncd drift`."""

from __future__ import annotations

import jinja2
import numpy as np
from markupsafe import Markup

from pipeline.monitoring.drift import Drift
from pipeline.report.charts import score_histogram


def render_drift(drift: Drift) -> str:
    """Return the HTML of the page: self-contained, without scripts, everything escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.monitoring", "templates"),
        autoescape=True,
        trim_blocks=True,
    )
    environment.filters["number"] = number
    chart = Markup("")
    if len(drift.scores):
        chart = score_histogram(drift.scores, drift.references, drift.limit)
    tallest = max((row.new for row in drift.classes), default=0)
    template = environment.get_template("drift.html.j2")
    return template.render(drift=drift, chart=chart, tallest=max(tallest, 1))


def drift_lines(drift: Drift) -> list[str]:
    """Return the same as lines for a terminal."""
    lines = [
        f"{drift.category}: {drift.n_images} new images, {drift.first} to {drift.last}",
        f"{'':<46}{'run':>9}{'new':>9}{'KS':>7}{'PSI':>7}",
    ]
    lines += [
        f"{name:<46}{number(s.median_run):>9}{number(s.median_new):>9}{number(s.distance):>7}"
        f"{number(s.psi):>7}  {s.words}"
        for name, s in drift.shifts.items()
    ]
    for share in drift.shares:
        low, high = share.interval
        run = "" if share.run is None else f"{share.run:.1%}"
        value = "" if np.isnan(share.value) else f"{share.value:.1%}"
        known = f"  {share.count} of {share.total}, {low:.1%} to {high:.1%}" if share.total else ""
        lines.append(f"{share.name:<46}{run:>9}{value:>9}{known}")
    lines += [f"{row.name:<46}{row.run:>9}{row.new:>9}  images" for row in drift.classes]
    return [*lines, *drift.notes]


def number(value: float) -> str:
    """Return three digits; a dash for what is not known.

    >>> number(0.12345), number(float("nan"))
    ('0.123', '-')
    """
    return f"{value:.3g}" if np.isfinite(value) else "-"
