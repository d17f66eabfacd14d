"""Results of new images (`classify --watch`) beside the run that classified them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.curation.names import ClassNames
from pipeline.evaluation.drift import Shift, share_interval, shift_of
from pipeline.evaluation.promise import promise_of, promise_words
from pipeline.io.images import ImageError, read_image
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES, MAP_SCORES, MERGED
from pipeline.io.scores import scores_of_reference_parts, scores_of_references
from pipeline.io.stored import NONE, NUMBER, read_object
from pipeline.io.tables import image_bits, read_parquet

_LOOKED_AT = 100
"""Images of the run at most that are read for their brightness."""
_DAYS = 14
"""Days that the tables by day show, the last ones."""
_OTHER = {-1: "unknown", -2: "unreadable"}
_FIELDS = {
    "score_limit": (*NUMBER, NONE),
    "score_limit_basis": (str,),
    "params.predict.normal": (str,),
    "params.predict.false_alarms": NUMBER,
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """How many images are something: in the run (None: not known there), and of the new ones."""

    name: str
    run: float | None
    count: int
    total: int

    @property
    def value(self) -> float:
        """Return the share of the new images, NaN of none."""
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Return the ends of its 95 % interval."""
        return share_interval(self.count, self.total)


@dataclass(frozen=True)
class ClassRow:
    """A class of images that were stopped: how many of the run, of the new ones, and by day."""

    number: int
    name: str
    run: int
    new: int
    by_day: Sequence[int]


@dataclass(frozen=True)
class Drift:
    """New images beside the run.

    `scores`, `references` and `limit` are for a picture: image scores of the new images, of normal
    references (or, without any, of the run's images called good), and the limit.
    """

    category: str
    results: str
    first: str
    last: str
    n_images: int
    shifts: Mapping[str, Shift]
    shares: Sequence[Share]
    days: Sequence[str]
    classes: Sequence[ClassRow]
    notes: Sequence[str] = ()
    scores: Floats = field(default_factory=lambda: np.zeros(0))
    references: Floats = field(default_factory=lambda: np.zeros(0))
    limit: float = -np.inf

    def moved(self, distance: float) -> list[str]:
        """Return what differs by `distance` or more, and not by chance."""
        return [k for k, s in self.shifts.items() if s.is_sure and s.distance >= distance]

    def to_json(self) -> dict[str, Any]:
        """Return all but the scores, as JSON; what cannot be known is null."""
        return {
            "anomalyncd": "drift",
            "category": self.category,
            "results": self.results,
            "first": self.first,
            "last": self.last,
            "n_images": self.n_images,
            "shifts": {
                name: {k: _known(v) for k, v in asdict(s).items()} | {"verdict": s.words}
                for name, s in self.shifts.items()
            },
            "shares": [
                {
                    "name": s.name,
                    "run": s.run,
                    "new": _known(s.value),
                    "count": s.count,
                    "total": s.total,
                    "interval": list(s.interval),
                }
                for s in self.shares
            ],
            "days": list(self.days),
            "classes": [asdict(row) for row in self.classes],
            "notes": list(self.notes),
        }


def drift_of(
    category: str,
    results: pd.DataFrame,
    paths: ArtifactPaths,
    names: ClassNames,
    *,
    images: Path,
    shown: str,
) -> Drift:
    """Compare results with the run.

    Parameters
    ----------
    results
        A row an image, one at least (`pipeline.io.results.read_results`).
    images
        The folder of the run's images, for their brightness; it may be gone.
    shown
        What the results are called.

    Raises
    ------
    ArtifactError
        An artifact of the run is missing or damaged.
    """
    stored = read_object(paths.predict(category) / "classifier.json", _FIELDS)
    limit = -np.inf if stored["score_limit"] is None else float(stored["score_limit"])
    scores = read_parquet(paths.maps(category) / "scores.parquet", MAP_SCORES)
    merged = read_parquet(paths.merge(category) / "images.parquet", MERGED)
    run = merged.merge(scores, on="sample_id", validate="one_to_one")
    references = scores_of_references(paths, category, "image_score")
    by_references = len(references) > 0
    baseline = references if by_references else run.loc[run["class"] == 0, "image_score"].to_numpy()
    good = results[results["verdict"] == "good"]
    stopped = results[results["verdict"].isin(["defect", "unknown"])]
    defects = run[run["class"] != 0]
    what = "references" if by_references else "the run's good images"
    brightness, notes = _brightness(category, paths, images)
    shifts = {
        f"score of good images, beside {what}": shift_of(
            _up_to(baseline, limit), _up_to(good["image_score"].to_numpy(np.float64), limit)
        ),
        "score of stopped images": shift_of(defects["image_score"], stopped["image_score"]),
        "confidence in the class": shift_of(
            defects["confidence"], results.loc[results["verdict"] == "defect", "confidence"]
        ),
        "brightness": shift_of(brightness, results["brightness"]),
    }
    total = len(results)
    shares = [
        Share("stopped (defect or unknown)", len(defects) / max(len(run), 1), len(stopped), total),
        Share("unknown, of those stopped", None, _count(results, "unknown"), len(stopped)),
        Share("unreadable", None, _count(results, "unreadable"), total),
    ]
    asked = stored["params"]["predict"]["false_alarms"]
    if stored["score_limit_basis"] == "references" and by_references:
        parts = scores_of_reference_parts(paths, category)
        notes = [*notes, f"By the limit, {promise_words(promise_of(len(parts), asked))}."]
    times = results["modified"]
    days, classes = _pareto(results, run, names)
    return Drift(
        category=category,
        results=shown,
        first=f"{times.min():%Y-%m-%d %H:%M} UTC",
        last=f"{times.max():%Y-%m-%d %H:%M} UTC",
        n_images=total,
        shifts=shifts,
        shares=shares,
        days=days,
        classes=classes,
        notes=notes,
        scores=_finite(results["image_score"]),
        references=np.asarray(baseline, np.float64),
        limit=limit,
    )


def _brightness(
    category: str, paths: ArtifactPaths, folder: Path
) -> tuple[Floats, tuple[str, ...] | list[str]]:
    """Return the mean grey level, 0 to 1, of at most `_LOOKED_AT` images of the run."""
    table = read_parquet(paths.manifest(category) / "images.parquet", IMAGES)
    bits = image_bits(paths.manifest(category))
    step = max(1, math.ceil(len(table) / _LOOKED_AT))
    found = []
    for path in table["path"].tolist()[::step]:
        try:
            found.append(float(read_image(folder / path, bits).mean()) / 255)
        except ImageError:
            continue
    notes = [] if found else [f"The run's images are not in {folder}: brightness is not compared."]
    return np.array(found), notes


def _pareto(
    results: pd.DataFrame, run: pd.DataFrame, names: ClassNames
) -> tuple[list[str], list[ClassRow]]:
    """Return the last days, and the classes of stopped images by falling number."""
    stopped = results[results["verdict"] != "good"]
    numbers = stopped["class"].where(stopped["verdict"] == "defect", -1)
    numbers = numbers.mask(stopped["verdict"] == "unreadable", -2).astype(int)
    day = stopped["modified"].dt.strftime("%Y-%m-%d")
    days = sorted(results["modified"].dt.strftime("%Y-%m-%d").unique())[-_DAYS:]
    before = run.loc[run["class"] != 0, "class"].value_counts()
    rows = []
    for number in sorted({*numbers.unique().tolist(), *before.index.tolist()}):
        own = numbers == number
        rows.append(
            ClassRow(
                int(number),
                _OTHER.get(int(number)) or names[int(number)],
                int(before.get(number, 0)),
                int(own.sum()),
                [int((own & (day == one)).sum()) for one in days],
            )
        )
    return days, sorted(rows, key=lambda row: (-row.new, -row.run, row.number))


def _up_to(values: Floats, limit: float) -> Floats:
    """Return the values that are normal: good images are all below the limit, references not."""
    x = np.asarray(values, np.float64)
    return x[x <= limit] if np.isfinite(limit) else x


def _count(results: pd.DataFrame, verdict: str) -> int:
    return int((results["verdict"] == verdict).sum())


def _finite(column: pd.Series) -> Floats:
    values = column.to_numpy(np.float64)
    return np.asarray(values[np.isfinite(values)])


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
