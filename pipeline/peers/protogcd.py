"""ProtoGCD (TPAMI 2025): SimGCD with sharpened pseudo-labels and separated prototypes.

Frozen trunk as in SimGCD.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.contrast import info_nce
from pipeline.peers.self_distillation import (
    OFFICIAL,
    Network,
    Settings,
    assign,
    objective,
    soft_labels,
)
from pipeline.peers.training import (
    EQUAL,
    Batch,
    Budget,
    Kind,
    chosen,
    generators,
    train,
    training_set,
)


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
class ProtoGCD:
    """ProtoGCD on an adapter of frozen class tokens."""

    settings: Settings = field(default_factory=Settings)
    extra: Extra = Extra()
    budget: Kind | Budget = "equal"
    open_set: bool = False
    """Whether an image may fall into a base class."""

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return probabilities over the `n_classes` novel classes."""
        weights, rng = generators(seed)
        samples = training_set(data, use_base=True)
        n_base = samples.n_base_classes
        s, extra = self.settings, self.extra
        network = Network(samples.plain.shape[1], n_base + n_classes, s.hidden, weights)

        def loss(batch: Batch) -> Tensor:
            logits, z = network(batch.views)
            soft = soft_labels(logits, extra.teacher_temperature)
            targets = sharpen(soft, hard_share(batch.progress))
            contrast = info_nce(z[0], z[1], s.contrast_temperature)
            apart = separation(network.prototypes.directions(), extra.separation_temperature)
            simgcd = objective(logits, targets, z, batch.labels, contrast, s)
            return simgcd + extra.separation_weight * apart

        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        train(samples, [network], loss, budget, rng)
        with torch.no_grad():
            logits, _ = network(samples.queries)
        return assign(logits, n_base, s.student_temperature, open_set=self.open_set)
