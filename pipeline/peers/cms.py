"""CMS (CVPR 2024): contrastive learning on mean-shifted embeddings, then Ward.

Frozen trunk: an adapter on the class token takes the place of the last block. `MeanShiftWard` is
the clustering alone, on frozen class tokens.

Shapes: B samples, E width of the embedding, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.heads import Projector
from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.contrast import both_contrasts
from pipeline.peers.layers import Adapter
from pipeline.peers.training import (
    EQUAL,
    OFFICIAL,
    Batch,
    Budget,
    Kind,
    TrainingSet,
    chosen,
    generators,
    train,
    training_set,
)

LOWER = replace(OFFICIAL, lr=0.01)
"""The authors' learning rate, a tenth of that of GCD."""


@dataclass(frozen=True)
class Settings:
    """Constants of mean shift and training."""

    alpha: float = 0.5
    neighbours: int = 8
    """k."""
    lambda_: float = 0.35
    temperature: float = 0.5
    temperature_labelled: float = 0.07
    hidden: int = 2048
    """Width of the projector."""


def mean_shift(z: Tensor, bank: Tensor, alpha: float, k: int) -> Tensor:
    """Return v = normalise((1 - a) z + a mean of the k nearest), the most similar left out.

    Parameters
    ----------
    z
        (B, E) unit vectors whose own entries are in the bank.
    bank
        (F, E) unit vectors, without gradient. With k or fewer of them, all but one are neighbours.
    """
    k = min(k, len(bank) - 1)
    if k < 1:
        return z
    near = (z.detach() @ bank.T).topk(k + 1, dim=1).indices[:, 1:]
    return F.normalize((1 - alpha) * z + alpha * bank[near].mean(1), dim=-1)


def objective(shifted: Tensor, z: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    """Return (1 - lam) InfoNCE(v[1], v[2]) + lam SupCon(z; D_l).

    Parameters
    ----------
    shifted, z
        (2, B, E) embeddings of both views, shifted and as they are.
    labels
        (B,) base classes or `UNLABELLED`.
    """
    return both_contrasts(
        shifted,
        z,
        labels,
        lambda_=settings.lambda_,
        temperature=settings.temperature,
        temperature_labelled=settings.temperature_labelled,
    )


def shift_and_link(z: Tensor, n_classes: int, settings: Settings) -> Assignment:
    """Return Ward's clusters after one step of mean shift of unit vectors (N, E)."""
    shifted = mean_shift(z, z, settings.alpha, settings.neighbours).numpy()
    labels = AgglomerativeClustering(min(n_classes, len(shifted))).fit_predict(shifted)
    return Assignment(np.asarray(labels, np.int64), None)


@dataclass(frozen=True)
class MeanShiftWard:
    """One step of mean shift and Ward on frozen class tokens; nothing trains."""

    settings: Settings = Settings()

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard labels; the seed changes nothing."""
        z = F.normalize(torch.tensor(data.class_tokens, dtype=torch.float32), dim=-1)
        return shift_and_link(z, n_classes, self.settings)


@dataclass(frozen=True)
class CMS:
    """CMS on an adapter of frozen class tokens; base images take no part in Ward."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard labels among the `n_classes` novel clusters."""
        weights, rng = generators(seed)
        samples = training_set(data, use_base=True)
        dim = samples.plain.shape[1]
        adapter = Adapter(dim, weights)
        projector = Projector(dim, hidden=self.settings.hidden, generator=weights)
        encoder = torch.nn.Sequential(adapter, projector)
        loss = _Loss(encoder, samples, self.settings)
        budget = chosen(self.budget, equal=EQUAL, official=LOWER)
        train(samples, [encoder], loss, budget, rng)
        with torch.no_grad():
            return shift_and_link(encoder(samples.queries), n_classes, self.settings)


class _Loss:
    """The objective with a bank of all images that is renewed once an epoch."""

    def __init__(self, encoder: torch.nn.Module, samples: TrainingSet, settings: Settings) -> None:
        self.encoder, self.samples, self.settings = encoder, samples, settings
        self.epoch, self.bank = -1.0, torch.empty(0)

    def __call__(self, batch: Batch) -> Tensor:
        if batch.progress != self.epoch:
            self.epoch = batch.progress
            with torch.no_grad():
                self.bank = self.encoder(self.samples.plain)
        s = self.settings
        z = self.encoder(batch.views)
        shifted = mean_shift(z.flatten(0, 1), self.bank, s.alpha, s.neighbours).view_as(z)
        return objective(shifted, z, batch.labels, s)
