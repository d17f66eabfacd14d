"""SCAN (Van Gansbeke et al., ECCV 2020): neighbours fall into the same cluster.

Frozen trunk: linear heads on standardised class tokens; the pretext task is that of the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.peers.base import Assignment, Ints, PeerData
from pipeline.peers.layers import LinearHeads
from pipeline.peers.neighbours import cosine_neighbours, n_neighbours
from pipeline.peers.training import (
    Budget,
    Kind,
    Stepper,
    TrainingSet,
    chosen,
    draws,
    generators,
    standardised,
    training_set,
)

EQUAL = Budget("adam", 1e-3, 1000, 0, least_steps=500)
"""500 steps of the full set (of 1,000 images of a larger one)."""
OFFICIAL = Budget("sgd", 5.0, 512, 100, least_steps=2000)
"""The head-only setting of the authors, 100 epochs of 10,000 images or more."""


@dataclass(frozen=True)
class Settings:
    """Constants of the objective."""

    eta: float = 5.0
    """Weight of the entropy."""
    heads: int = 10
    most_neighbours: int = 20
    self_label: bool = False
    confidence: float = 0.99
    self_label_steps: int = 200
    self_label_lr: float = 1e-4


def consistency(anchors: Tensor, neighbours: Tensor) -> Tensor:
    """Return mean_i -log <p_i, p_j> from probabilities (..., B, K), one value a leading axis."""
    return -(anchors * neighbours).sum(-1).clamp(1e-8, 1).log().mean(-1)


def entropy(p: Tensor) -> Tensor:
    """Return H(mean_i p_i) from probabilities (..., B, K), one value a leading axis."""
    mean = p.mean(-2).clamp_min(1e-8)
    return -(mean * mean.log()).sum(-1)


def scan_loss(anchors: Tensor, neighbours: Tensor, eta: float) -> Tensor:
    """Return mean_i -log <p_i, p_j> - eta H(mean_i p_i), one value a leading axis.

    Examples
    --------
    >>> round(float(scan_loss(torch.eye(2), torch.eye(2), 5.0)), 4)
    -3.4657
    """
    return consistency(anchors, neighbours) - eta * entropy(anchors)


def confident(p: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the images with max p above the threshold, and their classes.

    Parameters
    ----------
    p
        (N, K) probabilities of weak views.
    """
    best, labels = p.max(-1)
    chosen = torch.nonzero(best > threshold).squeeze(1)
    return chosen, labels[chosen]


def self_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of strong views (n, K), classes weighted by n / n_k."""
    counts = torch.bincount(labels, minlength=logits.shape[1])
    weight = len(labels) / counts.clamp_min(1).to(logits)
    return F.cross_entropy(logits, labels, weight=weight)


@dataclass(frozen=True)
class SCAN:
    """SCAN with linear heads on frozen class tokens."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return probabilities of the head with the lowest own loss."""
        weights, rng = generators(seed)
        samples = standardised(training_set(data, use_base=False))
        n, dim = samples.plain.shape
        k = n_neighbours(n, n_classes, self.settings.most_neighbours)
        near = cosine_neighbours(data.class_tokens, k)
        heads = LinearHeads(dim, n_classes, self.settings.heads, weights)
        self._train(heads, samples, near, rng)
        best = self._best(heads, samples, near)
        notes = {}
        if self.settings.self_label:
            notes["confident"] = float(self._self_label(heads, samples, best, rng))
        with torch.no_grad():
            p = torch.softmax(heads(samples.plain)[best], -1).numpy()
        return Assignment(p.argmax(1).astype(np.int64), p, notes)

    def _train(
        self, heads: LinearHeads, samples: TrainingSet, near: Ints, rng: np.random.Generator
    ) -> None:
        n, k = near.shape
        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        step = Stepper([heads], budget)
        for drawn, progress in draws(budget, n, rng):
            other = near[drawn, rng.integers(0, k, len(drawn))]
            view = rng.integers(0, len(samples.views), len(drawn))
            p = torch.softmax(heads(samples.plain[drawn]), -1)
            p_near = torch.softmax(heads(samples.views[view, other]), -1)
            step(scan_loss(p, p_near, self.settings.eta).sum(), progress)

    def _best(self, heads: LinearHeads, samples: TrainingSet, near: Ints) -> int:
        """Return the head with the lowest consistency (all pairs) minus entropy, weight 1."""
        with torch.no_grad():
            p = torch.softmax(heads(samples.plain), -1)  # (H, N, K)
            pairs = torch.stack([consistency(p, p[:, column]) for column in near.T]).mean(0)
            return int((pairs - entropy(p)).argmin())

    def _self_label(
        self, heads: LinearHeads, samples: TrainingSet, best: int, rng: np.random.Generator
    ) -> int:
        """Train on confident images, as long as there are any; return how many there were last."""
        s = self.settings
        step = Stepper([heads], Budget("adam", s.self_label_lr, 1000, 1))
        n_chosen = 0
        for number in range(s.self_label_steps):
            with torch.no_grad():
                p = torch.softmax(heads(samples.plain)[best], -1)
            chosen, labels = confident(p, s.confidence)
            n_chosen = len(chosen)
            if n_chosen == 0:
                break
            view = rng.integers(0, len(samples.views), len(chosen))
            logits = heads(samples.views[view, chosen])[best]
            step(self_label_loss(logits, labels), number / s.self_label_steps)
        return n_chosen
