"""Classification heads and projector on the class token (AnomalyNCD appendices A and B).

Initial weights come from the generator that is passed in; the global random state is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHead(nn.Module):
    """H linear classifiers without bias on the L2-normalised class token, run as one product.

    Rows are weight-normalised with a frozen gain of 1, so a logit is a cosine. The parameter
    `weight` (H, C, D) holds the directions, initialised as torch's linear layers are. Their norm
    does not change the logits but divides the gradient: it sets the effective learning rate.

    Examples
    --------
    >>> heads = MultiHead(8, 3, heads=4, generator=torch.Generator().manual_seed(0))
    >>> heads(torch.ones(2, 8)).shape
    torch.Size([4, 2, 3])
    """

    def __init__(self, dim: int, n_classes: int, *, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        if min(dim, n_classes, heads) < 1:
            raise ValueError(
                f"dim, n_classes and heads must be positive, not {dim}, {n_classes} and {heads}"
            )
        # kaiming_uniform_(a=sqrt(5)) over a fan-in of D is U(-1/sqrt(D), 1/sqrt(D))
        bound = 1 / math.sqrt(dim)
        directions = torch.empty(heads, n_classes, dim)
        self.weight = nn.Parameter(directions.uniform_(-bound, bound, generator=generator))

    def forward(self, token: Tensor) -> Tensor:
        """Return the cosines (H, B, C) of class tokens (B, D), float32 under autocast too."""
        heads, n_classes, _ = self.weight.shape
        with torch.autocast(token.device.type, enabled=False):
            x = F.normalize(token.to(self.weight.dtype), dim=-1)
            rows = F.normalize(self.weight, dim=-1).flatten(0, 1)  # (H * C, D)
            logits = x @ rows.T  # (B, H * C)
        return logits.view(-1, heads, n_classes).transpose(0, 1)  # (H, B, C)


class Projector(nn.Module):
    """MLP from the class token to the contrastive embedding z: two hidden layers with GELU.

    Weights are drawn from a normal of standard deviation 0.02 truncated at -2 and 2, biases are 0.
    """

    def __init__(
        self, dim: int, *, hidden: int = 2048, out: int = 256, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            vit_linear(dim, hidden, generator),
            nn.GELU(),
            vit_linear(hidden, hidden, generator),
            nn.GELU(),
            vit_linear(hidden, out, generator),
        )

    def forward(self, token: Tensor) -> Tensor:
        """Return z (B, out) with rows of L2 norm 1 for un-normalised class tokens (B, D)."""
        z: Tensor = self.layers(token)
        return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1)


def vit_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def parameter_groups(modules: Iterable[nn.Module], *, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimizer groups of the trainable parameters of `modules`.

    Biases and parameters of one dimension or none (norms, scales) are not decayed. A parameter that
    several modules share is listed once; a group without parameters is left out.
    """
    decayed: dict[int, nn.Parameter] = {}
    free: dict[int, nn.Parameter] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                is_bias = name.rpartition(".")[2] == "bias"
                group = free if is_bias or parameter.ndim <= 1 else decayed
                group[id(parameter)] = parameter
    groups = [(decayed, weight_decay), (free, 0.0)]
    return [{"params": list(g.values()), "weight_decay": decay} for g, decay in groups if g]
