"""Classes of images and regions against labels.

`label_of` maps sample ids to labels; rows of images without one are left out. Labels in `normal`
count as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.evaluation.clustering import clustering_scores, image_auroc, normal_precision_recall
from pipeline.evaluation.intervals import (
    Interval,
    auroc_interval,
    clustering_intervals,
    draw_parts,
)

_NORMAL = ""
"""Stands for every label that means normal; no folder has an empty name."""


NO_METRICS: dict[str, float | None] = {
    "nmi": None,
    "ari": None,
    "f1": None,
    "image_auroc": None,
    "image_score_auroc": None,
    "pixel_auroc": None,
    "aupro": None,
    "normal_precision": None,
    "normal_recall": None,
    "defect_nmi": None,
    "defect_ari": None,
    "defect_f1": None,
    "region_nmi": None,
    "region_ari": None,
    "region_f1": None,
    "n_parts": None,
    "part_nmi": None,
    "part_ari": None,
    "part_f1": None,
    "region_fpr": None,
    "region_fnr": None,
    "combined_n": None,
    "combined_multi": None,
}
"""Every metric of a category, as written where labels and masks are missing."""


@dataclass(frozen=True)
class Resampling:
    """Resamples of a set: `part_of` names the part of each image, by sample id."""

    part_of: Mapping[str, str]
    resamples: int

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {part: i for i, part in enumerate(dict.fromkeys(self.part_of.values()))}

    @cached_property
    def draws(self) -> NDArray[np.int64]:
        """How often each part is drawn, (resamples, parts)."""
        return draw_parts(len(self._columns), self.resamples)

    def columns(self, sample_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the columns of `draws` (N,) that images belong to."""
        return np.array([self._columns[self.part_of[s]] for s in sample_ids], np.int64)


def label_intervals(
    merged: pd.DataFrame,
    scores: pd.DataFrame,
    label_of: Mapping[str, str],
    normal: list[str],
    sampling: Resampling,
) -> dict[str, Interval | None]:
    """Return the intervals of the metrics of `class_metrics` and `score_metrics`, by their names.

    Precision and recall of normal images have none.
    """
    known = merged[merged["sample_id"].isin(label_of.keys())]
    true = np.array([_class_name(label_of[s], normal) for s in known["sample_id"]])
    predicted, columns = known["class"].to_numpy(), sampling.columns(known["sample_id"])
    found = clustering_intervals(true.tolist(), predicted, columns, sampling.draws)
    bad = true != _NORMAL
    if bad.any():
        defects = clustering_intervals(
            true[bad].tolist(), predicted[bad], columns[bad], sampling.draws
        )
        found |= {f"defect_{name}": ends for name, ends in defects.items()}
    known = scores[scores["sample_id"].isin(label_of.keys())]
    anomalous = [label_of[s] not in normal for s in known["sample_id"]]
    columns = sampling.columns(known["sample_id"])
    for name, column in (("image_auroc", "score"), ("image_score_auroc", "image_score")):
        found[name] = auroc_interval(anomalous, known[column], columns, sampling.draws)
    return found


def part_metrics(
    verdicts: pd.DataFrame,
    label_of: Mapping[str, str],
    part_of: Mapping[str, str],
    normal: list[str],
) -> dict[str, float | None]:
    """Return the agreement of the verdicts on parts with the labels of their images.

    A part has the most frequent label of its defective images, the first by name of equal ones; it
    is normal if all of them are. Parts without a label are left out.
    """
    labels: dict[str, list[str]] = {}
    for sample_id, label in label_of.items():
        labels.setdefault(part_of[sample_id], []).append(_class_name(label, normal))
    known = verdicts[verdicts["part"].isin(labels.keys())]
    if len(known) == 0:
        return {}
    true = [_label_of_part(labels[part]) for part in known["part"]]
    scores = clustering_scores(true, known["class"].to_numpy())
    return {
        "n_parts": len(known),
        "part_nmi": scores.nmi,
        "part_ari": scores.ari,
        "part_f1": scores.f1,
    }


def _label_of_part(labels: list[str]) -> str:
    defects = sorted(label for label in labels if label != _NORMAL)
    return max(defects, key=defects.count) if defects else _NORMAL


def _class_name(label: str, normal: list[str]) -> str:
    return _NORMAL if label in normal else label


def class_metrics(
    merged: pd.DataFrame, label_of: dict[str, str], normal: list[str]
) -> dict[str, float | None]:
    """Return the agreement of the images' classes with their labels, and that among defects."""
    known = merged[merged["sample_id"].isin(label_of.keys())]
    true = [_class_name(label_of[s], normal) for s in known["sample_id"]]
    predicted = known["class"].to_numpy()
    scores = clustering_scores(true, predicted)
    precision, recall = normal_precision_recall(true, predicted, _NORMAL)
    defective = [label != _NORMAL for label in true]
    among_defects: dict[str, float | None] = {}
    if any(defective):
        kinds = [label for label in true if label != _NORMAL]
        defects = clustering_scores(kinds, predicted[defective])
        among_defects = {
            "defect_nmi": defects.nmi,
            "defect_ari": defects.ari,
            "defect_f1": defects.f1,
        }
    return {
        **among_defects,
        "nmi": scores.nmi,
        "ari": scores.ari,
        "f1": scores.f1,
        "normal_precision": precision,
        "normal_recall": recall,
    }


def combined_metrics(
    merged: pd.DataFrame, label_of: dict[str, str], combined: list[str]
) -> dict[str, float | None]:
    """Return how many images are labelled as combined, and the share with two or more classes."""
    sizes = [
        len(classes)
        for sample_id, classes in zip(merged["sample_id"], merged["class_set"], strict=True)
        if label_of.get(sample_id) in combined
    ]
    if not sizes:
        return {}
    return {"combined_n": len(sizes), "combined_multi": sum(n >= 2 for n in sizes) / len(sizes)}


def region_metrics(
    regions: pd.DataFrame, label_of: dict[str, str], normal: list[str]
) -> dict[str, float | None]:
    """Return the agreement of the classes of all sub-images with the labels of their images."""
    known = regions[regions["sample_id"].isin(label_of.keys())]
    true = [_class_name(label_of[s], normal) for s in known["sample_id"]]
    scores = clustering_scores(true, known["class"].to_numpy())
    return {"region_nmi": scores.nmi, "region_ari": scores.ari, "region_f1": scores.f1}


def score_metrics(
    scores: pd.DataFrame, label_of: dict[str, str], normal: list[str]
) -> dict[str, float | None]:
    """Return the image AUROC of both columns of scores, `score` and `image_score`."""
    known = scores[scores["sample_id"].isin(label_of.keys())]
    anomalous = [label_of[s] not in normal for s in known["sample_id"]]
    return {
        "image_auroc": image_auroc(anomalous, known["score"]),
        "image_score_auroc": image_auroc(anomalous, known["image_score"]),
    }
