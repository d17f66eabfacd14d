"""Intervals of metrics by the bootstrap over parts (Efron and Tibshirani, 1993, chapter 13).

Images of one part are alike, so parts are drawn, with replacement, and all images of a part come
along. An interval is that of the central 95 % of the values of all resamples. F1 matches classes
and clusters anew in each resample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy

Floats = NDArray[np.float64]

_TAILS = (2.5, 97.5)
_FEWEST = 2


class Interval(NamedTuple):
    """The ends of the central 95 %."""

    low: float
    high: float


def draw_parts(n_parts: int, resamples: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return how often each part is drawn in each resample, (B, P); each row sums to P."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_parts, np.full(n_parts, 1 / n_parts), size=resamples)


def interval(values: ArrayLike) -> Interval | None:
    """Return the central 95 % of the values (B,) of resamples; None if fewer than two are finite.

    A resample without any image of a kind that the metric needs has no value (NaN).
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if len(found) < _FEWEST:
        return None
    low, high = np.percentile(found, _TAILS)
    return Interval(float(low), float(high))


def clustering_intervals(
    true: Sequence[str], predicted: ArrayLike, parts: ArrayLike, draws: NDArray[np.int64]
) -> dict[str, Interval | None]:
    """Return the intervals of NMI, ARI and F1 of N images.

    `parts` (N,) are columns of `draws` (B, P), what `draw_parts` returned.
    """
    tables = _tables(true, predicted, parts, draws)
    return {
        "nmi": interval(nmi(tables)),
        "ari": interval(ari(tables)),
        "f1": interval(matched_share(tables)),
    }


def auroc_interval(
    anomalous: ArrayLike, scores: ArrayLike, parts: ArrayLike, draws: NDArray[np.int64]
) -> Interval | None:
    """Return the interval of the AUROC of `scores` (N,), `anomalous` (N,) bool or not."""
    levels, level = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    kind, owner = np.asarray(anomalous, bool), np.asarray(parts)
    counts = np.zeros((2, draws.shape[1], len(levels)))  # normal, anomalous
    np.add.at(counts, (kind.astype(int), owner, level), 1)
    normal, abnormal = (draws @ one for one in counts)  # (B, levels)
    return interval(auroc(normal, abnormal))


def _tables(
    true: Sequence[str], predicted: ArrayLike, parts: ArrayLike, draws: NDArray[np.int64]
) -> Floats:
    """Return how often each class met each cluster in each resample, (B, K, J)."""
    classes, rows = np.unique(np.asarray(true), return_inverse=True)
    clusters, columns = np.unique(np.asarray(predicted), return_inverse=True)
    counts = np.zeros((draws.shape[1], len(classes), len(clusters)))
    np.add.at(counts, (np.asarray(parts), rows, columns), 1)
    return np.asarray(np.tensordot(draws, counts, axes=1))


def nmi(tables: Floats) -> Floats:
    """Return the normalised mutual information (B,) of tables (B, K, J), arithmetic means.

    I / ((H_true + H_predicted) / 2), as in scikit-learn; 1 where both have no entropy.
    """
    n = tables.sum((1, 2), keepdims=True)
    share = tables / np.maximum(n, 1)
    rows, columns = share.sum(2), share.sum(1)
    entropies = -xlogy(rows, rows).sum(1), -xlogy(columns, columns).sum(1)
    joint = -xlogy(share, share).sum((1, 2))
    mean = (entropies[0] + entropies[1]) / 2
    shared = entropies[0] + entropies[1] - joint
    values = np.where(mean > 0, shared / np.where(mean > 0, mean, 1), 1.0)
    return np.asarray(np.where(n[:, 0, 0] > 0, values, np.nan))


def ari(tables: Floats) -> Floats:
    """Return the adjusted Rand index (B,) of tables (B, K, J): Hubert and Arabie, 1985, eq. 5."""
    n = tables.sum((1, 2))
    both, rows, columns = (
        _pairs(x).reshape(len(tables), -1).sum(1) for x in (tables, tables.sum(2), tables.sum(1))
    )
    expected = rows * columns / np.maximum(_pairs(n), 1)
    span = (rows + columns) / 2 - expected
    values = np.where(span > 0, (both - expected) / np.where(span > 0, span, 1), 1.0)
    return np.asarray(np.where(n > 0, values, np.nan))


def _pairs(counts: Floats) -> Floats:
    return counts * (counts - 1) / 2


def matched_share(tables: Floats) -> Floats:
    """Return the share (B,) of images in matched cells, each table (K, J) with its own matching."""
    values = np.full(len(tables), np.nan)
    for b, table in enumerate(tables):
        if table.any():
            rows, columns = linear_sum_assignment(table, maximize=True)
            values[b] = table[rows, columns].sum() / table.sum()
    return values


def auroc(normal: Floats, anomalous: Floats) -> Floats:
    """Return the AUROC (B,) of counts (B, L) at L rising scores; NaN without either kind.

    The share of pairs in which the anomalous image is above the normal one, ties counting half.
    """
    below = np.cumsum(normal, axis=1) - normal / 2
    pairs = normal.sum(1) * anomalous.sum(1)
    wins = (anomalous * below).sum(1)
    return np.asarray(np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan))
