"""How much each pixel of a region counts: by how far the anomaly map lies above the set's floor.

A mask ends where MEBin's threshold cuts the map, which on a strong or wide defect is far outside of
what is abnormal; there the map is low, and so is the weight.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def map_weights(
    amap: NDArray[np.float32], mask: NDArray[np.bool_], *, s_min: float, s_max: float
) -> NDArray[np.uint8]:
    """Return the weights (H, W) uint8 of the pixels of an image: 1 to 255 in its mask, 0 outside.

    In the mask (H, W) they are ``255 (A - s_min) / (s_max - s_min)``, rounded, at least 1 and at
    most 255, where the map `amap` (h, w) float32 is first brought to (H, W), bilinear. All are 255
    if s_max is not above s_min.

    Examples
    --------
    >>> import numpy as np
    >>> amap = np.array([[0.2, 0.4, 0.6, 1.0]], np.float32)
    >>> mask = np.array([[False, True, True, True]])
    >>> map_weights(amap, mask, s_min=0.4, s_max=1.0).tolist()
    [[0, 1, 85, 255]]
    """
    if not s_max > s_min:
        return np.where(mask, 255, 0).astype(np.uint8)
    height, width = mask.shape
    resized = cv2.resize(amap, (width, height), interpolation=cv2.INTER_LINEAR)
    above = np.rint((resized.astype(np.float64) - s_min) * (255 / (s_max - s_min)))
    return np.where(mask, np.clip(above, 1, 255), 0).astype(np.uint8)
