"""Small trainable modules on frozen class tokens.

Initial weights come from the generator that is passed in; the global random state is not touched.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.mgvit.heads import vit_linear


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with torch's default distribution of weights and biases."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


class Adapter(nn.Module):
    """``c + W2 GELU(W1 c)``, the identity at the start: W2 and its bias begin at 0.

    It stands for the trainable part of the trunk where all blocks are frozen. Without it a
    contrastive loss on a projector could not change what is clustered.
    """

    def __init__(self, dim: int, generator: torch.Generator, *, ratio: int = 4) -> None:
        super().__init__()
        self.inner = vit_linear(dim, ratio * dim, generator)
        self.outer = nn.Linear(ratio * dim, dim, device="meta").to_empty(device="cpu")
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, token: Tensor) -> Tensor:
        """Return (..., D) for class tokens (..., D)."""
        change: Tensor = self.outer(F.gelu(self.inner(token)))
        return token + change


class Prototypes(nn.Module):
    """C directions; a logit is the cosine of token and direction."""

    def __init__(self, dim: int, n_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim)
        start = torch.empty(n_classes, dim).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(start)

    def directions(self) -> Tensor:
        """Return the C unit vectors, (C, D)."""
        return F.normalize(self.weight, dim=-1)

    def forward(self, token: Tensor) -> Tensor:
        """Return cosines (..., C) of tokens (..., D)."""
        return F.normalize(token, dim=-1) @ self.directions().T


class LinearHeads(nn.Module):
    """H linear classifiers with bias, run as one product."""

    def __init__(self, dim: int, n_classes: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        layers = [linear(dim, n_classes, generator) for _ in range(heads)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (H, B, K) of features (B, D), or of one set a head, (H, B, D)."""
        return x @ self.weight.mT + self.bias[:, None]
