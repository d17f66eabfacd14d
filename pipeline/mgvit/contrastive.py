"""Contrastive terms of the objective (AnomalyNCD appendix A, Eqs. 7 and 8) as its code has them.

Rows are L2-normalised embeddings of width E. Half-precision inputs are computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.precision import full


def info_nce(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Return L_rep: each of the 2B views against the 2B - 1 others, its partner included, Eq. 7.

    Parameters
    ----------
    z1, z2
        (B, E) L2-normalised embeddings of the two views of *all* samples of the batch, labelled and
        unlabelled, in the same order.

    Returns
    -------
    A scalar.

    Examples
    --------
    >>> z = torch.eye(2)
    >>> round(float(info_nce(z, z, 1.0)), 4)
    0.5514
    """
    n = len(z1)
    similarity = _similarity(torch.cat([z1, z2]), temperature)  # (2B, 2B)
    partner = torch.arange(2 * n, device=z1.device).roll(n)
    return F.cross_entropy(similarity, partner)


def supervised_contrastive(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return L_rep_l: each labelled view against the other labelled views, Eq. 8.

    For each anchor the mean of ``-log softmax`` over its positives, the other rows of its label
    (its second view and both views of other samples); then the mean over anchors. An anchor without
    a positive cannot occur with both views; rows given singly that have none are left out of the
    mean, and without any positive pair the loss is 0.

    Parameters
    ----------
    z
        (M, E) L2-normalised, the two views concatenated.
    labels
        (M,), concatenated too.

    Returns
    -------
    A scalar.

    Examples
    --------
    >>> z = torch.eye(2).repeat(2, 1)
    >>> round(float(supervised_contrastive(z, torch.tensor([0, 1, 0, 1]), 1.0)), 4)
    0.5514
    """
    positive = labels[:, None] == labels[None, :]  # (M, M)
    positive.fill_diagonal_(False)
    count = positive.sum(1)
    if not bool(count.any()):
        return full(z).sum() * 0.0
    log_p = F.log_softmax(_similarity(z, temperature), dim=1)
    per_anchor = -log_p.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
    return per_anchor[count > 0].mean()


def _similarity(z: Tensor, temperature: float) -> Tensor:
    """Return the scaled inner products of all rows, -inf on the diagonal."""
    z = full(z)
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return similarity.masked_fill(itself, float("-inf"))
