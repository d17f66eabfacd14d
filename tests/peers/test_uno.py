"""UNO against the values of its specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.peers.uno import (
    Network,
    Settings,
    UnitPrototypes,
    sinkhorn,
    swapped_loss,
    targets,
)

LOGITS = torch.tensor([[0.9, 0.1, -0.2], [0.8, 0.3, 0], [0.7, 0.2, 0.1], [0.1, 0.6, 0.2]])
THREE_STEPS = torch.tensor(
    [
        [0.9989, 0.0004, 0.0007],
        [0.6946, 0.1202, 0.1852],
        [0.0636, 0.0110, 0.9254],
        [0.0000, 0.8275, 0.1725],
    ]
)


def test_three_steps_of_sinkhorn() -> None:
    got = sinkhorn(LOGITS, 0.05, 3)
    torch.testing.assert_close(got, THREE_STEPS, atol=6e-5, rtol=0)
    assert got.sum(0).tolist() == pytest.approx([1.757, 0.959, 1.284], abs=1e-3)


def test_sinkhorn_converges_to_equal_sizes_and_ignores_constants_of_a_row() -> None:
    got = sinkhorn(LOGITS.double(), 0.05, 500)
    assert got[1].tolist() == pytest.approx([0.3190, 0.3952, 0.2858], abs=1e-4)
    assert got.sum(0).tolist() == pytest.approx([4 / 3] * 3, abs=1e-6)
    shifted = LOGITS.double() + torch.tensor([[0.3], [-0.2], [0.1], [0.0]]).double()
    torch.testing.assert_close(sinkhorn(shifted, 0.05, 500), got, atol=1e-6, rtol=0)


def test_sinkhorn_is_finite_at_a_small_epsilon_and_has_no_gradient() -> None:
    assert bool(torch.isfinite(sinkhorn(LOGITS, 0.001, 3)).all())
    assert not sinkhorn(LOGITS.clone().requires_grad_(), 0.05, 3).requires_grad


def test_swapped_loss_of_the_specification() -> None:
    logits = torch.tensor([[[0.9, 0.1], [0.2, 0.7]], [[0.8, 0.3], [0.1, 0.9]]])
    target = torch.tensor([[[1, 0], [0.25, 0.75]], [[0.9, 0.1], [0, 1]]])
    assert float(swapped_loss(logits, target, 0.1)) == pytest.approx(0.703525, abs=1e-6)
    heads = swapped_loss(torch.stack([logits, -logits]), torch.stack([target, target]), 0.1)
    assert float(heads[0]) == pytest.approx(0.703525, abs=1e-6)


def test_labelled_images_have_one_hot_targets_and_stay_out_of_sinkhorn() -> None:
    novel = torch.cat([LOGITS[:2], torch.full((1, 3), 9.0), LOGITS[2:]])
    got = targets(novel, torch.tensor([-1, -1, 1, -1, -1]), 2, 0.05, 3)
    assert got[2].tolist() == [0, 1, 0, 0, 0]
    torch.testing.assert_close(got[[0, 1, 3, 4], 2:], sinkhorn(LOGITS, 0.05, 3))
    assert float(got[[0, 1, 3, 4], :2].sum()) == 0


def test_prototypes_have_length_1() -> None:
    prototypes = UnitPrototypes(5, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        prototypes.weight.mul_(7)
    prototypes.renormalise()
    assert prototypes.weight.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert float(prototypes(torch.ones(1, 5)).detach().abs().max()) <= 1


def test_second_set_of_heads_has_more_clusters() -> None:
    network = Network(4, 2, 3, Settings(heads=2, hidden=8, out=4), torch.Generator())
    tokens = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 4))).float()
    assert network.novel_logits(tokens, 0).shape == (2, 2, 5, 3)
    assert network.novel_logits(tokens, 1).shape == (2, 2, 5, 9)
    assert network.base_logits(tokens).shape == (2, 5, 2)
