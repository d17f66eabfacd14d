"""Which sub-images show nothing abnormal, by the anomaly maps.

The anomaly score of an image tells normal from abnormal far better than the look of its regions
does: a false region of a normal image lies on some ordinary structure, and those differ more among
each other than defects do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.mixture import GaussianMixture

NormalRule = Literal["scores", "regions", "none"]

_SEPARATION = 2.0
_CONTROL = 3.0
"""Standard deviations above the mean: the upper limit of Shewhart's control charts."""
_FALSE_SHARE = 0.5
"""How much of the upper mode may be normal images, as far as references tell."""
_RESTARTS = 5
_FEWEST = 8
_SMALLEST_SCORE = 1e-6


def known_normal(
    rule: NormalRule, areas: ArrayLike, image_scores: ArrayLike, limit: float
) -> NDArray[np.bool_]:
    """Return which sub-images (M,) are normal whatever they look like.

    `areas` (M,) in pixels are 0 without a region; `image_scores` (M,) are the anomaly scores of
    their images. By `rule`:

    * ``scores``: those without a region, and those of an image whose score is `limit` or less;
    * ``regions``: those without a region;
    * ``none``: none is.
    """
    without = np.asarray(areas, np.float64) == 0
    if rule == "none":
        return np.zeros_like(without)
    if rule == "regions":
        return np.asarray(without)
    return np.asarray(without | (np.asarray(image_scores, np.float64) <= limit))


def normal_limit(scores: ArrayLike, references: ArrayLike = ()) -> float:
    """Return the highest anomaly score of a normal image.

    With fewer than 8 references it is `low_mode_limit`. With more, that holds where the references
    agree with it: the median of the lower mode is within their control limit (their mean and three
    standard deviations), and they lie above `low_mode_limit` at most half as often as the set does,
    so that at least half of the upper mode is abnormal. Otherwise it is the control limit, so that
    a set with nothing but normal images is normal, and in one without any nothing is. (Not on
    logarithms: references may be clipped to 0.)

    Parameters
    ----------
    scores
        (N,) of the images of the set, >= 0.
    references
        (R,) of images known to be normal.

    Returns
    -------
    The limit; -inf where the scores do not tell normal images from others.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> scores = np.concatenate([rng.normal(0.2, 0.01, 30), rng.normal(0.8, 0.05, 30)])
    >>> 0.23 < normal_limit(scores) < 0.7
    True
    """
    values, normal = np.asarray(scores, np.float64), np.asarray(references, np.float64)
    limit = low_mode_limit(values)
    if len(normal) < _FEWEST:
        return limit
    control = float(normal.mean() + _CONTROL * normal.std(ddof=1))
    if limit == -np.inf:
        return control
    lower_is_normal = float(np.median(values[values <= limit])) <= control
    upper_is_abnormal = (normal > limit).mean() <= _FALSE_SHARE * (values > limit).mean()
    return limit if lower_is_normal and upper_is_abnormal else control


def low_mode_limit(scores: ArrayLike) -> float:
    """Return the score that ends the lower of two modes of a set's anomaly scores.

    Two Gaussians are fitted to the logarithms of `scores` (N,) >= 0; the limit is half way, on the
    logarithms, between the highest score of the lower one and the next score. It is -inf where they
    are not separate (Ashman's D of 2 or less: Ashman, Bird and Zepf, 1994), as for a set without
    normal images, or with fewer than 8 images. Raises ValueError for scores that are negative or
    not finite.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError("anomaly scores must be one finite number >= 0 for each image")
    logs = np.log(np.maximum(values, _SMALLEST_SCORE))
    if len(logs) < _FEWEST or np.ptp(logs) < 1e-9:
        return -np.inf
    mixture = GaussianMixture(
        2, n_init=_RESTARTS, random_state=0, reg_covar=1e-6 * float(logs.var())
    ).fit(logs[:, None])
    means = mixture.means_.ravel()
    spread = float(np.sqrt(mixture.covariances_.mean()))
    if abs(means[1] - means[0]) <= _SEPARATION * spread:
        return -np.inf
    nearer = mixture.predict(logs[:, None]) == means.argmin()
    # the wider Gaussian wins beyond both means; the order of the scores decides there
    low = (nearer | (logs < means.min())) & (logs < means.max())
    return float(np.exp((logs[low].max() + logs[~low].min()) / 2))
