"""IIC (Ji, Henriques, Vedaldi, ICCV 2019): mutual information between an image and its view.

Frozen trunk: linear heads on standardised class tokens. The overclustering head A is left out: it
could act on head B only through the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.layers import LinearHeads
from pipeline.peers.training import (
    Budget,
    Kind,
    Stepper,
    chosen,
    draws,
    generators,
    standardised,
    training_set,
)

EQUAL = Budget("adam", 1e-3, 100_000, 0, least_steps=500)
"""500 steps of the full set: the estimate of a K x K joint needs far more than K^2 images."""
OFFICIAL = Budget("adam", 1e-4, 700, 2000)


@dataclass(frozen=True)
class Settings:
    """Constants of the objective."""

    lambda_: float = 1.0
    heads: int = 5


def joint(p: Tensor, p_view: Tensor) -> Tensor:
    """Return the symmetric joint distribution P (..., K, K) of clusters of images and views.

    Parameters
    ----------
    p, p_view
        (..., B, K) probabilities of the images and of their views.
    """
    pairs = p.mT @ p_view / p.shape[-2]
    return (pairs + pairs.mT) / 2


def iic_loss(p: Tensor, p_view: Tensor, lambda_: float = 1.0) -> Tensor:
    """Return ``-sum_ab P_ab (log P_ab - lam log P_a - lam log P_b)``, one value a leading axis.

    Examples
    --------
    >>> round(float(iic_loss(torch.eye(2), torch.eye(2))), 4)
    -0.6931
    """
    both = joint(p, p_view)
    smallest = torch.finfo(both.dtype).eps
    marginal = both.sum(-1).clamp_min(smallest).log()
    log_joint = both.clamp_min(smallest).log()
    inside = log_joint - lambda_ * (marginal[..., :, None] + marginal[..., None, :])
    return -(both * inside).sum((-2, -1))


@dataclass(frozen=True)
class IIC:
    """IIC's head B on frozen class tokens."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return probabilities of the head with the lowest own loss."""
        weights, rng = generators(seed)
        samples = standardised(training_set(data, use_base=False))
        plain, views = samples.plain, samples.views
        heads = LinearHeads(plain.shape[1], n_classes, self.settings.heads, weights)
        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        step = Stepper([heads], budget)
        for drawn, progress in draws(budget, len(plain), rng):
            view = rng.integers(0, len(views), len(drawn))
            loss = self._losses(heads, plain[drawn], views[view, drawn]).mean()
            step(loss, progress)
        with torch.no_grad():
            losses = [self._losses(heads, plain, view) for view in views]
            best = int(torch.stack(losses).mean(0).argmin())
            p = torch.softmax(heads(plain)[best], -1).numpy()
        return Assignment(p.argmax(1).astype(np.int64), p)

    def _losses(self, heads: LinearHeads, plain: Tensor, view: Tensor) -> Tensor:
        p, p_view = torch.softmax(heads(torch.stack([plain, view])[:, None]), -1)
        return iic_loss(p, p_view, self.settings.lambda_)
