"""What a peer method gets, returns and states about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PeerData:
    """Inputs of a method: N images or sub-images, features of width D, no label of a query."""

    class_tokens: Floats
    """(N, D) class tokens after the final norm, plain view."""
    view_tokens: Floats | None
    """(V, N, D) class tokens of V augmented views; None if they are not cached."""
    patch_tokens: Sequence[Array] | None
    """One (N, P, D) float16 array a layer, for `patch` rows."""
    grid: tuple[int, int] | None
    """Rows and columns of the P patches."""
    pooled: Floats | None
    """(N, D') mask-pooled tokens, for `crop` rows."""
    scores: Floats | None
    """(N, P) anomaly score of each patch."""
    normals: Sequence[Array] | None
    """Patch tokens of normal references, (R, P, D) a layer, if the row may use them."""
    base_tokens: Floats | None
    """(M, D) class tokens of the labelled base set D_l."""
    base_view_tokens: Floats | None
    """(V, M, D)."""
    base_labels: Ints | None
    """(M,) classes of the base set, 0..C_l-1."""
    sample_ids: Sequence[str]
    """N unique names; random draws go by their order."""


@dataclass(frozen=True)
class Assignment:
    """Clusters of the N images."""

    labels: Ints
    """(N,) 0..K-1."""
    probabilities: Floats | None
    """(N, K), or None of a method that assigns hard labels."""


class Method(Protocol):
    """A method: the same data, number of classes and seed give the same assignment."""

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return clusters of the images in `data`, in their order."""
        ...


@dataclass(frozen=True)
class PeerRow:
    """One row of the table: a method and what it uses."""

    name: str
    method: Method
    inputs: tuple[Literal["whole", "crop", "patch"], ...]
    uses: frozenset[Literal["N", "B", "M"]]
    """Normal references (N), base set (B), anomaly maps (M)."""
    random: bool
    """False: the seed changes nothing."""
    trains: str
    published: Mapping[str, tuple[float, float, float]]
    """NMI, ARI and F1 by set, as published under other settings."""
    basis: Literal["C", "P", "T", "M"]
    """The weakest source of its equations: code, paper, third party, memory."""
    footnote: str
