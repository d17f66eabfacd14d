"""SimGCD (Wen, Zhao, Qi, ICCV 2023): a prototype classifier trained by self-distillation.

Frozen trunk: an adapter on the class token takes the place of the last block.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.contrast import info_nce
from pipeline.peers.self_distillation import (
    OFFICIAL,
    Network,
    Settings,
    assign,
    objective,
    soft_labels,
    teacher_temperature,
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
class SimGCD:
    """SimGCD on an adapter of frozen class tokens."""

    settings: Settings = field(default_factory=Settings)
    budget: Kind | Budget = "equal"
    open_set: bool = False
    """Whether an image may fall into a base class."""

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return probabilities over the `n_classes` novel classes."""
        weights, rng = generators(seed)
        samples = training_set(data, use_base=True)
        n_base = samples.n_base_classes
        s = self.settings
        network = Network(samples.plain.shape[1], n_base + n_classes, s.hidden, weights)

        def loss(batch: Batch) -> Tensor:
            logits, z = network(batch.views)
            targets = soft_labels(logits, teacher_temperature(batch.progress, s))
            contrast = info_nce(z[0], z[1], s.contrast_temperature)
            return objective(logits, targets, z, batch.labels, contrast, s)

        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        train(samples, [network], loss, budget, rng)
        with torch.no_grad():
            logits, _ = network(samples.queries)
        return assign(logits, n_base, s.student_temperature, open_set=self.open_set)
