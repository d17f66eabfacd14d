"""CMS against the values of its specification."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pipeline.mgvit import losses
from pipeline.peers.cms import Settings, mean_shift, objective, shift_and_link

Z = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])


def test_mean_shift_of_the_specification() -> None:
    expected = torch.tensor(
        [[0.948683, 0.316228], [0.707107, 0.707107], [0.316228, 0.948683], [0.707107, 0.707107]]
    )
    torch.testing.assert_close(mean_shift(Z, Z, 0.5, 1), expected, atol=1e-6, rtol=0)


def test_alpha_0_and_a_bank_of_one_change_nothing() -> None:
    torch.testing.assert_close(mean_shift(Z, Z, 0.0, 2), Z)
    assert torch.equal(mean_shift(Z[:1], Z[:1], 0.5, 8), Z[:1])
    assert mean_shift(Z, Z, 0.5, 8).shape == (4, 2)


def test_the_gradient_goes_through_the_embedding_alone() -> None:
    z = Z.clone().requires_grad_()
    mean_shift(z, Z, 0.5, 1)[0, 1].backward()
    v = torch.tensor([0.9, 0.3])
    length = v.norm()
    jacobian = (torch.eye(2) - torch.outer(v, v) / length**2) / length * 0.5
    assert z.grad is not None
    torch.testing.assert_close(z.grad[0], jacobian[1])


def test_the_contrast_is_on_shifted_and_supcon_on_plain_embeddings() -> None:
    z = F.normalize(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    shifted = F.normalize(z + 0.3, dim=-1)
    labels = torch.tensor([0, -1, 1, 0, -1])
    known = labels >= 0
    supcon = losses.supervised_contrastive(z[:, known].flatten(0, 1), labels[known].repeat(2), 0.07)
    expected = 0.65 * losses.info_nce(shifted[0], shifted[1], 0.5) + 0.35 * supcon
    torch.testing.assert_close(objective(shifted, z, labels, Settings()), expected)


def test_ward_separates_two_groups() -> None:
    z = F.normalize(torch.tensor([[1.0, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.2, 1]]), dim=1)
    labels = shift_and_link(z, 2, Settings(neighbours=2)).labels
    assert len(set(labels[:3])) == len(set(labels[3:])) == 1
    assert labels[0] != labels[3]
