"""AMEND against the values of its specification."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.contrastive import info_nce
from pipeline.peers.amend import (
    Bank,
    Extra,
    batch_neighbour_loss,
    nearest,
    neighbour_loss,
    prototype_spread,
)

W = torch.tensor([[1.0, 0], [0.6, 0.8], [-0.8, 0.6]])


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_spread_of_the_specification() -> None:
    assert float(prototype_spread(W)) == pytest.approx(-0.066667, abs=1e-6)
    pairs = [(W[a] * W[b]).sum() for a in range(3) for b in range(a)]
    assert float(prototype_spread(W)) == pytest.approx(float(sum(pairs)) / 3, abs=1e-6)


def test_neighbour_loss_of_the_specification() -> None:
    z = torch.tensor([1.0, 0])
    sets = [
        torch.tensor([[0.8, 0.6]]),
        torch.tensor([[0.6, 0.8]]),
        torch.tensor([[0.0, 1], [-0.6, 0.8]]),
        torch.tensor([[-1.0, 0], [0, -1]]),
    ]
    positive, near, far, negative = ((y @ z)[None] for y in sets)
    got = neighbour_loss(positive, near, far, negative, 0.1)
    assert float(got) == pytest.approx(1.331713, abs=1e-6)


def test_without_neighbours_it_is_info_nce() -> None:
    z = unit(0, 2, 6, 4)
    got = batch_neighbour_loss(z, torch.arange(6), Bank(unit(1, 9, 4)), Extra(neighbours=0))
    torch.testing.assert_close(got, info_nce(z[0], z[1], 1.0))


def test_an_image_drawn_twice_is_no_negative_of_itself() -> None:
    z = unit(2, 2, 3, 4)
    z[:, 2] = z[:, 0]
    extra, bank = Extra(neighbours=0), Bank(unit(1, 9, 4))
    got = batch_neighbour_loss(z, torch.tensor([0, 1, 0]), bank, extra)
    positive = (z[0] * z[1]).sum(-1)
    others = [[1, 4], [0, 2, 3, 5], [1, 4], [1, 4], [0, 2, 3, 5], [1, 4]]
    flat, expected = z.flatten(0, 1), []
    for i, rows in enumerate(others):
        logits = torch.cat([positive[i % 3][None], flat[rows] @ flat[i]])
        expected.append(logits.logsumexp(0) - logits[0])
    torch.testing.assert_close(got, torch.stack(expected).mean())


def test_the_bank_gives_neighbours_of_neighbours_and_never_the_image_itself() -> None:
    bank = Bank(F.normalize(torch.tensor([[1.0, 0], [1, 0.1], [1, 0.3], [0, 1], [0.1, 1]]), dim=1))
    near, far = bank.neighbours(bank.z[:1], torch.tensor([0]), Extra(neighbours=2, expanded=1))
    assert near.tolist() == [[1, 2]]
    assert far.tolist() == [[0, 1]]
    assert nearest(torch.tensor([[3.0, 1, 2]]), torch.tensor([[True, False, False]]), 1).item() == 2


def test_the_bank_overwrites_its_oldest_entries_without_gradient() -> None:
    bank = Bank(torch.zeros(3, 2))
    for start in (1.0, 3.0):
        z = torch.full((2, 2), start).requires_grad_()
        bank.add(z * 1, torch.tensor([7, 8]))
    assert bank.z[:, 0].tolist() == [3, 1, 3]
    assert bank.owners.tolist() == [8, 8, 7]
    assert not bank.z.requires_grad
