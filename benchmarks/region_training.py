"""Two trainings on frozen region tokens: heads that are the vote at step 0, and TEMI.

Shapes: m regions, L layers, D numbers a layer (E after `Basis`), V views, H heads, k components,
C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn

from pipeline.clustering.descriptors import l2_normalise
from pipeline.clustering.ensemble import Mixture, MixtureEnsemble
from pipeline.peers.layers import LinearHeads
from pipeline.peers.temi import follow, temi_loss

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_IMPOSSIBLE = -1e4
"""The bias of a component that a head does not have."""


@dataclass(frozen=True)
class Answers:
    """Probabilities (m, C) of the plain regions and of the mean of their views.

    `members` (n, m) are the classes by each mixture or head alone.
    """

    plain: Array
    views: Array
    members: Index


@dataclass(frozen=True)
class HeadSettings:
    """How the heads leave the vote."""

    lr: float = 0.03
    neighbours: float = 0.3
    """Share of a target that the last answers of the nearest regions make up."""
    last_vote: float = 0.2
    """The vote's exponent at the end; it falls from 1."""
    steps: int = 300


_LEAVING = 0.3  # of the steps
_SHARPNESS = 2.0
_NEAREST = 5
_OF_REGIONS = 0.5
_BANK = 0.7


def vote_answers(ensemble: MixtureEnsemble, plain: Array, views: Array) -> Answers:
    """Return the vote's answers for descriptors (m, L, D) and those of views (V, m, L, D)."""
    of_plain = ensemble.probabilities(plain)
    mean = np.mean([of_plain, *(ensemble.probabilities(view) for view in views)], axis=0)
    members, at = [], 0
    for mixture in ensemble.mixtures:
        k = len(mixture.centres)
        members.append((mixture.responsibilities(plain) @ ensemble.votes[at : at + k]).argmax(1))
        at += k
    return Answers(of_plain, mean, np.array(members))


def as_linear(mixture: Mixture) -> tuple[Array, Array]:
    """Return W (k, D) and b (k,): softmax(W y + b) are the responsibilities of a mixture.

    With one covariance for all components the quadratic term cancels: W = C P^T and b = log weights
    - |C|^2 / 2 - C P^T mean, with P = axes^T precision and the centres C measured by the precision.
    """
    precision = mixture.precision_cholesky @ mixture.precision_cholesky.T
    weight = mixture.centres @ precision @ mixture.axes
    length = np.einsum("kd,de,ke->k", mixture.centres, precision, mixture.centres)
    return weight, mixture.log_weights - length / 2 - weight @ mixture.mean


class Basis:
    """Principal components of each layer, at most 64, which the heads are trained in."""

    def __init__(self, descriptors: Array) -> None:
        d = min(64, len(descriptors) - 1, descriptors.shape[2])
        layers = range(descriptors.shape[1])
        self.parts = [PCA(d, random_state=0).fit(descriptors[:, layer]) for layer in layers]

    def __call__(self, descriptors: Array) -> Tensor:
        """Return (m, L, E) float32 of descriptors (m, L, D)."""
        columns = [part.transform(descriptors[:, i]) for i, part in enumerate(self.parts)]
        return torch.from_numpy(np.stack(columns, 1)).float()


class VoteHeads(nn.Module):
    """H linear softmaxes with the mixtures' votes behind them: the vote, until they learn."""

    votes: Tensor
    layers: Tensor

    def __init__(self, ensemble: MixtureEnsemble, basis: Basis) -> None:
        super().__init__()
        mixtures = ensemble.mixtures
        k, n_classes = max(len(m.centres) for m in mixtures), ensemble.votes.shape[1]
        dim = len(basis.parts[0].components_)
        weight = np.zeros((len(mixtures), k, dim))
        bias = np.full((len(mixtures), k), _IMPOSSIBLE)
        votes, at = np.zeros((len(mixtures), k, n_classes)), 0
        for h, mixture in enumerate(mixtures):
            part, (w, b) = basis.parts[mixture.layer], as_linear(mixture)
            weight[h, : len(w)] = w @ part.components_.T
            bias[h, : len(w)] = b + w @ part.mean_
            votes[h, : len(w)] = ensemble.votes[at : at + len(w)]
            at += len(w)
        self.weight = nn.Parameter(torch.from_numpy(weight).float())
        self.bias = nn.Parameter(torch.from_numpy(bias).float())
        self.register_buffer("votes", torch.from_numpy(votes).float())
        self.register_buffer("layers", torch.tensor([m.layer for m in mixtures]))

    def forward(self, x: Tensor) -> Tensor:
        """Return class probabilities (B, H, C) of x (B, L, E)."""
        logits = torch.einsum("bhe,hke->bhk", x[:, self.layers], self.weight) + self.bias
        return torch.einsum("bhk,hkc->bhc", logits.softmax(-1), self.votes)


def nearest(descriptors: Array, n: int) -> tuple[Tensor, Tensor]:
    """Return the n nearest others of each region (m, n) by the mean cosine, and their weights."""
    unit = l2_normalise(descriptors).reshape(len(descriptors), -1)
    cosine = unit @ unit.T / descriptors.shape[1]
    np.fill_diagonal(cosine, -np.inf)
    index = np.argsort(-cosine, 1)[:, : min(n, len(unit) - 1)]
    close = np.exp(np.take_along_axis(cosine, index, 1) / 0.1)
    weights = close / close.sum(1, keepdims=True)
    return torch.from_numpy(index), torch.from_numpy(weights).float()


def train_heads(
    ensemble: MixtureEnsemble, plain: Array, views: Array, settings: HeadSettings, seed: int
) -> Answers:
    """Train `VoteHeads` on two views a step of a random half of the regions.

    Targets are q ~ R^b softmax(2 log p')^(1 - b), R the vote and p' the mean of the heads on the
    other view, mixed with the bank's answers of the nearest regions; a Kullback-Leibler divergence
    keeps the shares of the classes at the vote's.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = Basis(plain)
    x, x_views = basis(plain), torch.stack([basis(view) for view in views])
    heads = VoteHeads(ensemble, basis)
    vote = torch.from_numpy(ensemble.probabilities(plain)).float()
    used = heads.votes.sum((0, 1)) > 0
    shares = 0.9 * vote.mean(0) + 0.1 * used / used.sum()
    index, weights = nearest(plain, _NEAREST)
    bank = vote.clone()
    optimizer = torch.optim.Adam(heads.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for step in range(settings.steps):
        b = max(settings.last_vote, 1 - step / (_LEAVING * settings.steps))
        drawn = torch.randperm(len(x), generator=generator)[: max(16, int(len(x) * _OF_REGIONS))]
        two = torch.randperm(len(x_views), generator=generator)[:2]
        p = [heads(x_views[view][drawn]) for view in (two[0], two[-1])]
        loss = torch.zeros(())
        with torch.no_grad():
            near = (weights[drawn][:, :, None] * bank[index[drawn]]).sum(1)
            targets = [
                (1 - settings.neighbours) * _target(vote[drawn], other.mean(1), b, used)
                + settings.neighbours * near
                for other in (p[1], p[0])
            ]
            bank[drawn] = _BANK * bank[drawn] + (1 - _BANK) * (p[0].mean(1) + p[1].mean(1)) / 2
        for target, own in zip(targets, p, strict=True):
            loss = loss - (target[:, None] * own.clamp_min(1e-6).log()).sum(-1).mean() / 2
        mean = (p[0].mean((0, 1)) + p[1].mean((0, 1))) / 2
        loss = loss + divergence(mean[used], shares[used])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        each = heads(x)  # (m, H, C)
        of_views = torch.stack([heads(view).mean(1) for view in x_views]).mean(0)
    members = each.argmax(-1).T.numpy()
    return Answers(each.mean(1).double().numpy(), of_views.double().numpy(), members)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence sum p log(p / q) of shares p and q (C,)."""
    return (p * (p.clamp_min(1e-6) / q.clamp_min(1e-6)).log()).sum()


def _target(vote: Tensor, answer: Tensor, b: float, used: Tensor) -> Tensor:
    """Return R^b softmax(2 log p')^(1 - b), renormalised over the classes that are used."""
    own = _SHARPNESS * answer.clamp_min(1e-6).log()
    own = torch.log_softmax(own.masked_fill(~used, -30), 1)
    mixed = b * vote.clamp_min(1e-4).log() + (1 - b) * own
    return mixed.masked_fill(~used, -30).softmax(1)


_HEADS = 16
_STEPS = 400
_PAIRS = 10
_BETA = 0.6
_TEMPERATURE = 0.1


def train_temi(
    plain: Array, views: Array, n_clusters: int, classes: Sequence[int], n_classes: int, seed: int
) -> Answers:
    """Sort regions by TEMI: 16 linear heads on the tokens of all layers, k-means over heads.

    A pair is a view of a region and one of one of its 10 nearest; the teacher is a moving average.
    `classes` (n_clusters,) number the clusters in the answers' columns.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    basis = Basis(plain)
    x = basis(plain).flatten(1)
    scale = x.norm(dim=1).mean()
    x, x_views = x / scale, torch.stack([basis(view).flatten(1) for view in views]) / scale
    near, _ = nearest(plain, _PAIRS)
    student = LinearHeads(x.shape[1], n_clusters, _HEADS, generator)
    nn.init.normal_(student.weight, std=0.5, generator=generator)
    nn.init.zeros_(student.bias)
    teacher = LinearHeads(x.shape[1], n_clusters, _HEADS, generator)
    teacher.load_state_dict(student.state_dict())
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    prior = torch.full((_HEADS, n_clusters), 1 / n_clusters)
    for _ in range(_STEPS):
        other = near[torch.arange(len(x)), _draw(near.shape[1], len(x), generator)]
        first, second = (int(i) for i in _draw(len(x_views), 2, generator))
        pair = torch.stack([x_views[first], x_views[second][other]])
        p = torch.stack([(student(view) / _TEMPERATURE).softmax(-1) for view in pair])
        with torch.no_grad():
            q = torch.stack([(teacher(view) / _TEMPERATURE).softmax(-1) for view in pair])
            prior = 0.9 * prior + 0.1 * q.mean((0, 2))
        optimizer.zero_grad(set_to_none=True)
        temi_loss(p, q, prior, _BETA).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        follow(teacher, student, 0.98)
    with torch.no_grad():
        rows = [
            (teacher(z) / _TEMPERATURE).softmax(-1).permute(1, 0, 2).flatten(1).double().numpy()
            for z in (x, *x_views)
        ]
        members = (teacher(x)).argmax(-1).numpy()
    kmeans = KMeans(n_clusters, n_init=20, random_state=seed).fit(rows[0])
    columns = np.eye(n_classes)[np.asarray(classes)]
    answers = [columns[kmeans.predict(row)] for row in rows]
    return Answers(answers[0], np.mean(answers[1:], axis=0), members)


def _draw(high: int, n: int, generator: torch.Generator) -> Tensor:
    return torch.randint(high, (n,), generator=generator)
