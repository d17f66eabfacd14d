"""SimGCD (Wen, Zhao, Qi, ICCV 2023): a prototype classifier trained by self-distillation.

Frozen trunk: an adapter on the class token takes the place of the last block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.mgvit.contrastive import info_nce
from pipeline.peers.self_distillation import (
    Network,
    PrototypeMethod,
    objective,
    soft_labels,
    teacher_temperature,
)
from pipeline.peers.training import Batch, TrainingSet


@dataclass(frozen=True)
class SimGCD(PrototypeMethod):
    """SimGCD on an adapter of frozen class tokens."""

    def loss(
        self, network: Network, samples: TrainingSet, generator: torch.Generator
    ) -> Callable[[Batch], Tensor]:
        """Return the loss of a batch."""
        del samples, generator
        s = self.settings

        def loss(batch: Batch) -> Tensor:
            logits, z = network(batch.views)
            targets = soft_labels(logits, teacher_temperature(batch.progress, s))
            contrast = info_nce(z[0], z[1], s.contrast_temperature)
            return objective(logits, targets, z, batch.labels, contrast, s)

        return loss
