"""Stage `report`: the summary over categories, the report and the review pages, self-contained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa

from pipeline.config.params import Params
from pipeline.curation.names import NAMES, names_or_numbers
from pipeline.evaluation.clustering import mean_figures
from pipeline.io.files import replacing_folder
from pipeline.io.paths import ArtifactPaths
from pipeline.io.provenance import environment
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.schemas import IMAGES, LABELS, MAP_SCORES, MASKS, MERGED
from pipeline.io.stored import read_object
from pipeline.io.tables import image_bits, read_parquet, write_json
from pipeline.progress import track
from pipeline.report.losses import loss_curves
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
        losses=loss_curves(category),
        review=link,
        names=category.names,
    )


def _confusion(category: Category) -> Confusion | None:
    labels, merged = category.labels, category.merged
    known = merged[merged["sample_id"].isin(labels.keys())]
    if len(known) == 0:
        return None
    return confusion([labels[s] for s in known["sample_id"]], known["class"].tolist())
