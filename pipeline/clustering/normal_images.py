"""Which sub-images show nothing abnormal, by the anomaly maps.

The anomaly score of an image tells normal from abnormal far better than the look of its regions
does: a false region of a normal image lies on some ordinary structure, and those differ more among
each other than defects do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

NormalRule = Literal["scores", "regions", "none"]


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
