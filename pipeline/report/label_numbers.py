"""Colours for labels: those of the classes that are matched with them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.clustering import match_clusters
from pipeline.report.category import Category


def label_numbers(category: Category, labels: Sequence[str]) -> dict[str, int]:
    """Return the class matched with each label over the images, or an unused number."""
    merged = category.merged[category.merged["sample_id"].isin(category.labels.keys())]
    true = [category.labels[s] for s in merged["sample_id"]]
    matched = match_clusters(true, merged["class"].tolist())
    numbers = {str(label): int(k) for k, label in matched.items()}
    free = max([*numbers.values(), *category.regions["class"].tolist()]) + 1
    for label in sorted(set(labels) - numbers.keys()):
        numbers[label] = free
        free += 1
    return numbers
