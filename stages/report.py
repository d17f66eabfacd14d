"""Stage `report`: the summary over categories, the report and the review pages, self-contained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from pipeline.config.params import Params
from pipeline.curation.names import NAMES, names_or_numbers
from pipeline.evaluation.clustering import mean_figures
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactPaths, damaged, missing
from pipeline.io.provenance import environment
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.schemas import IMAGES, LABELS, MAP_SCORES, MASKS, MERGED
from pipeline.io.stored import read_object
from pipeline.io.tables import image_bits, read_parquet, write_json
from pipeline.progress import track
from pipeline.report.charts import line_chart
from pipeline.report.page import (
    CategoryReport,
    Confusion,
    ReportPage,
    ReviewLink,
    confusion,
    figure_row,
    render,
    render_review,
)
from pipeline.report.review import review
from pipeline.report.sections import (
    Category,
    attended,
    binarized,
    embeddings,
    galleries,
    several,
    times,
)

_CURVES = {
    "loss_total": "total",
    "loss_rep": "contrastive",
    "loss_cls_u": "pseudo-labels",
    "loss_reg": "mean entropy",
    "loss_rep_l": "contrastive, labelled",
    "loss_cls_l": "labels",
}


def run(params: Params, paths: ArtifactPaths, names_path: Path = NAMES) -> None:
    """Write summary.json, report/index.html and a review page for each of dataset.categories."""
    names = params.dataset.categories
    metrics = {name: read_object(paths.evaluate(name) / "metrics.json", {}) for name in names}
    summary = mean_figures(list(metrics.values()))
    write_json(paths.root / "summary.json", summary)
    write_json(paths.evaluate() / "summary.json", summary)
    figures = [(name, figure_row(metrics[name])) for name in names]
    if len(names) > 1:
        figures.append(("mean", figure_row(summary)))
    with replacing_folder(paths.report()) as folder, track("report") as progress:
        folder.mkdir()
        sections, rows = [], []
        for i, name in enumerate(names):
            category = _tables(name, params, paths, names_path)
            sections.append(_section(category, params, metrics[name], _review(category, folder)))
            rows.append(times(category))
            progress(i + 1, len(names))
        page = ReportPage(
            categories=sections,
            figures=figures,
            environment=environment(),
            params=params.model_dump_json(indent=2, by_alias=True),
            times=[row for row in rows if row is not None],
        )
        (folder / "index.html").write_text(render(page), encoding="utf-8")


def _review(category: Category, folder: Path) -> ReviewLink:
    """Write the review page of a category into `folder`; return the way to it."""
    page = review(category)
    name = f"review-{category.name}.html"
    (folder / name).write_text(render_review(page), encoding="utf-8")
    return ReviewLink(quote(name), page.n_regions, page.n_corrected, page.notes)


def _tables(name: str, params: Params, artifacts: ArtifactPaths, names_path: Path) -> Category:
    """Read the tables of a category; regions of other crops are an `ArtifactError`."""
    manifest = artifacts.manifest(name)
    regions, crops = read_regions_and_crops(artifacts, name)
    names, notes = names_or_numbers(names_path, name, artifacts)
    images = read_parquet(manifest / "images.parquet", IMAGES)
    return Category(
        name=name,
        artifacts=artifacts,
        folder=Path(params.dataset.root) / name,
        paths=_by_sample(manifest / "images.parquet", IMAGES, "path"),
        labels=_by_sample(manifest / "labels.parquet", LABELS, "label"),
        masks=_by_sample(manifest / "masks.parquet", MASKS, "mask_path"),
        merged=read_parquet(artifacts.merge(name) / "images.parquet", MERGED),
        regions=regions,
        crops=crops,
        scores=read_parquet(artifacts.maps(name) / "scores.parquet", MAP_SCORES),
        sizes=images.set_index("sample_id")[["height", "width"]],
        names=names,
        notes=notes,
        bits=image_bits(manifest),
    )


def _by_sample(path: Path, schema: pa.Schema, column: str) -> dict[str, str]:
    frame = read_parquet(path, schema)
    return dict(zip(frame["sample_id"].tolist(), frame[column].tolist(), strict=True))


def _section(
    category: Category, params: Params, metrics: Mapping[str, float | None], link: ReviewLink
) -> CategoryReport:
    return CategoryReport(
        name=category.name,
        classes=galleries(category, params.report.gallery),
        attended=attended(category),
        several=several(category, metrics),
        embeddings=embeddings(category),
        binarized=binarized(category, params.mebin, params.report.examples),
        confusion=_confusion(category),
        losses=_losses(category),
        review=link,
        names=category.names,
    )


def _confusion(category: Category) -> Confusion | None:
    labels, merged = category.labels, category.merged
    known = merged[merged["sample_id"].isin(labels.keys())]
    if len(known) == 0:
        return None
    return confusion([labels[s] for s in known["sample_id"]], known["class"].tolist())


def _losses(category: Category) -> Markup:
    history = _history(category.artifacts.train(category.name) / "history.csv")
    curves = {
        label: history[column].tolist()
        for column, label in _CURVES.items()
        if (history[column] != 0).any()
    }
    return line_chart(curves)


def _history(path: Path) -> pd.DataFrame:
    """Read the losses (epochs, curves) of a training."""
    if not path.exists():
        raise missing(path)
    try:
        history = pd.read_csv(path)
    except (ValueError, OSError) as error:  # also what pandas calls an empty or broken file
        raise damaged(path, f"not a readable CSV file ({error})") from error
    lacking = [column for column in _CURVES if column not in history]
    if lacking or len(history) == 0:
        raise damaged(path, f"lacks the columns {lacking}" if lacking else "has no rows")
    for column in _CURVES:
        if not pd.api.types.is_numeric_dtype(history[column]):
            raise damaged(path, f"the column {column!r} holds text")
    return history
