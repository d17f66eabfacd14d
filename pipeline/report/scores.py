"""How far the image scores of a category tell normal from abnormal, and where the limit lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.evaluation.promise import promise_of, promise_words
from pipeline.io.scores import scores_of_reference_parts, scores_of_references
from pipeline.io.stored import NONE, NUMBER, read_object
from pipeline.report.category import Category, class_label
from pipeline.report.charts import class_histogram, score_histogram
from pipeline.report.label_numbers import label_numbers

_SHOWN = 6
_FIELDS = {
    "score_limit": (*NUMBER, NONE),
    "score_limit_basis": (str,),
    "false_alarms": (*NUMBER, NONE),
    "separation": (*NUMBER, NONE),
    "params.predict.normal": (str,),
    "params.predict.false_alarms": NUMBER,
}


@dataclass(frozen=True)
class ScoreSection:
    """The histogram of image scores, what the limit rests on, and the images next to it.

    `by_class` are histograms by discovered class and, where there are labels, by label.
    """

    note: str
    chart: Markup
    at_the_limit: list[tuple[str, float]]
    by_class: Sequence[Markup] = ()


def score_section(category: Category) -> ScoreSection:
    """Return the section on image scores.

    Raises `ArtifactError` if scores.parquet, references.parquet or classifier.json are damaged.
    """
    folder = category.artifacts.predict(category.name)
    stored = read_object(folder / "classifier.json", _FIELDS)
    scores = category.scores["image_score"].to_numpy(np.float64)
    references = scores_of_references(category.artifacts, category.name, "image_score")
    limit = -np.inf if stored["score_limit"] is None else float(stored["score_limit"])
    nearest = np.argsort(np.abs(scores - limit), kind="stable")[:_SHOWN]
    ids = category.scores["sample_id"].tolist()
    rows = [(category.paths[ids[i]], float(scores[i])) for i in nearest]
    rule = stored["params"]["predict"]["normal"]
    note = f"Scores decide nothing here: predict.normal is {rule}."
    if rule == "scores":
        note = _note(stored["score_limit_basis"], stored["false_alarms"], stored["separation"])
        asked = stored["params"]["predict"]["false_alarms"]
        parts = scores_of_reference_parts(category.artifacts, category.name)
        if stored["score_limit_basis"] == "references" and len(parts):
            note = f"{note} In numbers: {promise_words(promise_of(len(parts), asked))}."
    at_the_limit = rows if np.isfinite(limit) else []
    chart = score_histogram(scores, references, limit)
    return ScoreSection(note, chart, at_the_limit, _by_class(category, ids, scores))


def _by_class(category: Category, ids: list[str], scores: NDArray[np.float64]) -> list[Markup]:
    """Return stacked histograms of image scores, by discovered class and by label if any."""
    found = dict(zip(category.merged["sample_id"], category.merged["class"].tolist(), strict=True))
    classes = [found[sample_id] for sample_id in ids]
    names = {k: class_label(category.names, k) for k in sorted(set(classes))}
    title = f"{category.name}: image scores by "
    charts = [class_histogram(scores, classes, names, title=f"{title}discovered class")]
    known = np.array([sample_id in category.labels for sample_id in ids])
    if known.any():
        labels = [category.labels[sample_id] for sample_id in ids if sample_id in category.labels]
        numbers = label_numbers(category, labels)
        legend = {number: label for label, number in sorted(numbers.items())}
        coloured = [numbers[label] for label in labels]
        charts.append(class_histogram(scores[known], coloured, legend, title=f"{title}true label"))
    return charts


def _note(basis: str, false_alarms: float | None, separation: float | None) -> str:
    if basis == "references" and false_alarms is not None:
        return (
            "The limit follows from the normal references, each scored without itself: at most "
            f"{false_alarms:.1%} of good images are expected above it."
        )
    apart = "" if separation is None else f" (Ashman's D {separation:.1f})"
    if basis == "modes":
        return f"There are no references; the limit ends the lower of two modes{apart}."
    add = "Add normal references for a limit with a known rate of false alarms."
    if basis == "lowest":
        return (
            "There are no references, and the scores do not fall into two modes"
            f"{apart}: a share of the images, those with the lowest scores, is called normal "
            "(predict.assumed_normal), and looks decide about the other regions. "
            f"{add}"
        )
    return (
        "No image is called normal by its score: there are no references, and the scores do not "
        f"fall into two modes{apart}. {add}"
    )
