"""The detectors `precomputed` and `ground_truth`: maps that exist already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.detectors.base import Detector, Images, Scores

Floats = NDArray[np.float32]


class GivenMaps(Detector):
    """Maps that exist already: `read(name)` returns that of an image, (size, size) float32.

    `scale` are the raw scores that mean 0 and 1 (None: the range of the set).
    """

    def __init__(
        self, read: Callable[[str], Floats], size: int, scale: tuple[float, float] | None = None
    ) -> None:
        self._read, self._size, self._scale = read, size, scale

    def fit(self, normals: Images) -> None:
        """Learn nothing."""

    def score(self, images: Images) -> Scores:
        """Look maps up; the images are not read."""
        return Scores(_ReadMaps(self._read, images.names, self._size), scale=self._scale)


@dataclass(frozen=True)
class _ReadMaps:
    """`PatchScores` that are read when they are asked for."""

    read: Callable[[str], Floats]
    names: Sequence[str]
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.names), self.size, self.size)

    def __getitem__(self, block: Any) -> Floats:
        return np.stack([self.read(name) for name in self.names[block]])
