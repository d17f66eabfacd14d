"""TURTLE (ICML 2024): the labelling that a linear classifier learns best.

Made for frozen features: plain class tokens, as they are.

Shapes: N images, D width, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.layers import linear
from pipeline.peers.training import Budget, Kind, Stepper, chosen

BUDGET = Budget("adam", 1e-3, 10_000, 0, least_steps=6000)
"""The authors' own constants, which are affordable."""


@dataclass(frozen=True)
class Settings:
    """Constants of the inner classifier and of the objective."""

    gamma: float = 10.0
    inner_steps: int = 10
    inner_lr: float = 1e-3


def inner_gradient(weight: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of CE(softmax(x W), labels) by W: x^T (p - labels) / N, (D, K)."""
    error = torch.softmax(x @ weight, -1) - labels
    return x.T @ error / len(x)


def fit_classifier(weight: Tensor, x: Tensor, labels: Tensor, *, steps: int, lr: float) -> Tensor:
    """Return W (D, K) after `steps` steps of Adam on fixed soft labels (N, K).

    Written out because 60,000 such steps are taken: the gradient has a closed form.
    """
    weight, mean, square = weight.clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    for number in range(1, steps + 1):
        gradient = inner_gradient(weight, x, labels)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        deviation = (square / (1 - 0.999**number)).sqrt() + 1e-8
        weight = weight - lr * mean / (1 - 0.9**number) / deviation
    return weight


def outer_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Return CE(classifier, labels) - gamma H(mean label); the classifier has no gradient.

    Parameters
    ----------
    logits
        (N, K) of the inner classifier.
    labels
        (N, K) of the task encoder.
    """
    error = -(labels * F.log_softmax(logits.detach(), -1)).sum(-1).mean()
    spread: Tensor = torch.special.entr(labels.mean(0)).sum()
    return error - gamma * spread


class TaskEncoder(nn.Module):
    """A linear layer with weight normalisation and softmax; it proposes the labels."""

    def __init__(self, dim: int, n_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        layer = linear(dim, n_classes, generator)
        self.direction = nn.Parameter(layer.weight.detach())
        self.gain = nn.Parameter(layer.weight.detach().norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return soft labels (N, K) of features (N, D)."""
        weight = self.gain * F.normalize(self.direction, dim=1)
        return torch.softmax(x @ weight.T + self.bias, -1)


@dataclass(frozen=True)
class TURTLE:
    """TURTLE on frozen class tokens, with a fresh classifier in each step."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return the labels of the task encoder after the last step."""
        s = self.settings
        weights = torch.Generator().manual_seed(seed)
        x = torch.tensor(data.class_tokens, dtype=torch.float32)
        n, dim = x.shape
        encoder = TaskEncoder(dim, n_classes, weights)
        with_bias = torch.cat([x, torch.ones(n, 1)], 1)
        budget = chosen(self.budget, equal=BUDGET, official=BUDGET)
        step = Stepper([encoder], budget)
        n_steps = budget.n_steps(n)
        bound = dim**-0.5
        for number in range(n_steps):
            drawn = slice(None) if n <= budget.batch else _draw(n, budget.batch, weights)
            labels = encoder(x[drawn])
            start = torch.empty(dim + 1, n_classes).uniform_(-bound, bound, generator=weights)
            inputs = with_bias[drawn]
            fitted = fit_classifier(
                start, inputs, labels.detach(), steps=s.inner_steps, lr=s.inner_lr
            )
            step(outer_loss(inputs @ fitted, labels, s.gamma), number / n_steps)
        with torch.no_grad():
            p = encoder(x).numpy()
        return Assignment(p.argmax(1).astype(np.int64), p)


def _draw(n: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator)[:batch]
