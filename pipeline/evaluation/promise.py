"""What a limit by normal references promises about false alarms, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

_PARTS = 200
_SURE = 0.95


@dataclass(frozen=True)
class Promise:
    """The promise of a limit that is the k-th smallest score of `n_references`.

    `expected` is the share of new good parts above it, in the mean over sets of such references:
    at most, and exactly where no two scores are equal. In 19 of 20 sets it is at most `likely`, as
    the share follows the beta distribution of n + 1 - k and k (Vovk, 2012). `needed` references
    promise what was `asked`.
    """

    n_references: int
    asked: float
    expected: float
    likely: float
    needed: int

    @property
    def kept(self) -> bool:
        """Tell whether there are references enough for the share that was asked for."""
        return self.n_references >= self.needed


def promise_of(n_references: int, asked: float) -> Promise:
    """Return the promise of `conformal_limit` for R references and a share of false alarms.

    Raises ValueError for no references, and for a share outside (0, 1).

    Examples
    --------
    >>> promise_of(39, 0.05).expected, promise_of(4, 0.05).expected, promise_of(4, 0.05).needed
    (0.05, 0.2, 19)
    """
    if not 0 < asked < 1:
        raise ValueError(f"a share of false alarms lies in (0, 1), not {asked}")
    if n_references < 1:
        raise ValueError("a limit with a stated rate of false alarms needs normal references")
    k = min(int(np.ceil((n_references + 1) * (1 - asked) - 1e-9)), n_references)
    above = n_references + 1 - k
    return Promise(
        n_references,
        asked,
        above / (n_references + 1),
        float(beta.ppf(_SURE, above, k)),
        int(np.ceil(1 / asked - 1 - 1e-9)),
    )


def promise_words(promise: Promise) -> str:
    """Return a sentence about 200 good parts.

    >>> print(promise_words(promise_of(4, 0.05)))
    of 200 good parts 40 at most are expected to be stopped (20 %, by 4 references; 19 of 20 such \
sets keep to 106); 19 references are needed for 5 %
    """
    expected, likely = _count(promise.expected), _count(promise.likely)
    text = (
        f"of {_PARTS} good parts {expected} at most are expected to be stopped "
        f"({100 * promise.expected:.3g} %, by {promise.n_references} references; 19 of 20 such "
        f"sets keep to {likely})"
    )
    if promise.kept:
        return text
    return f"{text}; {promise.needed} references are needed for {100 * promise.asked:.3g} %"


def _count(share: float) -> int:
    return int(np.ceil(_PARTS * share - 1e-9))
