"""Metrics of discovered classes against true labels (AnomalyNCD section 4.1).

Labels and clusters may be any sortable values of one kind, integers or strings; every sample
counts once. Maps and boxes are measured in `pipeline.evaluation.localization`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score
from sklearn.metrics.cluster import contingency_matrix


@dataclass(frozen=True)
class Contingency:
    """How often each true class (row) met each cluster (column)."""

    classes: NDArray[Any]
    """(K,) sorted true classes."""
    clusters: NDArray[Any]
    """(J,) sorted clusters."""
    counts: NDArray[np.int64]
    """(K, J), summing to the number of samples."""


@dataclass(frozen=True)
class ClusteringScores:
    """Agreement of clusters with true classes; 1 is perfect."""

    nmi: float
    """Normalised mutual information, arithmetic normalisation, in [0, 1]."""
    ari: float
    """Adjusted Rand index, at most 1, 0 expected by chance."""
    f1: float
    """Micro-averaged F1 after matching = accuracy after matching, in [0, 1]."""


def contingency(true: ArrayLike, predicted: ArrayLike) -> Contingency:
    """Count `true` (N,) against `predicted` (N,); raise ValueError when lengths differ or N = 0."""
    t, p = np.asarray(true), np.asarray(predicted)
    if t.ndim != 1 or t.shape != p.shape or not len(t):
        raise ValueError(f"need labels and clusters (N,) of N > 0 images, not {t.shape}, {p.shape}")
    return Contingency(np.unique(t), np.unique(p), contingency_matrix(t, p))


def match_clusters(true: ArrayLike, predicted: ArrayLike) -> dict[Any, Any]:
    """Match clusters one to one with classes, most samples agreeing (Hungarian algorithm).

    Parameters
    ----------
    true, predicted
        (N,) sortable values of one kind each, N > 0.

    Returns
    -------
    {cluster: class}. With more clusters than classes the surplus clusters are absent; with fewer,
    some classes are. Of equally good matchings one is taken, the same for the same sorted names.

    Examples
    --------
    >>> match_clusters(["bent", "bent", "good"], [1, 1, 0])
    {1: 'bent', 0: 'good'}
    """
    table = contingency(true, predicted)
    rows, columns = linear_sum_assignment(table.counts, maximize=True)
    classes, clusters = table.classes.tolist(), table.clusters.tolist()
    return {clusters[j]: classes[k] for k, j in zip(rows, columns, strict=True)}


def clustering_scores(true: ArrayLike, predicted: ArrayLike) -> ClusteringScores:
    """Return NMI, ARI and F1 of clusters against true classes (AnomalyNCD section 4.1).

    Parameters
    ----------
    true, predicted
        (N,) sortable values of one kind each, N > 0.

    Returns
    -------
    Scores over all samples. F1 is that of the best one-to-one matching; samples of unmatched
    clusters count as wrong.

    Examples
    --------
    >>> scores = clustering_scores(["a", "a", "b", "b"], [1, 1, 0, 2])
    >>> round(scores.nmi, 3), round(scores.ari, 3), scores.f1
    (0.8, 0.571, 0.75)
    """
    counts = contingency(true, predicted).counts
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return ClusteringScores(
        nmi=float(normalized_mutual_info_score(true, predicted)),
        ari=float(adjusted_rand_score(true, predicted)),
        f1=float(counts[rows, columns].sum() / counts.sum()),
    )


def normal_precision_recall(
    true: ArrayLike, predicted: ArrayLike, normal_label: object
) -> tuple[float | None, float | None]:
    """Return precision and recall of the cluster matched to `normal_label` (table 7).

    Precision is None when no cluster is matched to it (recall is 0 then); both are None when no
    sample is normal.
    """
    t, p = np.asarray(true), np.asarray(predicted)
    mapping = match_clusters(t, p)
    if normal_label not in set(t.tolist()):
        return None, None
    cluster = next((c for c, label in mapping.items() if label == normal_label), None)
    if cluster is None:
        return None, 0.0
    hits = int(np.sum((t == normal_label) & (p == cluster)))
    return hits / int(np.sum(p == cluster)), hits / int(np.sum(t == normal_label))


def image_auroc(anomalous: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the image AUROC: how often an anomalous image scores above a normal one.

    Parameters
    ----------
    anomalous
        (N,) bool.
    scores
        (N,) finite. Ties count half.

    Returns
    -------
    In [0, 1]; None when either kind of image is missing.

    Raises
    ------
    ValueError
        For other shapes, and a score that is not finite.

    Examples
    --------
    >>> image_auroc([True, True, False, False], [0.9, 0.4, 0.4, 0.1])
    0.875
    """
    positive, s = np.asarray(anomalous, bool), np.asarray(scores, np.float64)
    if positive.ndim != 1 or positive.shape != s.shape:
        raise ValueError(f"{positive.shape} labels for {s.shape} scores")
    if not np.all(np.isfinite(s)):
        raise ValueError("a score is not finite")
    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, s))


def mean_figures(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of every figure over products; None where a product has none."""
    names = list(dict.fromkeys(name for row in figures for name in row))
    summary: dict[str, float | None] = {}
    for name in names:
        values = [value for row in figures if (value := row.get(name)) is not None]
        complete = bool(values) and len(values) == len(figures)
        summary[name] = float(np.mean(values)) if complete else None
    return summary
