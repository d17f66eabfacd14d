"""Say which images look dark, overexposed, blurred or the same again, for `init` and `doctor`.

Nothing is left out because of it: a dark image can be a good one of a dark product. A sample of
the images is read, small and in grey.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import AnomalyNCDError
from pipeline.io.images import read_image

MOST = 200
"""Images that are read, evenly over the sorted paths."""

_SIDE = 256
_SMALL = 64
_DARK = 40
"""No brighter than this (99 % of pixels, of 255)."""
_BRIGHT = 240
"""No darker than this (99 % of pixels)."""
_BLUR = 6.0
"""Spreads (MAD) of log sharpness below the median of the set."""
_FEWEST = 10
"""Images from which the sharpness of a set is known."""
_SAME = 1.0
"""Mean difference of grey levels up to which an image is another again."""
_EXAMPLES = 3


def unhealthy(root: Path, paths: Sequence[str], bits: int) -> Mapping[str, Sequence[str]]:
    """Return the paths of images that look bad, by what is the matter.

    Parameters
    ----------
    root, paths
        The product's folder, and its images; at most `MOST` of them are read. Images that cannot be
        read are left to the stage `manifest`.
    bits
        `manifest.bits`.
    """
    chosen = sorted(paths)
    chosen = [
        chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, MOST).round().astype(int))
    ]
    found: dict[str, list[str]] = {
        "dark": [],
        "overexposed": [],
        "blurred": [],
        "the same again": [],
    }
    seen: list[str] = []
    sharpness: list[float] = []
    small: list[NDArray[np.float32]] = []
    for path in chosen:
        try:
            pixels = read_image(root / path, bits)
        except (AnomalyNCDError, OSError):
            continue
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, _SIDE / max(grey.shape))
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        low, high = np.percentile(grey, (1, 99))
        if high < _DARK:
            found["dark"].append(path)
        elif low > _BRIGHT:
            found["overexposed"].append(path)
        tiny = cv2.resize(grey, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA).astype(np.float32)
        if small and (np.abs(np.stack(small) - tiny).mean((1, 2)) <= _SAME).any():
            found["the same again"].append(path)
        seen.append(path)
        small.append(tiny)
        sharpness.append(float(np.log(cv2.Laplacian(grey, cv2.CV_64F).var() + 1)))
    if len(seen) >= _FEWEST:
        values = np.array(sharpness)
        gaps = np.median(values) - values
        spread = max(1.4826 * float(np.median(np.abs(gaps))), 0.1)
        found["blurred"] = [p for p, gap in zip(seen, gaps, strict=True) if gap > _BLUR * spread]
    return {what: bad for what, bad in found.items() if bad}


def sentences(found: Mapping[str, Sequence[str]], n_images: int) -> Iterator[str]:
    """Say how many images look bad, and name a few."""
    among = f" of {MOST} looked at" if n_images > MOST else ""
    for what, paths in found.items():
        more = f" and {len(paths) - _EXAMPLES} more" if len(paths) > _EXAMPLES else ""
        yield f"{len(paths)}{among} look {what}: {', '.join(paths[:_EXAMPLES])}{more}"
