"""The trainable part of the mask-guided ViT: last block, projector and heads."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.mgvit.heads import MultiHead, Projector


@dataclass(frozen=True)
class Network:
    """What learns. `block` maps tokens (B, N, D) and visible (B, N) to class tokens (B, D)."""

    block: nn.Module
    projector: Projector
    heads: MultiHead

    def to(self, device: torch.device) -> Network:
        """Move all three to a device."""
        return Network(self.block.to(device), self.projector.to(device), self.heads.to(device))


def new_network(block: nn.Module, dim: int, n_classes: int, *, heads: int, seed: int) -> Network:
    """Return a network around a copy of `block` (left as it is), drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    projector = Projector(dim, generator=generator)
    multi = MultiHead(dim, n_classes, heads=heads, generator=generator)
    return Network(copy.deepcopy(block), projector, multi)
