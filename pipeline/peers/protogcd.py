"""ProtoGCD (TPAMI 2025): SimGCD with sharpened pseudo-labels and separated prototypes.

Frozen trunk as in SimGCD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.contrastive import info_nce
from pipeline.peers.self_distillation import Network, PrototypeMethod, objective, soft_labels
from pipeline.peers.training import Batch, TrainingSet


@dataclass(frozen=True)
class Extra:
    """Constants that SimGCD does not have."""

    teacher_temperature: float = 0.05
    separation_weight: float = 0.1
    separation_temperature: float = 0.1


def hard_share(progress: float) -> float:
    """Return r, the share of pseudo-labels made one-hot: 0 to 1 over the first half."""
    return min(2 * progress, 1.0)


def sharpen(targets: Tensor, share: float) -> Tensor:
    """Return pseudo-labels (2, B, C), the most confident `share` of each view one-hot.

    Confidence is the ratio of the two largest probabilities.
    """
    n = targets.shape[1]
    count = int(n * share)
    if count == 0 or targets.shape[-1] < 2:
        return targets
    top = targets.topk(2, dim=-1).values
    rank = (top[..., 0] / (top[..., 1] + 1e-6)).argsort(dim=1, descending=True, stable=True)
    hard = torch.zeros(targets.shape[:2], dtype=torch.bool)
    hard.scatter_(1, rank[:, :count], True)
    one_hot = F.one_hot(targets.argmax(-1), targets.shape[-1]).to(targets)
    return torch.where(hard[..., None], one_hot, targets)


def separation(directions: Tensor, temperature: float) -> Tensor:
    """Return mean_c log mean_{c' != c} exp(w_c.w_c' / t) of unit vectors (C, D); 0 of only one."""
    n = len(directions)
    if n == 1:
        return directions.sum() * 0.0
    itself = torch.eye(n, dtype=torch.bool)
    logits = (directions @ directions.T / temperature).masked_fill(itself, float("-inf"))
    return (logits.logsumexp(1) - torch.log(torch.tensor(n - 1.0))).mean()


@dataclass(frozen=True)
class ProtoGCD(PrototypeMethod):
    """ProtoGCD on an adapter of frozen class tokens."""

    extra: Extra = Extra()

    def loss(
        self, network: Network, samples: TrainingSet, generator: torch.Generator
    ) -> Callable[[Batch], Tensor]:
        """Return the loss of a batch."""
        del samples, generator
        s, extra = self.settings, self.extra

        def loss(batch: Batch) -> Tensor:
            logits, z = network(batch.views)
            soft = soft_labels(logits, extra.teacher_temperature)
            targets = sharpen(soft, hard_share(batch.progress))
            contrast = info_nce(z[0], z[1], s.contrast_temperature)
            apart = separation(network.prototypes.directions(), extra.separation_temperature)
            simgcd = objective(logits, targets, z, batch.labels, contrast, s)
            return simgcd + extra.separation_weight * apart

        return loss
