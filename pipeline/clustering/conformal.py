"""Which images are normal, by a limit with a stated rate of false alarms where references allow it.

With scores of normal references that were held out, a new normal image is above their k-th smallest
with a probability of at most 1 - k / (R + 1), whatever the distribution (Vovk et al., 2005).
That takes scores which could come in any order. Images of one part are alike, so they count once,
by the highest score (`part_scores`): one odd part of six exposures is one of R parts, not six of
the highest images.
Without references two modes of the set's own scores decide. Where none stands out, the images with
the lowest scores are taken as normal, a share that the user can set, and looks decide about the
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.mixture import GaussianMixture

Basis = Literal["references", "modes", "lowest", "nothing"]
"""What a limit rests on: held-out references, two modes, the lowest scores, or there is none."""

_SEPARATION = 3.0
"""Ashman's D of two modes that tell normal from abnormal: of two equal ones 7 % lie wrong at 3."""
_LEAST = 0.1
"""Share of the images that a mode has at least: a few outliers above all others are none."""
_RESTARTS = 5
_FEWEST = 8


@dataclass(frozen=True)
class Limit:
    """The highest image score that is normal; -inf: no score says that an image is.

    `false_alarms` is the share of normal images expected above it, at most: as asked for or, with
    few references, the least that they can promise; None where nothing is promised. `separation`
    is Ashman's D of the two modes of the set's scores, NaN where there are too few scores.
    """

    value: float
    basis: Basis
    false_alarms: float | None
    separation: float

    @property
    def tells_defects(self) -> bool:
        """Whether images above it are defective; else good images are expected there, too."""
        return self.basis in ("references", "modes")


def conformal_limit(references: ArrayLike, false_alarms: float) -> tuple[float, float]:
    """Return a limit that at most a share `false_alarms` of normal images exceeds, and that share.

    The k-th smallest of the R held-out `references`, k the least with 1 - k / (R + 1) <=
    `false_alarms`. Where R is too small for that it is the largest, and the share 1 / (R + 1): no
    limit can promise less. Raises ValueError for no references, and for a share outside (0, 1).
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms must lie in (0, 1), not {false_alarms}")
    known = np.sort(_checked(references))
    if len(known) == 0:
        raise ValueError("a limit with a stated rate of false alarms needs normal references")
    k = int(np.ceil((len(known) + 1) * (1 - false_alarms) - 1e-9))
    k = min(k, len(known))
    return float(known[k - 1]), max(false_alarms, 1 / (len(known) + 1))


def part_scores(scores: ArrayLike, parts: ArrayLike) -> NDArray[np.float64]:
    """Return the highest of the `scores` (N,) of each part, in the order of their numbers.

    `parts` (N,) numbers the part that each image shows.

    >>> part_scores([0.1, 0.7, 0.2], [0, 0, 1]).tolist()
    [0.7, 0.2]
    """
    values, (_, numbers) = _checked(scores), np.unique(np.asarray(parts), return_inverse=True)
    highest = np.full(int(numbers.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(highest, numbers, values)
    return highest


def normal_limit(
    scores: ArrayLike,
    references: ArrayLike,
    *,
    false_alarms: float = 0.05,
    assumed_normal: float = 0.3,
) -> Limit:
    """Return up to which score images of a set are normal, by references or by two modes.

    `scores` (N,) are those of the set, `references` (R,) those of normal images, each as it would
    have scored as a new image; of several images of a part both hold the highest alone
    (`part_scores`), and the limit says of a whole part that it is normal. With references it is
    `conformal_limit`, whatever the set is like: a set of normal images alone, or of none, is
    decided alike. Without any it is the end of the lower of two modes if they are apart (`modes`),
    otherwise the score that a share `assumed_normal` of the images does not exceed. Where that is
    0, with fewer than 8 scores, or equal ones, nothing is called normal. Raises ValueError for a
    share `assumed_normal` outside [0, 1).
    """
    if not 0 <= assumed_normal < 1:
        raise ValueError(f"assumed_normal must lie in [0, 1), not {assumed_normal}")
    values, known = _checked(scores), _checked(references)
    end, separation = modes(values)
    if len(known):
        value, rate = conformal_limit(known, false_alarms)
        return Limit(value, "references", rate, separation)
    if np.isfinite(end):
        return Limit(end, "modes", None, separation)
    if np.isfinite(separation) and assumed_normal > 0:
        lowest = float(np.quantile(values, assumed_normal, method="lower"))
        return Limit(lowest, "lowest", None, separation)
    return Limit(-np.inf, "nothing", None, separation)


def modes(scores: ArrayLike) -> tuple[float, float]:
    """Return the score that ends the lower of two modes of `scores` (N,), and Ashman's D.

    Two Gaussians are fitted; the end lies half way between the highest score of the lower one and
    the next. It is -inf where they are not separate (D of 3 or less: Ashman, Bird and Zepf, 1994)
    or fit no better than one by BIC, or one of them has less than a tenth of the scores; D is NaN
    with fewer than 8 scores or equal ones.
    """
    values = _checked(scores)
    if len(values) < _FEWEST or np.ptp(values) < 1e-9:
        return -np.inf, float("nan")
    column, least = values[:, None], 1e-6 * float(values.var())
    mixture = GaussianMixture(2, n_init=_RESTARTS, random_state=0, reg_covar=least).fit(column)
    means = mixture.means_.ravel()
    separation = float(abs(means[1] - means[0]) / np.sqrt(mixture.covariances_.mean()))
    one = GaussianMixture(1, reg_covar=least).fit(column)
    if separation <= _SEPARATION or mixture.bic(column) >= one.bic(column):
        return -np.inf, separation
    nearer = mixture.predict(column) == means.argmin()
    # the wider Gaussian wins beyond both means; the order of the scores decides there
    low = (nearer | (values < means.min())) & (values < means.max())
    if not _LEAST <= low.mean() <= 1 - _LEAST:
        return -np.inf, separation
    return float((values[low].max() + values[~low].min()) / 2), separation


def _checked(scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("image scores must be one finite number for each image")
    return values
