"""SimGCD against hand-made values and AnomalyNCD's own objective."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit import losses
from pipeline.mgvit.contrastive import info_nce
from pipeline.mgvit.training import draw_batches
from pipeline.peers.contrast import labelled_contrast
from pipeline.peers.self_distillation import (
    Settings,
    assign,
    labelled_cross_entropy,
    mean_entropy,
    objective,
    self_distillation,
    soft_labels,
    teacher_temperature,
)
from pipeline.peers.simgcd import SimGCD
from pipeline.peers.training import Budget, PeerError, training_set, two_views
from tests.peers.blobs import blobs

S = Settings()


def cosines(seed: int, *shape: int) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * x - 1


def test_info_nce_of_the_specification() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    assert float(info_nce(first, second, 1.0)) == pytest.approx(0.957474, abs=1e-6)


def test_the_labelled_contrast_sees_both_views_of_labelled_samples_alone() -> None:
    z = F.normalize(cosines(0, 2, 6, 5), dim=-1)
    labels = torch.tensor([-1, 0, 1, 0, -1, 1])
    known = labels >= 0
    rows, twice = z[:, known].flatten(0, 1), labels[known].repeat(2)
    expected = losses.supervised_contrastive(rows, twice, 0.07)
    torch.testing.assert_close(labelled_contrast(z, labels, 0.07), expected)
    none = torch.full((6,), -1)
    assert float(labelled_contrast(z, none, 0.07)) == 0


def simgcd_loss(
    logits: Tensor, z: Tensor, labels: Tensor, tau: float, settings: Settings
) -> Tensor:
    contrast = info_nce(z[0], z[1], settings.contrast_temperature)
    return objective(logits, soft_labels(logits, tau), z, labels, contrast, settings)


def test_without_base_set_loss_and_gradient_are_anomalyncds() -> None:
    logits, z = cosines(1, 2, 7, 4), F.normalize(cosines(2, 2, 7, 6), dim=-1)
    labels, results = torch.full((7,), -1), []
    for ours in (True, False):
        a, b = logits.clone().requires_grad_(), z.clone().requires_grad_()
        if ours:
            loss = simgcd_loss(a, b, labels, 0.05, S)
        else:
            loss = losses.total_loss(
                a.flatten(0, 1),
                b.flatten(0, 1),
                torch.ones(7, dtype=torch.float64),
                labels,
                n_base=0,
                teacher_temperature=0.05,
                student_temperature=0.1,
                contrast_temperature=1.0,
                contrast_temperature_labelled=0.07,
                lambda_=0.35,
                mu=2.0,
                plc_threshold=None,
            ).total
        results.append((loss.detach(), *torch.autograd.grad(loss, [a, b])))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_labelled_terms_have_weight_lambda_and_the_others_the_rest() -> None:
    logits, z = cosines(3, 2, 5, 4), F.normalize(cosines(4, 2, 5, 6), dim=-1)
    labels = torch.tensor([0, -1, 1, -1, 1])
    q = soft_labels(logits, 0.05)
    p = torch.softmax(logits / 0.1, -1)
    distilled = -(q[0] * p[1].log() + q[1] * p[0].log()).sum(-1).mean() / 2
    mean = p.mean((0, 1))
    spread = math.log(4) + float((mean * mean.log()).sum())
    known = labels >= 0
    ce = F.cross_entropy((logits / 0.1)[:, known].flatten(0, 1), labels[known].repeat(2))
    supcon = losses.supervised_contrastive(z[:, known].flatten(0, 1), labels[known].repeat(2), 0.07)
    expected = 0.65 * (distilled + 2 * spread + losses.info_nce(z[0], z[1], 1.0))
    expected = expected + 0.35 * (ce + supcon)
    torch.testing.assert_close(simgcd_loss(logits, z, labels, 0.05, S), expected)
    assert float(labelled_cross_entropy(logits, torch.full((5,), -1), 0.1)) == 0


def test_pseudo_labels_carry_no_gradient() -> None:
    logits = cosines(5, 2, 3, 4).requires_grad_()
    loss = self_distillation(logits, soft_labels(logits, 0.05), 0.1)
    (gradient,) = torch.autograd.grad(loss, logits)
    x = logits.detach()
    expected = (torch.softmax(x / 0.1, -1) - torch.softmax(x / 0.05, -1).flip(0)) / 0.1 / 6
    torch.testing.assert_close(gradient, expected)


def test_mean_entropy_is_0_where_all_classes_are_used_and_log_c_at_one() -> None:
    assert float(mean_entropy(10 * torch.eye(4)[None], 0.1)) == pytest.approx(0, abs=1e-6)
    one = torch.tensor([[[10.0, 0, 0, 0]]]).requires_grad_()
    loss = mean_entropy(one, 0.01)
    assert float(loss.detach()) == pytest.approx(math.log(4))
    assert bool(torch.isfinite(torch.autograd.grad(loss, one)[0]).all())


def test_teacher_temperature_falls_for_15_percent_of_the_epochs() -> None:
    got = [teacher_temperature(p, S) for p in (0.0, 0.075, 0.15, 0.9)]
    assert got == pytest.approx([0.07, 0.055, 0.04, 0.04])


def test_queries_take_base_classes_in_the_open_set_alone_where_they_come_last() -> None:
    logits = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.4, 0.2]])
    task_aware = assign(logits, 1, 0.1, open_set=False)
    assert task_aware.labels.tolist() == [1, 0]
    assert task_aware.probabilities is not None
    assert task_aware.probabilities.shape == (2, 2)
    assert assign(logits, 1, 0.1, open_set=True).labels.tolist() == [2, 0]


def test_two_views_of_a_sample_are_different_views_of_it() -> None:
    data, _ = blobs(2, 20)
    samples = training_set(data, use_base=True)
    assert samples.n_base == 20
    assert samples.n_base_classes == 2
    assert samples.labels[20:].eq(-1).all()
    rng = np.random.default_rng(0)
    drawn = torch.arange(40)
    views = two_views(samples, drawn, rng)
    for row in range(40):
        a, b = (int((samples.views[:, row] == v[row]).all(-1).nonzero()) for v in views)
        assert {a, b} == {0, 1}
    alone = replace(samples, views=samples.views[:1])
    torch.testing.assert_close(two_views(alone, drawn, rng)[0], samples.plain)


def test_batches_hold_both_kinds_and_are_as_many_as_samples() -> None:
    rng = np.random.default_rng(0)
    drawn = draw_batches(10, 90, 25, rng)
    assert len(drawn) == 4
    assert all((b < 10).any() and (b >= 10).any() for b in drawn)
    assert {len(b) for b in draw_batches(0, 30, 32, rng)} == {30}


def test_a_diverging_loss_is_an_error_that_says_so() -> None:
    data, _ = blobs(2, 20)
    with pytest.raises(PeerError, match="learning rate"):
        SimGCD(Settings(hidden=8), Budget("sgd", 1e30, 32, 5))(data, 2, 0)


def test_missing_views_are_an_error_that_says_what_to_set() -> None:
    data, _ = blobs(2, 20)
    with pytest.raises(PeerError, match=r"views\.count"):
        SimGCD()(replace(data, view_tokens=None), 2, 0)
