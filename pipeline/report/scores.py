"""How far the image scores of a category tell normal from abnormal, and where the limit lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from pipeline.io.scores import scores_of_references
from pipeline.io.stored import NONE, NUMBER, read_object
from pipeline.report.category import Category
from pipeline.report.charts import score_histogram

_SHOWN = 6
_FIELDS = {
    "score_limit": (*NUMBER, NONE),
    "score_limit_basis": (str,),
    "false_alarms": (*NUMBER, NONE),
    "separation": (*NUMBER, NONE),
    "params.predict.normal": (str,),
}


@dataclass(frozen=True)
class ScoreSection:
    """The histogram of image scores, what the limit rests on, and the images next to it."""

    note: str
    chart: Markup
    at_the_limit: list[tuple[str, float]]


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
    at_the_limit = rows if np.isfinite(limit) else []
    return ScoreSection(note, score_histogram(scores, references, limit), at_the_limit)


def _note(basis: str, false_alarms: float | None, separation: float | None) -> str:
    if basis == "references" and false_alarms is not None:
        return (
            "The limit follows from the normal references, each scored without itself: at most "
            f"{false_alarms:.1%} of good images are expected above it."
        )
    apart = "" if separation is None else f" (Ashman's D {separation:.1f})"
    if basis == "modes":
        return f"There are no references; the limit ends the lower of two modes{apart}."
    return (
        "No image is called normal by its score: there are no references, and the scores do not "
        f"fall into two modes{apart}. Add normal references for a limit with a known rate of "
        "false alarms."
    )
