"""What every peer takes and gives, and how a row of the comparison is described.

A method sees features of the images, the number of classes and a seed; labels of the images that
are sorted are nowhere among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Tokens = NDArray[np.float16] | Floats

Input = Literal["whole", "crop", "patch"]
Uses = Literal["N", "B", "M"]
"""Extra data: normal references (N), a labelled base set (B), anomaly maps (M)."""
Basis = Literal["C", "P", "T", "M"]
"""What a row rests on: the authors' code (C), the AnomalyNCD paper (P), third-party code (T) or
general knowledge (M)."""
Figures = tuple[float, float, float]
"""NMI, ARI, F1."""


@dataclass(frozen=True)
class PeerData:
    """Features of N images, or of N sub-images where the input is `crop`.

    Parameters
    ----------
    class_tokens
        (N, D), after the final norm, of the plain view.
    view_tokens
        (V, N, D): class tokens of V augmented views; None if they are not cached.
    patch_tokens
        For input `patch`: (N, P, D) of each layer, float16 or float32.
    grid
        Rows and columns of the P patches.
    pooled
        For input `crop`: (N, D') tokens averaged as the pipeline's own descriptors are: by the
        map, within its regions.
    scores
        (N, P) anomaly score of each patch, for rows that use maps.
    normals
        (R, P, D) of each layer: the patch tokens of normal references, if the row may use them.
    base_tokens, base_view_tokens, base_labels
        (M, D), (V, M, D) and (M,) from 0 to C_l - 1: the labelled base set; None without one.
    sample_ids
        The N names. Random draws for an item go by its rank among them, not by its position.
    masks
        (N, P): the share of each patch under the mask of its image, for rows that use maps.
    means, normal_means
        (N, P, D) and (R, P, D), twice: tokens averaged over the middle blocks, as they are and
        with each block layer-normalised over its map.
    attention, normal_attention
        (N, P) and (R, P): attention of the class token in the last of these blocks, averaged
        over heads.
    """

    class_tokens: Floats
    view_tokens: Floats | None = None
    patch_tokens: Sequence[Tokens] | None = None
    grid: tuple[int, int] | None = None
    pooled: Floats | None = None
    scores: Floats | None = None
    normals: Sequence[Tokens] | None = None
    base_tokens: Floats | None = None
    base_view_tokens: Floats | None = None
    base_labels: Ints | None = None
    sample_ids: Sequence[str] = ()
    masks: Floats | None = None
    means: Sequence[Tokens] | None = None
    normal_means: Sequence[Tokens] | None = None
    attention: Floats | None = None
    normal_attention: Floats | None = None


@dataclass(frozen=True)
class Assignment:
    """Clusters 0 to K - 1 of N items; `probabilities` (N, K), or None of a hard assignment.

    `notes` are numbers to print beside the row, such as the effective number of patches.
    """

    labels: Ints
    probabilities: Floats | None = None
    notes: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A peer: sorts N items into `n_classes` clusters, normal included."""

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return the clusters. Raises ValueError where `data` lacks what the method needs."""
        ...


@dataclass(frozen=True)
class PeerRow:
    """A row of the table.

    Parameters
    ----------
    name
        Method and what differs: "SCAN (frozen DINOv2 for its pretext task)".
    method
        The function.
    inputs
        What it can be run on.
    uses
        Extra data that it takes.
    random
        Whether its result depends on the seed.
    trains
        What it trains: "nothing", "heads", "last block".
    published
        Data set -> NMI, ARI, F1 as published, under other settings.
    basis
        What our reading of the method rests on.
    footnote
        What a reader has to know, in a sentence.
    """

    name: str
    method: Method
    inputs: tuple[Input, ...]
    uses: frozenset[Uses] = frozenset()
    random: bool = False
    trains: str = "nothing"
    published: Mapping[str, Figures] = field(default_factory=dict)
    basis: Basis = "C"
    footnote: str = ""
