"""SCAN against the values of its specification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.peers.neighbours import cosine_neighbours, n_neighbours
from pipeline.peers.scan import confident, consistency, entropy, scan_loss, self_label_loss

P = torch.softmax(torch.tensor([[2.0, 0, 0], [0, 1, 0]]), -1)
P_NEAR = torch.softmax(torch.tensor([[1.0, 0, 0], [0, 0, 1]]), -1)


def test_the_specifications_values() -> None:
    assert float(consistency(P, P_NEAR)) == pytest.approx(0.968481, abs=1e-6)
    assert float(entropy(P)) == pytest.approx(1.006199, abs=1e-6)
    assert float(scan_loss(P, P_NEAR, 5)) == pytest.approx(-4.062516, abs=1e-6)
    assert float(consistency(P, P_NEAR) - entropy(P)) == pytest.approx(-0.037719, abs=1e-6)


def test_agreeing_one_hot_balanced_images_give_minus_eta_log_k() -> None:
    one_hot = torch.eye(4).repeat(3, 1)
    assert float(scan_loss(one_hot, one_hot, 5)) == pytest.approx(-5 * math.log(4), abs=1e-5)


def test_both_sides_of_a_pair_carry_gradient() -> None:
    a, b = P.clone().requires_grad_(), P_NEAR.clone().requires_grad_()
    gradients = torch.autograd.grad(scan_loss(a, b, 5), [a, b])
    assert all(float(g.abs().sum()) > 0 for g in gradients)


def test_opposite_one_hot_pairs_are_finite() -> None:
    one = torch.tensor([[1.0, 0.0]]).requires_grad_()
    loss = scan_loss(one, torch.tensor([[0.0, 1.0]]), 5)
    assert math.isfinite(float(loss.detach()))
    assert bool(torch.isfinite(torch.autograd.grad(loss, one)[0]).all())


def test_heads_are_separate() -> None:
    got = scan_loss(torch.stack([P, P_NEAR]), torch.stack([P_NEAR, P]), 5)
    torch.testing.assert_close(got[1], scan_loss(P_NEAR, P, 5))


def test_confident_images_and_the_weights_of_their_classes() -> None:
    p = torch.tensor([[0.995, 0.005], [0.6, 0.4], [0.001, 0.999], [0.999, 0.001]])
    chosen, labels = confident(p, 0.99)
    assert chosen.tolist() == [0, 2, 3]
    assert labels.tolist() == [0, 1, 0]
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.5, 0.0]])
    each = F.cross_entropy(logits, labels, reduction="none")
    weight = torch.tensor([1.5, 3.0, 1.5])
    expected = (each * weight).sum() / weight.sum()
    torch.testing.assert_close(self_label_loss(logits, labels), expected)


def test_neighbours_start_with_the_image_itself() -> None:
    x = np.array([[1, 0], [2, 0], [0, 1], [1, 1]], np.float32)
    near = cosine_neighbours(x, 3)
    assert near[:, 0].tolist() == [0, 1, 2, 3]
    assert near[0].tolist() == [0, 1, 3]
    assert near[2, 1] == 3
    assert cosine_neighbours(x, 1).tolist() == [[0], [1], [2], [3]]
    assert n_neighbours(4, 2, 20) == 4
