"""GCD (Vaze, Han, Vedaldi, Zisserman, CVPR 2022): contrastive training, then clamped k-means.

Frozen trunk: an adapter on the class token takes the place of the last block, and the contrast is
on its 256-d projection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.mgvit.heads import Projector
from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.contrast import both_contrasts
from pipeline.peers.gcd_kmeans import SemiSupervisedKMeans
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


@dataclass(frozen=True)
class Settings:
    """Constants of training and clustering."""

    lambda_: float = 0.35
    temperature: float = 1.0
    temperature_labelled: float = 0.07
    hidden: int = 2048
    """Width of the projector."""
    restarts: int = 10


def objective(z: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    """Return L = (1 - lam) InfoNCE(z[1], z[2]; all images) + lam SupCon(z; D_l).

    Parameters
    ----------
    z
        (2, B, E) embeddings of both views.
    labels
        (B,) base classes or `UNLABELLED`.
    """
    return both_contrasts(
        z,
        z,
        labels,
        lambda_=settings.lambda_,
        temperature=settings.temperature,
        temperature_labelled=settings.temperature_labelled,
    )


@dataclass(frozen=True)
class GCD:
    """GCD on an adapter of frozen class tokens."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"
    open_set: bool = False
    """Whether an image may fall into a base class."""

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard labels; k-means runs on the adapted, L2-normalised tokens of plain views."""
        samples = training_set(data, use_base=True)
        adapter = self._train(samples, seed)
        with torch.no_grad():
            tokens = adapter(samples.plain).numpy()
        base = tokens[: samples.n_base] if samples.n_base else None
        adapted = replace(data, class_tokens=tokens[samples.n_base :], base_tokens=base)
        kmeans = SemiSupervisedKMeans(self.settings.restarts, self.open_set)
        return kmeans(adapted, n_classes, seed)

    def _train(self, samples: TrainingSet, seed: int) -> Adapter:
        weights, rng = generators(seed)
        dim = samples.plain.shape[1]
        adapter = Adapter(dim, weights)
        projector = Projector(dim, hidden=self.settings.hidden, generator=weights)

        def loss(batch: Batch) -> Tensor:
            return objective(projector(adapter(batch.views)), batch.labels, self.settings)

        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        train(samples, [adapter, projector], loss, budget, rng)
        return adapter
