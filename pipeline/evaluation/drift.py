"""Whether numbers of new images are distributed as those of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ks_2samp

_FEWEST = 8
_SURE = 0.01
_LITTLE, _FAR = 0.2, 0.4
_BINS = 10
_FEWEST_FOR_PSI = 50
"""By chance alone the index is about 10 (1 / N + 1 / M): .4 of 50 values each."""


@dataclass(frozen=True)
class Shift:
    """A quantity of a run and of new images: how many, their medians, and how far they differ.

    `distance` is that of Kolmogorov and Smirnov, the largest difference between the two shares
    below any value: 0 where both are distributed alike, 1 where one lies wholly above the other.
    `p` is the probability of one as large by chance. `psi` is the population stability index over
    tenths of the run. All three are NaN where either has fewer than 8 values, and the index where
    either has fewer than 50.
    """

    n_run: int
    n_new: int
    median_run: float
    median_new: float
    distance: float
    p: float
    psi: float

    @property
    def is_sure(self) -> bool:
        """Tell whether chance explains the distance in fewer than one of 100 cases."""
        return bool(self.p < _SURE)

    @property
    def words(self) -> str:
        """Return a verdict in words."""
        if np.isnan(self.distance):
            return "too few to say"
        if not self.is_sure:
            return "as in the run"
        where = "higher" if self.median_new > self.median_run else "lower"
        if self.median_new == self.median_run:
            where = "wider or narrower"
        size = "a little " if self.distance < _LITTLE else "far " if self.distance >= _FAR else ""
        return f"{size}{where} than in the run"


def shift_of(run: ArrayLike, new: ArrayLike) -> Shift:
    """Return how far the values (M,) of new images are from those (N,) of a run.

    Values that are not finite are left out.

    Examples
    --------
    >>> shift_of([1, 2, 3, 4, 5, 6, 7, 8] * 5, [9, 10, 11, 12] * 5).words
    'far higher than in the run'
    """
    before, now = _finite(run), _finite(new)
    distance, p, psi = np.nan, np.nan, np.nan
    if min(len(before), len(now)) >= _FEWEST:
        test = ks_2samp(before, now)
        distance, p = float(test.statistic), float(test.pvalue)
    if min(len(before), len(now)) >= _FEWEST_FOR_PSI:
        psi = stability_index(before, now)
    return Shift(len(before), len(now), _median(before), _median(now), distance, p, psi)


def stability_index(run: ArrayLike, new: ArrayLike) -> float:
    """Return the population stability index over tenths of `run`, with half a count in each.

    ``sum (b - a) ln(b / a)`` over the shares a of the run and b of the new. Below .1 is usually
    called stable, above .25 a shift.

    >>> stability_index(range(100), range(100))
    0.0
    """
    before, now = _finite(run), _finite(new)
    edges = np.unique(np.quantile(before, np.linspace(0, 1, _BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) + 0.5
              for x in (before, now)]  # fmt: skip
    a, b = (count / count.sum() for count in counts)
    return float(((b - a) * np.log(b / a)).sum())


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a share (Wilson, 1927); (0, 1) of nothing.

    >>> [round(end, 3) for end in share_interval(5, 100)]
    [0.022, 0.112]
    """
    if total == 0:
        return 0.0, 1.0
    z, share = 1.959964, count / total
    middle = share + z * z / (2 * total)
    half = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64).ravel()
    return x[np.isfinite(x)]


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
