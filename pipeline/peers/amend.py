"""AMEND (Banerjee, Kallooriyakath, Biswas, WACV 2024): SimGCD with attraction of neighbours.

Our reading: the published code cannot run, and what it computes in part is not what the paper
describes. Frozen trunk as in SimGCD.

Shapes: A anchors (both views of a batch), N neighbours, M neighbours of each neighbour, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.peers.self_distillation import (
    Network,
    PrototypeMethod,
    objective,
    soft_labels,
    teacher_temperature,
)
from pipeline.peers.training import OFFICIAL, Batch, Budget, TrainingSet

RESTARTED = replace(OFFICIAL, cycles=200 / 30)
"""The authors' cosine starts again every 30 epochs."""


@dataclass(frozen=True)
class Extra:
    """Constants that SimGCD does not have."""

    neighbours: int = 4
    """N."""
    expanded: int = 5
    """M."""
    temperature: float = 1.0
    expanded_weight: float = 0.1
    spread_weight: float = 1.0
    """lam_R."""
    bank: int = 2048


def neighbour_loss(
    positive: Tensor, near: Tensor, far: Tensor, negative: Tensor, weight: float
) -> Tensor:
    """Return L_nb, the mean over anchors of the mean of -log s over what they should attract.

    ``s`` is a softmax over the other view, the neighbours, their neighbours and the negatives; the
    neighbours' neighbours count with `weight`.

    Parameters
    ----------
    positive, near, far, negative
        (A, 1), (A, N), (A, N M) and (A, G) cosines divided by the temperature; -inf: left out.

    Examples
    --------
    >>> none = torch.empty(1, 0)
    >>> round(float(neighbour_loss(torch.ones(1, 1), none, none, torch.ones(1, 1), 0.1)), 4)
    0.6931
    """
    everything = torch.cat([positive, near, far, negative], 1).logsumexp(1, keepdim=True)
    attracted = (positive - everything).sum(1) + (near - everything).sum(1)
    attracted = attracted + weight * (far - everything).sum(1)
    return -(attracted / (1 + near.shape[1] + weight * far.shape[1])).mean()


def prototype_spread(directions: Tensor) -> Tensor:
    """Return R = (1/C) sum_{a<b} w_a.w_b of unit vectors (C, D).

    The code's further terms, the mean squared distance minus each squared distance, sum to 0.
    """
    n = len(directions)
    return (directions.sum(0).square().sum() - n) / (2 * n)


def nearest(similarity: Tensor, excluded: Tensor, count: int) -> Tensor:
    """Return the `count` most similar entries of each row (A, F), those `excluded` left out."""
    allowed = similarity.masked_fill(excluded, float("-inf"))
    return allowed.topk(min(count, similarity.shape[1]), dim=1).indices


class Bank:
    """F: embeddings of first views and whose they are, the oldest overwritten."""

    def __init__(self, z: Tensor) -> None:
        self.z = z
        self.owners = torch.arange(len(z))
        self.next = 0

    def neighbours(self, z: Tensor, samples: Tensor, extra: Extra) -> tuple[Tensor, Tensor]:
        """Return N_i and E_i of embeddings (A, E) of `samples` (A,), as rows of the bank.

        Entries of the image itself are no neighbours of it, and no entry is its own neighbour.
        """
        own = samples[:, None] == self.owners[None]
        near = nearest(z.detach() @ self.z.T, own, extra.neighbours)  # (A, N)
        unit = torch.eye(len(self.z), dtype=torch.bool)
        around = nearest(self.z @ self.z.T, unit, extra.expanded)  # (F, M)
        return near, around[near].flatten(1)

    def add(self, z: Tensor, samples: Tensor) -> None:
        """Overwrite the oldest entries by first views (B, E)."""
        rows = (self.next + torch.arange(len(z))) % len(self.z)
        self.z = self.z.clone()  # the present step still needs the former
        self.z[rows] = z.detach()
        self.owners[rows] = samples
        self.next = int(rows[-1] + 1) % len(self.z)


def batch_neighbour_loss(z: Tensor, samples: Tensor, bank: Bank, extra: Extra) -> Tensor:
    """Return L_nb of a batch: both views are anchors, other images of the batch the negatives.

    Parameters
    ----------
    z
        (2, B, E) embeddings.
    samples
        (B,) whose they are; an image that was drawn twice is no negative of itself.
    """
    flat, owner = z.flatten(0, 1), samples.repeat(2)
    similarity = flat @ flat.T / extra.temperature
    same = owner[:, None] == owner[None]
    negative = similarity.masked_fill(same, float("-inf"))
    positive = (z[0] * z[1]).sum(-1).repeat(2)[:, None] / extra.temperature
    near, far = bank.neighbours(flat, owner, extra)
    to_bank = flat @ bank.z.T / extra.temperature
    return neighbour_loss(
        positive, to_bank.gather(1, near), to_bank.gather(1, far), negative, extra.expanded_weight
    )


@dataclass(frozen=True)
class AMEND(PrototypeMethod):
    """AMEND on an adapter of frozen class tokens."""

    extra: Extra = Extra()

    def official(self) -> Budget:
        """Return the authors' budget."""
        return RESTARTED

    def loss(
        self, network: Network, samples: TrainingSet, generator: torch.Generator
    ) -> Callable[[Batch], Tensor]:
        """Return the loss of a batch; it renews a bank of embeddings."""
        s, extra = self.settings, self.extra
        bank = filled_bank(network, samples, extra.bank, generator)

        def loss(batch: Batch) -> Tensor:
            logits, z = network(batch.views)
            targets = soft_labels(logits, teacher_temperature(batch.progress, s))
            contrast = batch_neighbour_loss(z, batch.samples, bank, extra)
            bank.add(z[0], batch.samples)
            spread = prototype_spread(network.prototypes.directions())
            simgcd = objective(logits, targets, z, batch.labels, contrast, s)
            return simgcd + extra.spread_weight * spread

        return loss


def filled_bank(
    network: Network, samples: TrainingSet, size: int, generator: torch.Generator
) -> Bank:
    """Return the bank of min(`size`, all) images, filled by one pass."""
    rows = torch.randperm(len(samples.plain), generator=generator)[:size]
    with torch.no_grad():
        bank = Bank(network(samples.views[0, rows])[1])
    bank.owners = rows
    return bank
