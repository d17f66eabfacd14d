"""Stage `report`: the summary over categories and one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.artifacts import (
    CROPS,
    IMAGES,
    LABELS,
    MAP_SCORES,
    MERGED,
    REGIONS,
    ArtifactError,
    Layout,
    open_arrays,
    read_json,
    read_parquet,
    replacing,
    write_json,
)
from pipeline.config import Params
from pipeline.images import ImageError, read_image
from pipeline.metrics import mean_figures
from pipeline.progress import track
from pipeline.provenance import environment
from pipeline.reporting import (
    CategoryReport,
    ClassGallery,
    ReportPage,
    Thumbnail,
    confusion,
    crop_thumbnail,
    figure_row,
    line_chart,
    panels,
    render,
)

_CURVES = {
    "loss_total": "total",
    "loss_rep": "contrastive",
    "loss_cls_u": "pseudo-labels",
    "loss_reg": "mean entropy",
    "loss_rep_l": "contrastive, labelled",
    "loss_cls_l": "labels",
}


def run(params: Params, layout: Layout) -> None:
    """Write summary.json and report/index.html over dataset.categories."""
    names = params.dataset.categories
    metrics = {name: read_json(layout.evaluate(name) / "metrics.json") for name in names}
    summary = mean_figures(list(metrics.values()))
    write_json(layout.root / "summary.json", summary)
    write_json(layout.evaluate() / "summary.json", summary)
    with track("report") as progress:
        sections = []
        for i, name in enumerate(names):
            sections.append(_category(name, params, layout))
            progress(i + 1, len(names))
    figures = [(name, figure_row(metrics[name])) for name in names]
    if len(names) > 1:
        figures.append(("mean", figure_row(summary)))
    page = ReportPage(
        categories=sections,
        figures=figures,
        environment=environment(),
        params=params.model_dump_json(indent=2, by_alias=True),
    )
    with replacing(layout.report() / "index.html") as temporary:
        temporary.write_text(render(page), encoding="utf-8")


def _category(name: str, params: Params, layout: Layout) -> CategoryReport:
    merged = read_parquet(layout.merge(name) / "images.parquet", MERGED)
    images = read_parquet(layout.manifest(name) / "images.parquet", IMAGES)
    labels = read_parquet(layout.manifest(name) / "labels.parquet", LABELS)
    label_of = dict(zip(labels["sample_id"].tolist(), labels["label"].tolist(), strict=True))
    path_of = dict(zip(images["sample_id"].tolist(), images["path"].tolist(), strict=True))
    known = merged[merged["sample_id"].isin(label_of.keys())]
    table = None
    if len(known):
        table = confusion([label_of[s] for s in known["sample_id"]], known["class"].tolist())
    history = pd.read_csv(layout.train(name) / "history.csv")
    curves = {
        label: history[column].tolist()
        for column, label in _CURVES.items()
        if (history[column] != 0).any()
    }
    return CategoryReport(
        name=name,
        classes=_galleries(name, merged, path_of, params, layout),
        examples=_examples(name, path_of, params, layout),
        confusion=table,
        losses=line_chart(curves),
    )


def _galleries(
    name: str, merged: pd.DataFrame, path_of: dict[str, str], params: Params, layout: Layout
) -> list[ClassGallery]:
    regions = read_parquet(layout.predict(name) / "regions.parquet", REGIONS)
    crops = read_parquet(layout.crops(name) / "crops.parquet", CROPS)
    if crops["crop_id"].tolist() != regions["crop_id"].tolist():
        raise ArtifactError(f"{layout.predict(name)}: made from other crops; run `predict` again")
    group = open_arrays(layout.crops(name) / "crops.zarr")
    galleries = []
    for number in sorted({*regions["class"].tolist(), *merged["class"].tolist()}):
        members = regions[regions["class"] == number]
        shown = members.sort_values("confidence", ascending=False, kind="stable")
        thumbnails = [
            Thumbnail(
                uri=crop_thumbnail(np.asarray(group["images"][i]), np.asarray(group["masks"][i])),
                caption=path_of[str(row["sample_id"])],
                confidence=f"{row['confidence']:.2f}",
            )
            for i, row in zip(
                shown.index[: params.report.gallery].tolist(),
                shown.head(params.report.gallery).to_dict("records"),
                strict=True,
            )
        ]
        n_images = int((merged["class"] == number).sum())
        galleries.append(ClassGallery(int(number), len(members), n_images, thumbnails))
    return galleries


def _examples(
    name: str, path_of: dict[str, str], params: Params, layout: Layout
) -> list[Thumbnail]:
    """Show images evenly spread over the range of scores."""
    scores = read_parquet(layout.maps(name) / "scores.parquet", MAP_SCORES)
    n = min(params.report.examples, len(scores))
    if n == 0:
        return []
    order = scores["score"].to_numpy().argsort(kind="stable")[::-1]
    chosen = order[np.linspace(0, len(order) - 1, n).round().astype(int)]
    maps = open_arrays(layout.maps(name) / "maps.zarr")["maps"]
    masks = open_arrays(layout.mebin(name) / "masks.zarr")["masks"]
    root = Path(params.dataset.root) / name
    thumbnails = []
    for i in chosen.tolist():
        path = path_of[str(scores["sample_id"][i])]
        try:
            image = read_image(root / path)
        except ImageError:
            continue
        uri = panels(image, np.asarray(maps[i]), np.asarray(masks[i], np.bool_))
        thumbnails.append(Thumbnail(uri, f"{path}, score {scores['score'][i]:.2f}"))
    return thumbnails
