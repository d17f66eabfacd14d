"""From the mask of an image to the squares of its sub-images, by section `crops`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.binarization.stable_run import SelectionRule, stable_run
from pipeline.config.params import Crops
from pipeline.regions.crops import region_squares


def stable_count(
    n_regions: int, counts: ArrayLike, *, method: str, tau: int, rule: SelectionRule
) -> int:
    """Return delta*, the stable number of regions of a map; `n_regions` if none was sought.

    `counts` (L,) are the numbers of regions at each threshold, highest first; `method`, `tau` and
    `rule` are those of section `mebin`.
    """
    if method != "mebin":
        return n_regions
    return stable_run(np.asarray(counts, np.int32), tau=tau, rule=rule).count


def squares_of(mask: NDArray[np.bool_], options: Crops, n_stable: int) -> NDArray[np.int64]:
    """Return the squares (K, 3) of an image's mask (H, W), K >= 1; see `region_squares`.

    `crops.keep: delta` keeps one more than `n_stable`. With `crops.enabled` off there is one
    square: the whole image.
    """
    keep = n_stable + 1 if options.keep == "delta" else options.keep
    return region_squares(
        mask if options.enabled else np.zeros_like(mask),
        padding=options.padding,
        smallest_side=options.smallest_side,
        merge_distance=options.merge_distance,
        keep=None if keep == "all" else int(keep),
    )
