"""UNO (Fini et al., ICCV 2021): one cross-entropy, Sinkhorn assignments of the other view.

Frozen trunk: MLP heads on class tokens, two views, no small crops. Without a base set the labelled
block is empty and this is SwAV with several heads.

Shapes: H heads, B samples, C_l base classes, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.mgvit.losses import UNLABELLED
from pipeline.peers.base import Assignment, Ints, PeerData
from pipeline.peers.layers import linear
from pipeline.peers.self_distillation import assign
from pipeline.peers.training import (
    Budget,
    Kind,
    Stepper,
    TrainingSet,
    chosen,
    generators,
    training_set,
    two_views,
)

EQUAL = Budget("sgd", 0.1, 512, 0, least_steps=300, lr_end_factor=0.001, weight_decay=1.5e-4)
"""300 steps of the full set (of 512 images of a larger one)."""
OFFICIAL = Budget("sgd", 0.4, 512, 500, lr_end_factor=0.001, weight_decay=1.5e-4, warm_up=10 / 500)


@dataclass(frozen=True)
class Settings:
    """Constants of the objective and the heads."""

    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_steps: int = 3
    heads: int = 4
    hidden: int = 512
    """Width of the MLPs; the authors have 2048, which takes four times as long."""
    out: int = 256
    over_clusters: int = 3
    """The second set of heads has so many times K prototypes."""
    pretraining_steps: int = 200
    pretraining_lr: float = 0.1


def sinkhorn(logits: Tensor, epsilon: float, steps: int) -> Tensor:
    """Return soft assignments of nearly equal size, without gradient.

    ``Q = exp(l / eps)``, then `steps` times: the sums over the batch become 1/K, those over the
    clusters 1/B; the result is B Q.

    Parameters
    ----------
    logits
        (..., B, K).

    Examples
    --------
    >>> sinkhorn(torch.zeros(4, 2), 0.05, 3)[0].tolist()
    [0.5, 0.5]
    """
    scaled = logits.detach() / epsilon
    q = torch.exp(scaled - scaled.amax((-2, -1), keepdim=True))
    n, k = q.shape[-2:]
    smallest = torch.finfo(q.dtype).tiny
    for _ in range(steps):
        q = q / q.sum(-2, keepdim=True).clamp_min(smallest) / k
        q = q / q.sum(-1, keepdim=True).clamp_min(smallest) / n
    return q * n


def targets(novel: Tensor, labels: Tensor, n_base: int, epsilon: float, steps: int) -> Tensor:
    """Return the targets of each view: [one-hot, 0] of labelled, [0, Sinkhorn] of other images.

    Parameters
    ----------
    novel
        (..., B, K) logits l_h.
    labels
        (B,) base classes or `UNLABELLED`.

    Returns
    -------
    (..., B, n_base + K).
    """
    unlabelled = labels == UNLABELLED
    result = novel.new_zeros((*novel.shape[:-1], n_base + novel.shape[-1]))
    result[..., unlabelled, n_base:] = sinkhorn(novel[..., unlabelled, :], epsilon, steps)
    if n_base:
        one_hot = F.one_hot(labels[~unlabelled], n_base).to(novel)
        result[..., ~unlabelled, :n_base] = one_hot
    return result


def swapped_loss(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return the mean over views of CE(target[v], softmax(logits[v'] / t)), v' != v.

    Parameters
    ----------
    logits, target
        (..., 2, B, C), both views.

    Returns
    -------
    (...), one value a head.
    """
    log_p = F.log_softmax(logits / temperature, dim=-1)
    return -(target.flip(-3) * log_p).sum(-1).mean((-2, -1))


class UnitPrototypes(nn.Module):
    """Prototypes whose rows are set to length 1 before each step."""

    def __init__(self, dim: int, n_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear(dim, n_classes, generator).weight.detach())
        self.renormalise()

    @torch.no_grad()
    def renormalise(self) -> None:
        """Set the length of each row to 1."""
        self.weight.copy_(F.normalize(self.weight, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., C) products with L2-normalised inputs (..., D)."""
        return F.normalize(x, dim=-1) @ self.weight.T


class Head(nn.Module):
    """D-hidden-out with batch norm and ReLU, then prototypes."""

    def __init__(self, dim: int, n_classes: int, s: Settings, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            linear(dim, s.hidden, generator),
            nn.BatchNorm1d(s.hidden),
            nn.ReLU(),
            linear(s.hidden, s.out, generator),
        )
        self.prototypes = UnitPrototypes(s.out, n_classes, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (..., K) of class tokens (..., D); batch norm runs over all of them."""
        flat = self.layers(tokens.flatten(0, -2))
        logits: Tensor = self.prototypes(flat)
        return logits.reshape(*tokens.shape[:-1], -1)


class Network(nn.Module):
    """Base prototypes on the token itself, and two sets of heads."""

    def __init__(
        self, dim: int, n_base: int, n_classes: int, s: Settings, generator: torch.Generator
    ) -> None:
        super().__init__()
        sizes = (n_classes, s.over_clusters * n_classes)
        self.base = UnitPrototypes(dim, n_base, generator) if n_base else None
        self.sets = nn.ModuleList(
            nn.ModuleList(Head(dim, size, s, generator) for _ in range(s.heads)) for size in sizes
        )

    def base_logits(self, tokens: Tensor) -> Tensor:
        """Return l_lab (..., C_l) of class tokens (..., D)."""
        if self.base is None:
            return tokens.new_zeros((*tokens.shape[:-1], 0))
        logits: Tensor = self.base(tokens)
        return logits

    def novel_logits(self, tokens: Tensor, which: int) -> Tensor:
        """Return l_h (H, ..., K) of one set of heads: 0, or 1 for the overclustering one."""
        heads = self.sets[which]
        assert isinstance(heads, nn.ModuleList)
        return torch.stack([head(tokens) for head in heads])

    def renormalise(self) -> None:
        """Set the length of all prototypes to 1."""
        for module in self.modules():
            if isinstance(module, UnitPrototypes):
                module.renormalise()


@dataclass(frozen=True)
class UNO:
    """UNO's heads on frozen class tokens; task-aware."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"
    open_set: bool = False
    """Whether an image may fall into a base class."""

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return probabilities of the head with the lowest swapped loss at the end."""
        weights, rng = generators(seed)
        samples = training_set(data, use_base=True)
        dim, n_base = samples.plain.shape[1], samples.n_base_classes
        network = Network(dim, n_base, n_classes, self.settings, weights)
        if n_base:
            self._pretrain(network, samples)
        best = self._train(network, samples, rng)
        network.eval()
        with torch.no_grad():
            novel = network.novel_logits(samples.queries, 0)[best]
            logits = torch.cat([network.base_logits(samples.queries), novel], -1)
        return assign(logits, n_base, self.settings.temperature, open_set=self.open_set)

    def _pretrain(self, network: Network, samples: TrainingSet) -> None:
        """Train the base prototypes on the base set alone."""
        s = self.settings
        assert network.base is not None
        step = Stepper([network.base], Budget("sgd", s.pretraining_lr, 1, 1, lr_end_factor=0.001))
        tokens, labels = samples.plain[: samples.n_base], samples.labels[: samples.n_base]
        for number in range(s.pretraining_steps):
            network.renormalise()
            logits = network.base_logits(tokens) / s.temperature
            step(F.cross_entropy(logits, labels), number / s.pretraining_steps)

    def _train(self, network: Network, samples: TrainingSet, rng: np.random.Generator) -> int:
        """Return the head with the lowest mean swapped loss over the last tenth of the steps."""
        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        step = Stepper([network], budget)
        n_steps = budget.n_steps(len(samples.plain))
        last: list[Tensor] = []
        for number in range(n_steps):
            network.renormalise()
            drawn = torch.from_numpy(_draw(samples, budget.batch, rng))
            views = two_views(samples, drawn, rng)
            losses = [self._losses(network, views, samples.labels[drawn], w) for w in (0, 1)]
            step((losses[0].mean() + losses[1].mean()) / 2, number / n_steps)
            if number >= 0.9 * n_steps - 1:
                last.append(losses[0].detach())
        return int(torch.stack(last).mean(0).argmin())

    def _losses(self, network: Network, views: Tensor, labels: Tensor, which: int) -> Tensor:
        """Return the swapped loss of each head of a set, (H,)."""
        s = self.settings
        novel = network.novel_logits(views, which)  # (H, 2, B, K)
        base = network.base_logits(views)  # (2, B, C_l)
        target = targets(novel, labels, base.shape[-1], s.epsilon, s.sinkhorn_steps)
        logits = torch.cat([base.expand(len(novel), *base.shape), novel], -1)
        return swapped_loss(logits, target, s.temperature)


def _draw(samples: TrainingSet, batch: int, rng: np.random.Generator) -> Ints:
    """Return the whole set, or `batch` of it with the base set's share of all images."""
    total = len(samples.plain)
    n_base = min(round(batch * samples.n_base / total), samples.n_base)
    base = rng.permutation(samples.n_base)[:n_base]
    novel = samples.n_base + rng.permutation(total - samples.n_base)[: batch - n_base]
    return np.concatenate([base, novel])
