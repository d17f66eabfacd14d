"""Stage `compare`: all rows of a category against its labels, and the page with the table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Literal

import pandas as pd

from pipeline.comparison.descriptions import describe
from pipeline.comparison.page import comparison_page, render_comparison
from pipeline.comparison.table import Judged, judge
from pipeline.config.comparison import Compare
from pipeline.config.section import Key
from pipeline.inference.peer_rows import number_of_classes
from pipeline.io.files import replacing_folder, write_text
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.peer_files import RowRun, read_description, read_predictions
from pipeline.io.schemas import LABELS
from pipeline.io.tables import read_parquet, write_json

log = logging.getLogger("anomalyncd")


def run(
    category: str,
    options: Compare,
    normal: Annotated[list[str], Key("manifest.normal_label")],
    rule: Annotated[Literal["scores", "regions", "none"], Key("predict.normal")],
    paths: ArtifactPaths,
) -> None:
    """Write a JSON file a method, report.html and <category>.json with the metrics of all rows."""
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    if not len(labels):
        raise ArtifactError(f"{category}: there are no labels to compare methods by")
    label_of = {
        sample: "normal" if label in normal else label
        for sample, label in zip(labels["sample_id"], labels["label"], strict=True)
    }
    features = read_description(paths.features(category))
    rows: dict[str, list[Judged]] = {}
    commits = set()
    files = {name: paths.peer(category) / f"{name}.parquet" for name in options.methods}
    for name, path in {**files, "ours": paths.ours(category) / "ours.parquet"}.items():
        runs, commit = read_predictions(path)
        commits.add(commit)
        rows[name] = _judged(runs, label_of, features)
    everything = [row for group in rows.values() for row in group]
    page = comparison_page(
        category,
        everything,
        n_classes=number_of_classes(paths, category),
        commit=", ".join(sorted(str(commit) for commit in commits)),
        settings=_settings(options, rule, features),
        feature_seconds=features["seconds"],
    )
    with replacing_folder(paths.compare(category)) as folder:
        folder.mkdir()
        for name, group in rows.items():
            write_json(folder / f"{name}.json", {row.name: _as_json(row) for row in group})
        (folder / "report.html").write_text(render_comparison(page), encoding="utf-8")
    metrics = {row.name: row.means for row in everything if row.means}
    beside = paths.compare(category).parent
    write_json(beside / f"{category}.json", metrics)
    table = pd.DataFrame([{"row": name, **means} for name, means in metrics.items()])
    write_text(beside / f"{category}.csv", table.to_csv(index=False, float_format="%.4f"))


def _judged(
    runs: Sequence[RowRun], label_of: dict[str, str], features: dict[str, object]
) -> list[Judged]:
    judged = []
    for found in runs:
        about = describe(
            found.row,
            found.input,
            maps_use_normals=bool(features["references_in_maps"]),
            base_classes=int(str(features.get("base_classes", 0))),
        )
        if about is None:
            log.warning("compare: the row %r is no longer known, and is left out", found.row)
        elif found.skipped is not None or found.cost is None:
            judged.append(Judged(found.row, found.input, about, skipped=found.skipped))
        else:
            known = [i for i, sample in enumerate(found.sample_ids) if sample in label_of]
            true = [label_of[found.sample_ids[i]] for i in known]
            classes = found.classes[:, known]
            means, deviations = judge(classes, true)
            judged.append(
                Judged(
                    found.row, found.input, about, means, deviations, true,
                    classes[0].tolist(), found.cost.seconds, found.cost.host_mib,
                    found.cost.gpu_mib, found.notes,
                )
            )  # fmt: skip
    return judged


def _settings(options: Compare, rule: str, features: dict[str, object]) -> list[str]:
    base = int(str(features.get("base_classes", 0)))
    assigned = "may fall into base classes" if options.open else "fall among the new classes only"
    return [
        f"Budget {options.budget}; seeds: {options.seeds}; images {assigned}; "
        f"{base} classes in the base set; {features.get('references', 0)} normal references.",
        f"Normal class: no peer has a rule for it; rows of ours do where they say so "
        f"(predict.normal {rule}).",
        f"Features on {features.get('device')}: each row ran in a process of its own, on "
        "features computed once (features s, for its input).",
    ]


def _as_json(row: Judged) -> dict[str, object]:
    return {
        "name": row.about.name,
        "trains": row.about.trains,
        "input": row.given,
        "uses": sorted(row.about.uses),
        "means": dict(row.means),
        "deviations": None if row.deviations is None else dict(row.deviations),
        "seconds": row.seconds,
        "host_mib": row.host_mib,
        "gpu_mib": row.gpu_mib,
        "notes": dict(row.notes),
        "published": {name: list(figures) for name, figures in row.about.published.items()},
        "basis": row.about.basis,
        "skipped": row.skipped,
    }
