"""TURTLE's inner classifier against torch, its objective against loops."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.peers.turtle import TaskEncoder, fit_classifier, inner_gradient, outer_loss


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, START, LABELS = draw(0, 7, 4), draw(1, 4, 3), torch.softmax(draw(2, 7, 3), -1)


def test_the_gradient_is_autograds() -> None:
    weight = START.clone().requires_grad_()
    F.cross_entropy(X @ weight, LABELS).backward()
    torch.testing.assert_close(inner_gradient(START, X, LABELS), weight.grad)


def test_the_classifier_takes_torchs_adam_steps() -> None:
    weight = START.clone().requires_grad_()
    adam = torch.optim.Adam([weight], lr=0.03)
    for _ in range(10):
        adam.zero_grad()
        F.cross_entropy(X @ weight, LABELS).backward()
        adam.step()
    fitted = fit_classifier(START, X, LABELS, steps=10, lr=0.03)
    torch.testing.assert_close(fitted, weight.detach())


def test_outer_loss_and_its_gradient() -> None:
    logits, labels = (X @ START).requires_grad_(), LABELS.clone().requires_grad_()
    loss = outer_loss(logits, labels, 10.0)
    p, mean = torch.softmax(X @ START, -1), LABELS.mean(0)
    expected = -(LABELS * p.log()).sum() / 7 + 10 * (mean * mean.log()).sum()
    assert float(loss.detach()) == pytest.approx(float(expected))
    loss.backward()
    assert logits.grad is None
    torch.testing.assert_close(labels.grad, (-p.log() + 10 * (mean.log() + 1)) / 7)


def test_the_task_encoder_starts_as_a_linear_layer() -> None:
    encoder = TaskEncoder(4, 3, torch.Generator().manual_seed(0))
    x = X.float()
    expected = torch.softmax(x @ encoder.direction.T + encoder.bias, -1)
    torch.testing.assert_close(encoder(x), expected)
