"""The run's classifiers as torch modules: from the pixels and mask of a crop to probabilities.

Both modules take `image` (B, 3, S, S) float32 RGB from 0 to 255 and `mask` (B, S, S) float32 in
[0, 1], and return probabilities (B, C) and embeddings (B, E) of norm 1. With `empty_is_normal` a
crop without a mask is class 0, as `known_normal` has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.clustering.descriptors import DescriptorSpace, patch_weights, pool
from pipeline.clustering.ensemble import Mixture, MixtureEnsemble
from pipeline.mgvit.attention import (
    ClassBlock,
    frozen_tokens,
    patch_keep,
    visible_keys,
)
from pipeline.mgvit.backbone import Normalise
from pipeline.mgvit.heads import MultiHead
from pipeline.mgvit.tokens import Masking


class _Classifier(nn.Module):
    """The ViT, the normalisation of its input, and the rule for empty masks."""

    def __init__(self, vit: VisionTransformer, *, empty_is_normal: bool) -> None:
        super().__init__()
        self.vit, self.empty_is_normal = vit, empty_is_normal
        self.patch = int(vit.patch_embed.patch_size[0])
        self.normalise = Normalise(vit)

    def answer(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        """Return `probabilities` (B, C), with `empty_is_normal` class 0 for empty masks."""
        if not self.empty_is_normal:
            return probabilities
        empty = mask.flatten(1).amax(1, keepdim=True) <= 0  # (B, 1)
        normal = torch.arange(probabilities.shape[1], device=mask.device) == 0  # (C,)
        return torch.where(empty, normal.to(probabilities.dtype), probabilities)


class HeadsNetwork(_Classifier):
    """The frozen blocks, the trained class block and one head; base classes are left out."""

    def __init__(
        self,
        vit: VisionTransformer,
        block: ClassBlock,
        heads: MultiHead,
        masking: Masking,
        *,
        head: int,
        n_base: int,
        temperature: float,
        empty_is_normal: bool,
    ) -> None:
        super().__init__(vit, empty_is_normal=empty_is_normal)
        self.block, self.masking, self.temperature = block, masking, temperature
        self.weight: Tensor
        self.register_buffer("weight", F.normalize(heads.weight[head, n_base:].detach(), dim=-1))

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, C) and the normalised class tokens (B, D)."""
        options = self.masking
        keep = patch_keep(mask, self.patch, threshold=options.threshold)  # (B, P)
        tokens = frozen_tokens(
            self.vit,
            self.normalise(image),
            keep,
            mask_on=options.mask_on,
            mask_layers=options.mask_layers,
        )  # (B, N, D)
        visible = visible_keys(self.vit, keep, mask_on=options.mask_on)
        embedding = F.normalize(self.block(tokens, visible), dim=-1)  # (B, D)
        logits = embedding @ self.weight.T / self.temperature
        return self.answer(logits.softmax(-1), mask), embedding


class MixtureNetwork(_Classifier):
    """The frozen blocks up to the last of `layers`, the descriptors and the mixtures."""

    def __init__(
        self,
        vit: VisionTransformer,
        layers: Sequence[int],
        space: DescriptorSpace,
        vote: MixtureEnsemble,
        *,
        empty_is_normal: bool,
    ) -> None:
        super().__init__(vit, empty_is_normal=empty_is_normal)
        self.layers = tuple(layers)
        self.centre: Tensor
        self.spread: Tensor
        self.votes: Tensor
        self.register_buffer("centre", _float(space.mean))  # (L, D)
        self.register_buffer("spread", _float(space.spread))  # (L,)
        self.register_buffer("votes", _float(vote.votes))  # (all components, C)
        self.mixtures = nn.ModuleList(_Responsibilities(mixture) for mixture in vote.mixtures)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, C) and the layers' directions, one after the other (B, L * D).

        The product of two embeddings is the mean over layers of the cosines of their descriptors.
        """
        weights = patch_weights(mask, self.patch)  # (B, P)
        pooled = pool(self.vit, self.layers, self.normalise(image), weights)  # (B, L, D)
        directions = F.normalize(pooled - self.centre, dim=-1, eps=1e-9)
        descriptors = directions / self.spread[:, None]
        parts = [mixture(descriptors) for mixture in self.mixtures]  # each (B, k)
        n = image.shape[0]
        # Without any mixture the votes are one row.
        votes = torch.cat(parts, 1) @ self.votes if parts else self.votes.expand(n, -1)  # (B, C)
        embedding = directions.flatten(1) / len(self.layers) ** 0.5
        return self.answer(votes / votes.sum(1, keepdim=True), mask), embedding


class _Responsibilities(nn.Module):
    """The responsibilities of a mixture's components; see `Mixture.responsibilities`."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.layer = mixture.layer
        projection = mixture.axes.T @ mixture.precision_cholesky  # (D, d)
        centres = mixture.mean @ projection + mixture.centres @ mixture.precision_cholesky  # (k, d)
        self.projection: Tensor
        self.centres: Tensor
        self.log_weights: Tensor
        self.register_buffer("projection", _float(projection))
        self.register_buffer("centres", _float(centres))
        self.register_buffer("log_weights", _float(mixture.log_weights))

    def forward(self, descriptors: Tensor) -> Tensor:
        """Return (B, k) for descriptors (B, L, D)."""
        gaps = (descriptors[:, self.layer] @ self.projection)[:, None] - self.centres  # (B, k, d)
        return (self.log_weights - gaps.square().sum(2) / 2).softmax(1)


def _float(values: ArrayLike) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
