"""Training of small modules on cached class tokens: budget, batches, views, steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import AnomalyNCDError
from pipeline.mgvit.losses import UNLABELLED
from pipeline.mgvit.training import draw_batches
from pipeline.peers.base import Floats, Ints, PeerData

Kind = Literal["equal", "official"]


class PeerError(AnomalyNCDError):
    """A method lacks an input, or its training diverged."""


@dataclass(frozen=True)
class Budget:
    """How long and with what steps a method trains."""

    optimizer: Literal["sgd", "adam", "adamw"]
    lr: float
    batch: int
    epochs: int
    least_steps: int = 0
    """Epochs are added until there are so many steps: those of the authors' larger set."""
    lr_end_factor: float = 1.0
    """The learning rate goes from lr to lr * lr_end_factor in a cosine; 1: constant."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    warm_up: float = 0.0
    """Share of the epochs in which the learning rate rises linearly from 0."""
    cycles: float = 1.0
    """How often the cosine starts again."""

    def n_epochs(self, n_samples: int) -> int:
        """Return the number of epochs for a set of `n_samples`.

        Examples
        --------
        >>> Budget("sgd", 0.003, 32, 50).n_epochs(100)
        50
        >>> Budget("sgd", 0.003, 32, 50, least_steps=1000).n_epochs(100)
        250
        """
        return max(self.epochs, math.ceil(self.least_steps / math.ceil(n_samples / self.batch)))

    def n_steps(self, n_samples: int) -> int:
        """Return the number of steps for a set of `n_samples`.

        Examples
        --------
        >>> Budget("adam", 0.001, 1000, 100).n_steps(1200)
        200
        """
        return max(self.epochs * math.ceil(n_samples / self.batch), self.least_steps)

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate at `progress` in [0, 1)."""
        if progress < self.warm_up:
            return self.lr * progress / self.warm_up
        progress = (progress - self.warm_up) / (1 - self.warm_up)
        progress = progress * self.cycles % 1.0
        end = self.lr * self.lr_end_factor
        return end + (self.lr - end) * (1 + math.cos(math.pi * progress)) / 2


EQUAL = Budget("sgd", 0.003, 32, 50, lr_end_factor=0.001, weight_decay=5e-5)
"""AnomalyNCD's own budget."""
OFFICIAL = Budget("sgd", 0.1, 128, 200, least_steps=9400, lr_end_factor=0.001, weight_decay=5e-5)
"""That of GCD and its successors: 200 epochs of CUB's 5,994 images."""


def chosen(budget: Kind | Budget, *, equal: Budget, official: Budget) -> Budget:
    """Return the budget of a method by its name, or `budget` itself."""
    if isinstance(budget, Budget):
        return budget
    return equal if budget == "equal" else official


@dataclass(frozen=True)
class TrainingSet:
    """Tokens of views of the base set, then of the queries."""

    plain: Tensor
    """(M + N, D)."""
    views: Tensor
    """(V, M + N, D)."""
    labels: Tensor
    """(M + N,) base classes, `UNLABELLED` for queries."""
    n_base: int
    """M."""

    @property
    def n_base_classes(self) -> int:
        """C_l."""
        return int(self.labels.max()) + 1 if self.n_base else 0

    @property
    def queries(self) -> Tensor:
        """(N, D) plain views of the queries."""
        return self.plain[self.n_base :]


@dataclass(frozen=True)
class Batch:
    """Samples of one step."""

    samples: Tensor
    """(B,) numbers, base set first."""
    views: Tensor
    """(2, B, D) tokens of two views."""
    labels: Tensor
    """(B,)."""
    progress: float
    """Share of the epochs that are over, in [0, 1)."""


def training_set(data: PeerData, *, use_base: bool) -> TrainingSet:
    """Return the training set of a method, without the base set where it is missing or unused.

    Raises
    ------
    PeerError
        Without tokens of augmented views.
    """
    parts = [(data.class_tokens, _views(data.view_tokens, "view_tokens"))]
    labels = np.full(len(data.class_tokens), UNLABELLED)
    n_base = 0
    if use_base and data.base_tokens is not None and len(data.base_tokens):
        if data.base_labels is None:
            raise PeerError("base_tokens need base_labels: give both, or neither")
        parts.insert(0, (data.base_tokens, _views(data.base_view_tokens, "base_view_tokens")))
        labels = np.r_[data.base_labels, labels]
        n_base = len(data.base_tokens)
    n_views = min(len(views) for _, views in parts)
    return TrainingSet(
        torch.from_numpy(np.concatenate([plain for plain, _ in parts])).float(),
        torch.from_numpy(np.concatenate([views[:n_views] for _, views in parts], axis=1)).float(),
        torch.from_numpy(labels).to(torch.int64),
        n_base,
    )


def standardised(data: TrainingSet) -> TrainingSet:
    """Return the tokens with mean 0 and deviation 1 in each dimension over the plain queries."""
    mean = data.queries.mean(0)
    deviation = data.queries.std(0, correction=0).clamp_min(1e-6)
    return replace(
        data, plain=(data.plain - mean) / deviation, views=(data.views - mean) / deviation
    )


def _views(tokens: Floats | None, name: str) -> Floats:
    if tokens is None or len(tokens) == 0:
        raise PeerError(f"{name} are missing: this method trains on views; set views.count to 2")
    return tokens


def two_views(data: TrainingSet, samples: Tensor, rng: np.random.Generator) -> Tensor:
    """Return tokens (2, B, D) of two different views a sample; of one view only, it and plain."""
    n_views = len(data.views)
    if n_views == 1:
        return torch.stack([data.plain[samples], data.views[0, samples]])
    first = rng.integers(0, n_views, len(samples))
    second = (first + rng.integers(1, n_views, len(samples))) % n_views
    return data.views[torch.from_numpy(np.stack([first, second])), samples]


def batches(data: TrainingSet, budget: Budget, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield the batches of all epochs."""
    n_novel = len(data.plain) - data.n_base
    n_epochs = budget.n_epochs(len(data.plain))
    for epoch in range(n_epochs):
        for drawn in draw_batches(data.n_base, n_novel, budget.batch, rng):
            samples = torch.from_numpy(drawn)
            views = two_views(data, samples, rng)
            yield Batch(samples, views, data.labels[samples], epoch / n_epochs)


def draws(budget: Budget, n: int, rng: np.random.Generator) -> Iterator[tuple[Ints, float]]:
    """Yield for each step of a budget some of n images, without replacement, and its progress."""
    n_steps = budget.n_steps(n)
    for number in range(n_steps):
        yield rng.permutation(n)[: budget.batch], number / n_steps


class Stepper:
    """The optimizer of some modules under a budget; it stops where a loss is not finite."""

    def __init__(self, modules: Iterable[nn.Module], budget: Budget) -> None:
        self.budget = budget
        every = [p for module in modules for p in module.parameters()]
        groups = [
            {"params": [p for p in every if p.ndim > 1], "weight_decay": budget.weight_decay},
            {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = _optimizer([group for group in groups if group["params"]], budget)

    def __call__(self, loss: Tensor, progress: float) -> float:
        """Take one step and return the loss.

        Raises
        ------
        PeerError
            For a loss that is not finite.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise PeerError(f"training diverged: the loss is {value}; lower its learning rate")
        for group in self.optimizer.param_groups:
            group["lr"] = self.budget.learning_rate(progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value


def _optimizer(groups: list[dict[str, object]], budget: Budget) -> torch.optim.Optimizer:
    if budget.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=budget.lr, momentum=budget.momentum, fused=True)
    if budget.optimizer == "adam":
        return torch.optim.Adam(groups, lr=budget.lr, fused=True)
    return torch.optim.AdamW(groups, lr=budget.lr, fused=True)


def train(
    data: TrainingSet,
    modules: Iterable[nn.Module],
    loss: Callable[[Batch], Tensor],
    budget: Budget,
    rng: np.random.Generator,
) -> None:
    """Minimise `loss` over the batches of the budget."""
    step = Stepper(modules, budget)
    for batch in batches(data, budget, rng):
        step(loss(batch), batch.progress)


def generators(seed: int) -> tuple[torch.Generator, np.random.Generator]:
    """Return the sources of initial weights and of draws."""
    return torch.Generator().manual_seed(seed), np.random.default_rng(seed)
