"""Predictions against labels: the only place of the comparison that sees labels of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.descriptions import Description
from pipeline.evaluation.clustering import clustering_scores

METRICS = ("nmi", "ari", "f1")


@dataclass(frozen=True)
class Judged:
    """A row with its metrics: means and standard deviations over seeds; None for a single run.

    `labels` and `classes` (N,) are true labels and clusters of the first seed. `seconds` are those
    of one seed, `host_mib` and `gpu_mib` peaks of its process.
    """

    key: str
    given: str
    about: Description
    means: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] | None = None
    labels: Sequence[str] = ()
    classes: Sequence[int] = ()
    seconds: float | None = None
    host_mib: float | None = None
    gpu_mib: float | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    skipped: str | None = None

    @property
    def name(self) -> str:
        """Return the key under which metrics are written: row and input."""
        return f"{self.key}_{self.given}"


def judge(
    classes: NDArray[np.int64], labels: Sequence[str]
) -> tuple[dict[str, float], dict[str, float] | None]:
    """Return the mean NMI, ARI and F1 of clusters (S, N) of S seeds against N labels.

    The second are the standard deviations over seeds (divisor S - 1), None for one seed.
    """
    scores = [clustering_scores(labels, row) for row in classes]
    table = np.array([[s.nmi, s.ari, s.f1] for s in scores])
    means = dict(zip(METRICS, table.mean(0).tolist(), strict=True))
    if len(scores) < 2:
        return means, None
    return means, dict(zip(METRICS, table.std(0, ddof=1).tolist(), strict=True))


def ranked(rows: Sequence[Judged]) -> list[Judged]:
    """Return rows by falling NMI; those without metrics at the end."""
    return sorted(rows, key=lambda row: -row.means.get("nmi", -1.0))


def within_a_deviation(rows: Sequence[Judged]) -> list[str]:
    """Return sentences on peers whose NMI is at least that of a row of ours, less one deviation.

    Such rows should be looked at first: (row of ours) is not clearly better than they are.
    """
    own = [row for row in rows if row.about.own and row.means]
    peers = [row for row in rows if not row.about.own and row.means]
    sentences = []
    for mine in own:
        equal = [
            peer.about.name
            for peer in peers
            if peer.about.uses <= mine.about.uses
            and peer.means["nmi"] >= mine.means["nmi"] - deviation(peer, mine)
        ]
        if equal:
            found = "; ".join(equal)
            sentences.append(f"Within a deviation of {mine.about.name}, or above it: {found}.")
        else:
            sentences.append(f"No peer that uses no more reaches {mine.about.name}.")
    return sentences


def deviation(first: Judged, second: Judged) -> float:
    """Return the larger deviation of NMI over seeds of two rows; 0 where neither has one."""
    spreads = [row.deviations["nmi"] for row in (first, second) if row.deviations is not None]
    return max(spreads, default=0.0)
