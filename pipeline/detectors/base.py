"""What a detector of anomalies offers to the pipeline: `Detector`, with `Images` in, `Scores` out.

A detector gives every patch of an image a raw score. Upsampling to maps, the range of a set, and
the files belong to `pipeline.inference.map_scores` and `map_artifacts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.detectors.features import Array

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Images:
    """N images that are decoded one at a time, when they are asked for.

    `names` tell them apart (the stages use sample ids). `read(i)` returns image i, (H, W, 3) uint8
    RGB, of any size; it may be called repeatedly. Images with one name in `parts` (N,) show one
    thing: its exposures or views, which no detector should compare with each other. Default: each
    image by itself.
    """

    names: Sequence[str]
    read: Callable[[int], NDArray[np.uint8]]
    parts: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Fill in `parts`; raise ValueError if there are more or fewer of them than names."""
        if len(self.parts) == 0:
            object.__setattr__(self, "parts", self.names)
        if len(self.parts) != len(self.names):
            raise ValueError(f"{len(self.parts)} parts for {len(self.names)} images")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.read(i) for i in range(len(self)))

    def take(self, numbers: Sequence[int]) -> Images:
        """Return the images of these numbers, in this order."""
        chosen = [int(number) for number in numbers]
        return Images(
            [self.names[i] for i in chosen],
            lambda i: self.read(chosen[i]),
            [self.parts[i] for i in chosen],
        )


class PatchScores(Protocol):
    """Raw scores (N, h, w) float32: an array, or a stand-in that makes blocks when it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (N, h, w)."""
        ...

    def __getitem__(self, block: Any) -> Any:
        """Return the scores (b, h, w) of a slice of the images; may be asked for repeatedly."""
        ...


def largest(maxima: Floats) -> Floats:
    """Score images by the largest values (N,) of their raw maps: the default of `Scores`."""
    return maxima


@dataclass(frozen=True)
class Scores:
    """What a detector says of N images.

    `patch_scores` (N, h, w): the higher, the less normal; finite, on the same scale for all images.
    `image_scores` turns the largest values (N,) of the raw maps into the detector's own image
    scores (N,) float32, which need not depend on them. `scale`: the raw scores that mean 0 and 1,
    for detectors that have fixed ones (None: the range of the set).
    """

    patch_scores: PatchScores
    image_scores: Callable[[Floats], Floats] = largest
    scale: tuple[float, float] | None = None


def no_scores() -> Scores:
    """Return the scores of no images."""
    return Scores(np.zeros((0, 1, 1), np.float32))


@dataclass(frozen=True)
class References:
    """Scores of R normal references, each as if it were new: not compared with its own part.

    `names` (R,) are theirs in the `Images` given to `Detector.fit`; there may be fewer than those.
    """

    names: Sequence[str] = ()
    scores: Scores = field(default_factory=no_scores)


class Detector(Protocol):
    """An anomaly detector. Subclass it: only `fit` and `score` have no default.

    The stage `maps` calls `fit`, `score_run`, `score_references` and `state`, in this order; new
    images take `load` and `score`.
    """

    def fit(self, normals: Images) -> None:
        """Learn from normal references; raise `AnomalyNCDError` if there are too few."""
        ...

    def score(self, images: Images) -> Scores:
        """Score new images, each for itself: the others make no difference."""
        ...

    def score_run(self, images: Images) -> Scores:
        """Score the images of a run, which may be compared with each other (default: `score`)."""
        return self.score(images)

    def score_references(self) -> References:
        """Score some of the references that `fit` saw, each left out in turn (default: none)."""
        return References()

    def state(self) -> Mapping[str, Array]:
        """Return the arrays that `score` needs, by any names; written to bank.safetensors."""
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take over the `state` of an earlier run in place of `fit`; raise KeyError for a gap."""
        del state  # nothing was kept
