"""Use a detector of your own: its maps in a run, and again for new images.

    python examples/own_detector.py data metal data/raw/demo
    for stage in mebin crops classes views train predict merge; do anomalyncd $stage metal; done

needs the stage `manifest` of the category and normal references. Afterwards

    load_classifier("data", "metal", detector=BlockStatistics())

classifies new images with the same detector.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config.detection import Maps
from pipeline.detectors.base import Detector, Images, References, Scores
from pipeline.detectors.features import Array
from pipeline.inference.map_artifacts import make_maps
from pipeline.io.paths import ArtifactPaths

GRID = 16


class BlockStatistics(Detector):
    """Scores blocks by how far their mean colour and contrast are from those of normal images.

    A reference is compared with the statistics of all others (`score_references`), so that its
    score is what a new normal image gets.
    """

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._blocks = np.zeros((0, GRID, GRID, 6), np.float32)
        self._mean = self._spread = np.zeros(6, np.float32)

    def fit(self, normals: Images) -> None:
        """Learn the mean and spread of six numbers a block, over all blocks of the references."""
        if len(normals) < 2:
            raise ValueError("this detector needs 2 normal references or more")
        self._names = normals.names
        self._blocks = np.stack([describe(image) for image in normals])  # (R, GRID, GRID, 6)
        self._mean, self._spread = statistics(self._blocks)

    def score(self, images: Images) -> Scores:
        """Score blocks by their largest deviation; the image score is the mean of the worst ten."""
        blocks = np.stack([describe(image) for image in images])
        return self._scores(deviations(blocks, self._mean, self._spread))

    def score_references(self) -> References:
        """Score each reference against the others."""
        rows = []
        for i, own in enumerate(self._blocks):
            others = np.delete(self._blocks, i, axis=0)
            rows.append(deviations(own[None], *statistics(others))[0])
        return References(self._names, self._scores(np.stack(rows)))

    def state(self) -> Mapping[str, Array]:
        """Return what `score` needs."""
        return {"mean": self._mean, "spread": self._spread}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over what an earlier run has learnt."""
        self._mean, self._spread = (
            np.asarray(state[name], np.float32) for name in ("mean", "spread")
        )

    def _scores(self, patches: NDArray[np.float32]) -> Scores:
        worst = np.sort(patches.reshape(len(patches), -1))[:, -10:].mean(1)
        return Scores(patches, image_scores=lambda maxima: worst)


def describe(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return mean and standard deviation of the colours of each block, (GRID, GRID, 6)."""
    side = 8 * GRID
    pixels = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    blocks = pixels.reshape(GRID, 8, GRID, 8, 3)
    return np.concatenate([blocks.mean((1, 3)), blocks.std((1, 3))], axis=-1)


def statistics(blocks: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and spread (6,) over images and blocks."""
    rows = blocks.reshape(-1, blocks.shape[-1])
    return rows.mean(0), rows.std(0) + 1e-3


def deviations(
    blocks: NDArray[np.float32], mean: NDArray[np.float32], spread: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the largest deviation (N, GRID, GRID) of each block, in spreads."""
    found: NDArray[np.float32] = (np.abs(blocks - mean) / spread).max(-1)
    return found


def main(data: str, category: str, root: str, map_size: str = "256") -> None:
    """Write `data/maps/<category>` with the detector above, as the stage `maps` does."""
    options = Maps(map_size=int(map_size))
    make_maps(
        category,
        root,
        ArtifactPaths(Path(data)),
        lambda scratch: BlockStatistics(),
        map_size=options.map_size,
        method="block statistics",
        params={"maps": options.to_json()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
