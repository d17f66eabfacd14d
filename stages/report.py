"""Stage `report`: the summary over categories, the report and the review pages, self-contained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.config.params import Params
from pipeline.curation.names import NAMES
from pipeline.evaluation.clustering import mean_figures
from pipeline.io.files import replacing_folder
from pipeline.io.inventory import images_at
from pipeline.io.paths import ArtifactPaths
from pipeline.io.provenance import environment
from pipeline.io.stored import read_object
from pipeline.io.tables import write_json
from pipeline.progress import track
from pipeline.report.category import Category, read_category
from pipeline.report.losses import loss_chart
from pipeline.report.page import (
    CategoryReport,
    ReportPage,
    ReviewLink,
    metrics_row,
    render,
    render_review,
    without_intervals,
)
from pipeline.report.parts import part_table
from pipeline.report.review import review
from pipeline.report.scores import score_section
from pipeline.report.sections import (
    attended,
    binarized,
    confusion_table,
    embeddings,
    galleries,
    times,
)
from pipeline.report.several import several

_NOT_SHOWN: dict[str, bool | set[str]] = {
    "compare": True,
    "compute": {"engine", "address", "workers"},
}
"""Parameters that change nothing on the page."""


def run(params: Params, paths: ArtifactPaths, names_path: Path = NAMES) -> None:
    """Write summary.json, report/index.html and a review page for each of dataset.categories."""
    names = params.dataset.categories
    metrics = {name: read_object(paths.evaluate(name) / "metrics.json", {}) for name in names}
    summary = mean_figures([without_intervals(row) for row in metrics.values()])
    write_json(paths.root / "summary.json", summary)
    write_json(paths.evaluate() / "summary.json", summary)
    rows = [(name, metrics_row(metrics[name])) for name in names]
    if len(names) > 1:
        rows.append(("mean", metrics_row(summary)))
    with replacing_folder(paths.report()) as folder, track("report") as progress:
        folder.mkdir()
        sections, stage_times = [], []
        for i, name in enumerate(names):
            images = images_at(params.dataset.root, name)
            category = read_category(name, images, paths, names_path)
            sections.append(_section(category, params, metrics[name], _review(category, folder)))
            stage_times.append(times(category))
            progress(i + 1, len(names))
        page = ReportPage(
            categories=sections,
            metrics=rows,
            environment=environment(),
            params=shown_params(params),
            times=[row for row in stage_times if row is not None],
        )
        (folder / "index.html").write_text(render(page), encoding="utf-8")


def shown_params(params: Params) -> str:
    """Return the parameters that the page shows, as JSON."""
    return params.model_dump_json(indent=2, by_alias=True, exclude=_NOT_SHOWN)


def _review(category: Category, folder: Path) -> ReviewLink:
    """Write the review page of a category into `folder`; return the link to it."""
    page = review(category)
    name = f"review-{category.name}.html"
    (folder / name).write_text(render_review(page), encoding="utf-8")
    return ReviewLink(quote(name), page.n_regions, page.n_corrected, page.notes)


def _section(
    category: Category, params: Params, metrics: Mapping[str, Any], link: ReviewLink
) -> CategoryReport:
    grouped = params.manifest.part is not None
    return CategoryReport(
        name=category.name,
        parts=part_table(category) if grouped else None,
        classes=galleries(category, params.report.gallery),
        attended=attended(category),
        several=several(category, metrics),
        embeddings=embeddings(category),
        binarized=binarized(category, params.mebin, params.report.examples),
        confusion=confusion_table(category),
        scores=score_section(category),
        losses=loss_chart(category.artifacts.train(category.name) / "history.csv"),
        review=link,
        names=category.names,
    )
