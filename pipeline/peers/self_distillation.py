"""The objective that SimGCD, AMEND and ProtoGCD share: prototypes trained by self-distillation.

From SimGCD (Wen, Zhao, Qi, ICCV 2023). Frozen trunk: an adapter on the class token takes the place
of the last block.

Shapes: B samples, C = C_l + C_u classes, the base classes first, E width of the embedding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.mgvit.heads import Projector
from pipeline.mgvit.losses import UNLABELLED
from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.contrast import labelled_contrast
from pipeline.peers.layers import Adapter, Prototypes
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
    """Constants of the objective."""

    lambda_: float = 0.35
    epsilon: float = 2.0
    """Weight of the mean-entropy term."""
    student_temperature: float = 0.1
    teacher_start: float = 0.07
    teacher_end: float = 0.04
    teacher_share: float = 0.15
    """Share of the epochs in which the teacher's temperature falls: 30 of 200."""
    contrast_temperature: float = 1.0
    contrast_temperature_labelled: float = 0.07
    hidden: int = 2048
    """Width of the projector."""


class Network(nn.Module):
    """Adapter, projector, prototypes."""

    def __init__(self, dim: int, n_classes: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.adapter = Adapter(dim, generator)
        self.projector = Projector(dim, hidden=hidden, generator=generator)
        self.prototypes = Prototypes(dim, n_classes, generator)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines (..., C) and embeddings (..., E) of class tokens (..., D)."""
        adapted = self.adapter(tokens)
        return self.prototypes(adapted), self.projector(adapted)


def teacher_temperature(progress: float, settings: Settings) -> float:
    """Return tau_t: linear from its start to its end over the first epochs, then constant."""
    share = min(progress / settings.teacher_share, 1.0) if settings.teacher_share else 1.0
    return settings.teacher_start + share * (settings.teacher_end - settings.teacher_start)


def soft_labels(logits: Tensor, temperature: float) -> Tensor:
    """Return q = softmax(logits / tau_t) without gradient."""
    return torch.softmax(logits.detach() / temperature, dim=-1)


def self_distillation(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return L_u = 1/2 [CE(q[1], p[2]) + CE(q[2], p[1])].

    Parameters
    ----------
    logits, targets
        (2, B, C) of both views: all images and all classes.
    """
    log_p = F.log_softmax(logits / temperature, dim=-1)
    return -(targets.flip(0) * log_p).sum(-1).mean()


def mean_entropy(logits: Tensor, temperature: float) -> Tensor:
    """Return L_me = log C - H(mean of p over all images and both views (2, B, C))."""
    mean = torch.softmax(logits / temperature, dim=-1).flatten(0, -2).mean(0)
    return math.log(len(mean)) + (mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def labelled_cross_entropy(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return CE(label, p) over both views (2, B, C) of the labelled samples; 0 without any."""
    labelled = labels != UNLABELLED
    if not bool(labelled.any()):
        return logits.sum() * 0.0
    rows = logits[:, labelled].flatten(0, 1) / temperature
    return F.cross_entropy(rows, labels[labelled].repeat(2))


def objective(
    logits: Tensor,
    targets: Tensor,
    z: Tensor,
    labels: Tensor,
    unlabelled_contrast: Tensor,
    settings: Settings,
) -> Tensor:
    """Return L = (1 - lam)(L_u + eps L_me + contrast) + lam (CE + SupCon).

    Parameters
    ----------
    logits, targets
        (2, B, C) cosines and pseudo-labels of both views.
    z
        (2, B, E) embeddings.
    labels
        (B,) base classes or `UNLABELLED`.
    unlabelled_contrast
        InfoNCE, or what AMEND has instead.
    """
    s = settings
    unlabelled = (
        self_distillation(logits, targets, s.student_temperature)
        + s.epsilon * mean_entropy(logits, s.student_temperature)
        + unlabelled_contrast
    )
    labelled = labelled_cross_entropy(logits, labels, s.student_temperature) + labelled_contrast(
        z, labels, s.contrast_temperature_labelled
    )
    return (1 - s.lambda_) * unlabelled + s.lambda_ * labelled


def assign(
    logits: Tensor, n_base_classes: int, temperature: float, *, open_set: bool
) -> Assignment:
    """Return the assignment among the novel classes, from cosines (N, C) of plain views.

    With `open_set` base classes take part, numbered after the novel ones.
    """
    logits = logits.roll(-n_base_classes, -1)
    if not open_set:
        logits = logits[:, : logits.shape[1] - n_base_classes]
    p = torch.softmax(logits / temperature, dim=-1).numpy()
    return Assignment(p.argmax(1).astype(np.int64), p.astype(np.float32))


@dataclass(frozen=True)
class PrototypeMethod(ABC):
    """Prototypes and an adapter of frozen class tokens, trained by the loss of a subclass."""

    settings: Settings = field(default_factory=Settings)
    budget: Kind | Budget = "equal"
    open_set: bool = False
    """Whether an image may fall into a base class."""

    @abstractmethod
    def loss(
        self, network: Network, samples: TrainingSet, generator: torch.Generator
    ) -> Callable[[Batch], Tensor]:
        """Return the loss of a batch."""

    def official(self) -> Budget:
        """Return the authors' budget."""
        return OFFICIAL

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return probabilities over the `n_classes` novel classes."""
        weights, rng = generators(seed)
        samples = training_set(data, use_base=True)
        n_base, s = samples.n_base_classes, self.settings
        network = Network(samples.plain.shape[1], n_base + n_classes, s.hidden, weights)
        budget = chosen(self.budget, equal=EQUAL, official=self.official())
        train(samples, [network], self.loss(network, samples, weights), budget, rng)
        with torch.no_grad():
            logits, _ = network(samples.queries)
        return assign(logits, n_base, s.student_temperature, open_set=self.open_set)
