"""Anomaly Clustering: Sohn, Yoon, Li, Lee, Pfister, WACV 2023 (arXiv 2112.11573).

An image is the mean of its patch tokens, weighted by how unlike the patches of other images they
are; Ward sorts the means. No official code exists: equations as in a third party's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

from pipeline.detectors.patchcore import patch_vectors
from pipeline.peers.base import Assignment, Floats, PeerData, PeerRow
from pipeline.peers.partitions import squared_distances, ward_labels

Doubles = NDArray[np.float64]

_NEIGHBOURHOOD = 3
_IMAGES = 8
"""Images of one block of distances."""


def mutual_distances(tokens: Tensor) -> Doubles:
    """Return delta (N, P) of patches (N, P, D): the mean over other images of the nearest distance.

    delta_ik = mean over j != i of min over m of ||z_ik - z_jm||. A single image has zeros. The cost
    is (N P)^2 D / 2 products, in blocks of images.
    """
    n, p, _ = tokens.shape
    total = torch.zeros(n, p, dtype=torch.float64)
    for i in range(n):
        for start in range(i + 1, n, _IMAGES):
            others = tokens[start : start + _IMAGES]
            squared = squared_distances(tokens[i], others.flatten(0, 1)).view(p, len(others), p)
            total[i] += squared.amin(2).sqrt().sum(1)
            total[start : start + _IMAGES] += squared.amin(0).sqrt()
    return np.asarray((total / max(n - 1, 1)).numpy())


def distances_to_bank(tokens: Tensor, bank: Tensor) -> Doubles:
    """Return delta (N, P) of patches (N, P, D): the distance to the nearest of a bank (M, D)."""
    if not len(bank):
        raise ValueError("there are no normal references")
    delta = torch.empty(tokens.shape[:2], dtype=torch.float64)
    for i, image in enumerate(tokens):
        blocks = [squared_distances(image, b).amin(1) for b in torch.split(bank, 4096)]
        delta[i] = torch.stack(blocks).amin(0).sqrt()
    return np.asarray(delta.numpy())


def softmax_weights(delta: Doubles, tau: float) -> Doubles:
    """Return alpha (N, P): the softmax of delta / tau over an image's patches."""
    return np.asarray(softmax(delta / tau, axis=1))


def mask_weights(shares: NDArray[np.floating]) -> Doubles:
    """Return alpha (N, P) in proportion to shares (N, P) under the mask; uniform if it is empty."""
    cover = np.asarray(shares, np.float64)
    cover = np.where(cover.sum(1, keepdims=True) > 0, cover, 1.0)
    return np.asarray(cover / cover.sum(1, keepdims=True))


def weighted_means(tokens: Tensor, alpha: Doubles) -> Floats:
    """Return sum_k alpha_ik z_ik (N, D) of tokens (N, P, D)."""
    weights = torch.from_numpy(alpha).to(tokens.dtype)
    return np.asarray(torch.einsum("np,npd->nd", weights, tokens).numpy())


def effective_patches(alpha: Doubles) -> float:
    """Return the median over images of exp(entropy of alpha_i): how many patches count."""
    return float(np.median(np.exp(entropy(alpha, axis=1))))


@dataclass(frozen=True)
class AnomalyClustering:
    """Weighted means of patch tokens, sorted by Ward.

    `weights`: ``mutual`` from the other images, ``normals`` from normal references, ``masks`` in
    proportion to masks, ``average`` equal. `tau` is in units of distance.
    """

    weights: Literal["mutual", "normals", "masks", "average"]
    tau: float = 1.0

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard clusters. Raises ValueError where `data` lacks patches, normals or masks."""
        del seed
        if data.patch_tokens is None or data.grid is None:
            raise ValueError("there are no patch tokens: use the input patch")
        n = len(data.patch_tokens[0])
        tokens = patch_vectors(data.patch_tokens, data.grid, slice(0, n), (_NEIGHBOURHOOD,))
        alpha = self._alpha(data, tokens)
        labels = ward_labels(weighted_means(tokens, alpha), n_classes)
        return Assignment(labels, notes={"effective patches": effective_patches(alpha)})

    def _alpha(self, data: PeerData, tokens: Tensor) -> Doubles:
        if self.weights == "average":
            return np.full(tokens.shape[:2], 1 / tokens.shape[1])
        if self.weights == "masks":
            if data.masks is None:
                raise ValueError("there are no masks")
            return mask_weights(data.masks)
        if self.weights == "mutual":
            return softmax_weights(mutual_distances(tokens), self.tau)
        if data.normals is None or data.grid is None:
            raise ValueError("there are no normal references")
        n = len(data.normals[0])
        bank = patch_vectors(data.normals, data.grid, slice(0, n), (_NEIGHBOURHOOD,))
        return softmax_weights(distances_to_bank(tokens, bank.flatten(0, 1)), self.tau)


_PUBLISHED = {
    "mutual": {"MVTec AD": (0.525, 0.431, 0.604), "MTD": (0.179, 0.120, 0.346)},
    "normals": {"MVTec AD": (0.608, 0.489, 0.652), "MTD": (0.390, 0.314, 0.490)},
}
_TAUS = (1.0, 0.5, 2.0, 4.0)


def _row(weights: Literal["mutual", "normals"], tau: float) -> PeerRow:
    what = "" if weights == "mutual" else ", normals"
    return PeerRow(
        name=f"AC (ViT tokens{what}, tau {tau:g})",
        method=AnomalyClustering(weights, tau),
        inputs=("patch",),
        uses=frozenset({"N"}) if weights == "normals" else frozenset(),
        published=_PUBLISHED[weights] if tau == 1 else {},
        basis="T",
        footnote="Tokens of the last two blocks, 3 x 3 means; published with WideResNet-50."
        + (" The headline is tau 1." if tau != 1 else ""),
    )


ROWS = {
    **{f"ac_{tau:g}": _row("mutual", tau) for tau in _TAUS},
    **{f"ac_normals_{tau:g}": _row("normals", tau) for tau in _TAUS},
    "ac_average": PeerRow(
        name="AC (ViT tokens, equal weights)",
        method=AnomalyClustering("average"),
        inputs=("patch",),
        basis="T",
        footnote="AC's own ablation: tau to infinity.",
    ),
    "ac_masks": PeerRow(
        name="AC (ViT tokens, masks)",
        method=AnomalyClustering("masks"),
        inputs=("patch",),
        uses=frozenset({"M"}),
        published={"MVTec AD": (0.711, 0.638, 0.718), "MTD": (0.467, 0.359, 0.482)},
        basis="T",
        footnote="Masks are those of mebin; published with ground-truth masks (maps.method "
        "ground_truth). How the paper weighted by them is not known.",
    ),
}
