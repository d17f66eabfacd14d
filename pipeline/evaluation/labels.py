"""Classes of images and regions against labels.

`label_of` maps sample ids to labels; rows of images without one are left out. Labels in `normal`
count as one.
"""

from __future__ import annotations

import pandas as pd

from pipeline.evaluation.clustering import clustering_scores, normal_precision_recall

_NORMAL = ""
"""Stands for every label that means normal; no folder has an empty name."""


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
