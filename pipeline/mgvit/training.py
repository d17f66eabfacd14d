"""Training of the last block, the projector and the heads (section 3.3 of the paper).

The frozen blocks are no part of this module: a `TokenSource` hands over their output, from a cache
of views or computed on the spot.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import AnomalyNCDError
from pipeline.mgvit.checkpoints import Checkpoints, EpochLosses, restore, state_of
from pipeline.mgvit.heads import parameter_groups
from pipeline.mgvit.losses import UNLABELLED, LossTerms, total_loss
from pipeline.mgvit.network import Network
from pipeline.mgvit.ranks import Ranks
from pipeline.mgvit.self_distillation import teacher_temperature
from pipeline.progress import Progress, silent

Index = NDArray[np.int64]
_ALONE = Ranks()


@dataclass(frozen=True)
class TrainingSettings:
    """Constants of the training: section `train` of params.yaml has the defaults."""

    epochs: int
    batch: int
    seed: int
    heads: int
    lambda_: float
    mu: float
    views_summed: bool
    plc_threshold: float | None
    student_temperature: float
    teacher_temperature_start: float
    teacher_temperature_end: float
    teacher_steps: int
    teacher_hold: int
    contrast_temperature: float
    contrast_temperature_labelled: float
    lr: float
    lr_end_factor: float
    momentum: float
    weight_decay: float


class DivergenceError(AnomalyNCDError):
    """The loss or the parameters are not finite any more."""


class TokenSource(Protocol):
    """Input tokens of the trainable block for two views of each sample."""

    def pairs(
        self, samples: Index, epoch: int, rng: np.random.Generator, rows: Index
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (R, N, D) float32 and visible (R, N) bool of the rows `rows` (R,).

        The 2B rows are those of all first views of the samples, then all second ones. What is drawn
        from `rng` does not depend on `rows`. `visible` marks the keys that the class token sees;
        token 0 is the class token.
        """
        ...


@dataclass(frozen=True)
class TrainingResult:
    """The trained network, its losses, and the head with the smallest last `per_head` loss."""

    network: Network
    history: tuple[EpochLosses, ...]
    best_head: int


def learning_rate(epoch: int, settings: TrainingSettings) -> float:
    """Return the learning rate of an epoch (0-based): a cosine from lr to lr * lr_end_factor."""
    end = settings.lr * settings.lr_end_factor
    cosine = (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
    return end + (settings.lr - end) * cosine


def draw_batches(n_base: int, n_novel: int, batch: int, rng: np.random.Generator) -> list[Index]:
    """Return the batches of one epoch: n_base + n_novel draws with replacement.

    Samples are numbered base first. With a base set, base and novel are equally likely and a batch
    of only one kind is skipped (an epoch that would lose all its batches is drawn again); without
    one, the draws are uniform.
    """
    total = n_base + n_novel
    while True:
        drawn = rng.integers(n_base, total, total)
        if n_base:
            is_base = rng.random(total) < 0.5
            drawn[is_base] = rng.integers(0, n_base, int(is_base.sum()))
        batches = [drawn[start : start + batch] for start in range(0, total, batch)]
        if n_base:
            batches = [b for b in batches if (b < n_base).any() and (b >= n_base).any()]
        if batches:
            return batches


def train(
    source: TokenSource,
    network: Network,
    *,
    base_labels: Index,
    scores: NDArray[np.float32],
    n_base_classes: int,
    settings: TrainingSettings,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = _ALONE,
    progress: Progress = silent,
) -> TrainingResult:
    """Train `network` in place (section 3.3).

    Parameters
    ----------
    source
        Tokens of two views of each sample; samples are numbered with the M_l base crops first.
    base_labels
        (M_l,) int64 classes of the base crops.
    scores
        (M_u,) float32 anomaly scores of the novel crops, in [0, 1].
    autocast
        ``autocast()`` is entered around every forward pass.
    checkpoints
        Where the state goes after each epoch, and from where an interrupted training goes on: to
        the same bits as without the interruption. Rank 0 alone saves.
    ranks
        The processes that train together, this one among them.

    Returns
    -------
    The network with the losses of each epoch and the head to use.

    Raises
    ------
    ValueError
        Without novel crops.
    DivergenceError
        After the first epoch with a loss or a parameter that is not finite.
    RanksDifferError, LostRankError
        Where `ranks` are several (`pipeline.mgvit.ranks`).
    """
    n_base, n_novel = len(base_labels), len(scores)
    if n_novel == 0:
        raise ValueError("there is no sub-image to train on")
    labels, all_scores = _targets(base_labels, scores)
    network = network.to(device)
    optimizer = _optimizer(network, settings)
    rng = np.random.default_rng(settings.seed)
    history: list[EpochLosses] = []
    state = None if checkpoints is None else checkpoints.load()
    if state is not None:
        restore(state, network, optimizer, rng)
        history += state.history
    ranks.agree(_digest(network, rng, history), device)
    for epoch in range(len(history), settings.epochs):
        lr = learning_rate(epoch, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr
        terms = []
        for samples in draw_batches(n_base, n_novel, settings.batch, rng):
            rows = ranks.share(2 * len(samples))
            tokens, visible = source.pairs(samples, epoch, rng, rows)
            batch = (tokens, visible, all_scores[samples], labels[samples])
            with autocast():
                losses = _losses(
                    network,
                    *(x.to(device) for x in batch),
                    epoch=epoch,
                    n_base_classes=n_base_classes,
                    settings=settings,
                    ranks=ranks,
                )
            _step(optimizer, losses.total, network, ranks)
            terms.append(losses)
        history.append(_mean_losses(terms, epoch, lr))
        _check_finite(network, history[-1], settings)
        ranks.agree(_digest(network, rng, history), device)
        if checkpoints is not None and ranks.rank == 0:
            checkpoints.save(lambda: state_of(network, optimizer, rng, history))
        progress(epoch + 1, settings.epochs)
    return TrainingResult(network, tuple(history), int(np.argmin(history[-1].per_head)))


def _targets(base_labels: Index, scores: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return labels int64 and scores float32 of all samples, base crops (score 1) first."""
    labels = np.r_[base_labels, np.full(len(scores), UNLABELLED)]
    every_score = np.r_[np.ones(len(base_labels)), scores]
    return torch.from_numpy(labels).to(torch.int64), torch.from_numpy(every_score).float()


def _optimizer(network: Network, settings: TrainingSettings) -> torch.optim.SGD:
    modules = (network.block, network.projector, network.heads)
    groups = parameter_groups(modules, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def _step(optimizer: torch.optim.SGD, loss: Tensor, network: Network, ranks: Ranks) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    ranks.add_gradients(network.block)  # those of projector and heads are of the whole batch
    optimizer.step()


def _digest(network: Network, rng: np.random.Generator, history: list[EpochLosses]) -> bytes:
    """Return the SHA-256 of what ranks have in common."""
    found = hashlib.sha256(repr((rng.bit_generator.state, history)).encode())
    for module in (network.block, network.projector, network.heads):
        for parameter in module.parameters():
            found.update(parameter.detach().cpu().numpy().tobytes())
    return found.digest()


def _check_finite(network: Network, losses: EpochLosses, settings: TrainingSettings) -> None:
    """Raise `DivergenceError` unless losses of an epoch and the network after it are finite."""
    modules = (network.block, network.projector, network.heads)
    finite = [p.detach().isfinite().all() for module in modules for p in module.parameters()]
    if math.isfinite(losses.total) and bool(torch.stack(finite).all()):
        return
    raise DivergenceError(
        f"training diverged in epoch {losses.epoch + 1} of {settings.epochs}: its loss is "
        f"{losses.total:g} and the network is of no use; set train.lr below {settings.lr:g}"
    )


def _losses(
    network: Network,
    tokens: Tensor,
    visible: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    n_base_classes: int,
    settings: TrainingSettings,
    ranks: Ranks,
) -> LossTerms:
    token = ranks.whole(network.block(tokens, visible), 2 * len(scores))  # (2B, D)
    return total_loss(
        network.heads(token),
        network.projector(token),
        scores,
        labels,
        n_base=n_base_classes,
        teacher_temperature=teacher_temperature(
            epoch,
            warm=settings.teacher_temperature_start,
            final=settings.teacher_temperature_end,
            steps=settings.teacher_steps,
            hold=settings.teacher_hold,
        ),
        student_temperature=settings.student_temperature,
        contrast_temperature=settings.contrast_temperature,
        contrast_temperature_labelled=settings.contrast_temperature_labelled,
        lambda_=settings.lambda_,
        mu=settings.mu,
        plc_threshold=settings.plc_threshold,
        views_summed=settings.views_summed,
    )


def _mean_losses(terms: list[LossTerms], epoch: int, lr: float) -> EpochLosses:
    def mean(name: str) -> float:
        return float(torch.stack([getattr(term, name) for term in terms]).mean())

    per_head = torch.stack([term.per_head for term in terms]).mean(0)
    total = float(torch.stack([term.total.detach() for term in terms]).mean())
    return EpochLosses(
        epoch=epoch,
        lr=lr,
        total=total,
        rep=mean("rep"),
        cls_u=mean("cls"),
        reg=mean("reg"),
        rep_l=mean("rep_labelled"),
        cls_l=mean("cls_labelled"),
        per_head=tuple(float(x) for x in per_head),
    )
