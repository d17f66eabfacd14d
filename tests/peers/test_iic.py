"""IIC against the values of its specification and scipy's entropies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from pipeline.peers.iic import iic_loss, joint

P = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], dtype=torch.float64)
P_VIEW = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)


def test_the_specifications_values() -> None:
    expected = torch.tensor([[0.4, 0.183333], [0.183333, 0.233333]], dtype=torch.float64)
    torch.testing.assert_close(joint(P, P_VIEW), expected, atol=1e-6, rtol=0)
    assert float(iic_loss(P, P_VIEW)) == pytest.approx(-0.030272, abs=1e-6)
    assert float(iic_loss(P, P_VIEW, 1.5)) == pytest.approx(-0.709465, abs=1e-6)


def test_one_hot_balanced_gives_minus_log_k_and_constants_0() -> None:
    one_hot = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    assert float(iic_loss(one_hot, one_hot)) == pytest.approx(-math.log(3))
    constant = torch.full((5, 3), 1 / 3, dtype=torch.float64)
    assert float(iic_loss(constant, constant)) == pytest.approx(0, abs=1e-12)


def test_it_is_the_mutual_information() -> None:
    both = joint(P, P_VIEW).numpy()
    mutual = entropy(both.sum(0)) + entropy(both.sum(1)) - entropy(both.ravel())
    assert float(iic_loss(P, P_VIEW)) == pytest.approx(-mutual)


def test_clusters_may_be_renumbered_and_heads_are_separate() -> None:
    swapped = iic_loss(P.flip(1), P_VIEW.flip(1))
    both = iic_loss(torch.stack([P, P_VIEW]), torch.stack([P_VIEW, P_VIEW]))
    torch.testing.assert_close(swapped, both[0])
    torch.testing.assert_close(both[1], iic_loss(P_VIEW, P_VIEW))


def test_empty_clusters_have_a_finite_gradient() -> None:
    one = torch.tensor([[1.0, 0.0]] * 3).requires_grad_()
    gradient = torch.autograd.grad(iic_loss(one, one), one)[0]
    assert np.isfinite(gradient.numpy()).all()
