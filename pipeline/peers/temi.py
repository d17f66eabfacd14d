"""TEMI (BMVC 2023): weighted pointwise mutual information of neighbours, student and teacher.

Made for frozen features: plain class tokens alone, standardised.

Shapes: H heads, B pairs, K clusters.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.peers.base import Assignment, Floats, PeerData
from pipeline.peers.layers import LinearHeads
from pipeline.peers.neighbours import cosine_neighbours, n_neighbours
from pipeline.peers.training import Budget, Kind, Stepper, chosen, draws, generators

EQUAL = Budget("adamw", 1e-3, 512, 0, least_steps=500, weight_decay=1e-4)
"""500 steps with ten times the authors' learning rate."""
OFFICIAL = Budget("adamw", 1e-4, 512, 100, least_steps=10_000, weight_decay=1e-4)
"""100 epochs of CIFAR's 50,000 images."""


@dataclass(frozen=True)
class Settings:
    """Constants of the objective and the heads."""

    beta: float = 0.6
    temperature: float = 0.1
    heads: int = 16
    hidden: int = 512
    most_neighbours: int = 50
    prior_momentum: float = 0.9
    teacher_momentum: float = 0.996


def pointwise(student: Tensor, teacher: Tensor, prior: Tensor, beta: float) -> Tensor:
    """Return l = -log sum_k (p_s,k p_t,k)^beta / pk_k of each pair.

    Parameters
    ----------
    student, teacher
        (H, B, K) probabilities of an image and its neighbour.
    prior
        (H, K) running mean of the teacher.

    Returns
    -------
    (H, B).
    """
    product = (student * teacher.detach()).clamp_min(torch.finfo(student.dtype).tiny)
    return -(product**beta / prior[:, None]).sum(-1).log()


def pair_weights(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean over heads of <p_t,i, p_t,j>, (B,), from the teachers' (H, B, K)."""
    return (first * second).sum(-1).mean(0).detach()


def temi_loss(student: Tensor, teacher: Tensor, prior: Tensor, beta: float) -> Tensor:
    """Return the loss of each head: student and teacher (2, H, B, K), each sees the other image."""
    weight = pair_weights(teacher[0], teacher[1])
    directions = [pointwise(student[v], teacher[1 - v], prior, beta) for v in (0, 1)]
    return (weight * torch.stack(directions)).mean((0, 2))


class Heads(nn.Module):
    """H heads D-hidden-K with GELU."""

    def __init__(self, dim: int, n_classes: int, s: Settings, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = LinearHeads(dim, s.hidden, s.heads, generator)
        self.outer = LinearHeads(s.hidden, n_classes, s.heads, generator)
        self.temperature = s.temperature

    def forward(self, x: Tensor) -> Tensor:
        """Return probabilities (H, B, K) of features (B, D)."""
        return torch.softmax(self.outer(F.gelu(self.inner(x))) / self.temperature, -1)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's weights towards the student's."""
    for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
        theirs.lerp_(ours, 1 - momentum)


@dataclass(frozen=True)
class TEMI:
    """TEMI's heads on frozen class tokens."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return the teacher's probabilities of the head with the lowest own loss."""
        s = self.settings
        weights, rng = generators(seed)
        x = _standardised(data.class_tokens)
        n = len(x)
        near = cosine_neighbours(data.class_tokens, n_neighbours(n, n_classes, s.most_neighbours))
        student = Heads(x.shape[1], n_classes, s, weights)
        teacher = copy.deepcopy(student)
        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        step = Stepper([student], budget)
        prior = torch.full((s.heads, n_classes), 1 / n_classes)
        recent = torch.zeros(s.heads)
        for drawn, progress in draws(budget, n, rng):
            other = near[drawn, rng.integers(min(1, near.shape[1] - 1), near.shape[1], len(drawn))]
            rows, pair = np.unique(np.concatenate([drawn, other]), return_inverse=True)
            shown, pairs = x[torch.from_numpy(rows)], torch.from_numpy(pair)  # each image once
            p = _two(student(shown)[:, pairs])
            with torch.no_grad():
                p_teacher = _two(teacher(shown)[:, pairs])
                new = p_teacher.mean((0, 2))
                prior = s.prior_momentum * prior + (1 - s.prior_momentum) * new
            losses = temi_loss(p, p_teacher, prior, s.beta)
            step(losses.mean(), progress)
            follow(teacher, student, s.teacher_momentum)
            recent = 0.9 * recent + 0.1 * losses.detach()
        with torch.no_grad():
            found = teacher(x)[int(recent.argmin())].numpy()
        return Assignment(found.argmax(1).astype(np.int64), found)


def _two(p: Tensor) -> Tensor:
    """Return (2, H, B, K) of (H, 2B, K)."""
    return torch.stack(p.chunk(2, dim=1))


def _standardised(tokens: Floats) -> Tensor:
    x = torch.tensor(tokens, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0, correction=0).clamp_min(1e-6)
