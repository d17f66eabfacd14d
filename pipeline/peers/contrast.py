"""Contrastive losses of GCD, SimGCD, CMS and AMEND.

Shapes: B samples, E the width of the embedding; all embeddings are L2-normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

UNLABELLED = -1
"""Label of a sample that has none."""


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE: each of the 2B views against the 2B - 1 others, its partner the positive.

    Parameters
    ----------
    first, second
        (B, E) embeddings of the two views.

    Examples
    --------
    >>> z = torch.eye(2)
    >>> round(float(info_nce(z, z, 1.0)), 4)
    0.5514
    """
    n = len(first)
    similarity = _similarity(torch.cat([first, second]), temperature)
    return F.cross_entropy(similarity, torch.arange(2 * n).roll(n))


def supervised_contrastive(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return SupCon: the mean over anchors of the mean of ``-log softmax`` over their positives.

    Parameters
    ----------
    z
        (M, E) both views of the labelled samples.
    labels
        (M,) their classes. Without a positive pair the loss is 0.

    Examples
    --------
    >>> z = torch.eye(2).repeat(2, 1)
    >>> round(float(supervised_contrastive(z, torch.tensor([0, 1, 0, 1]), 1.0)), 4)
    0.5514
    """
    positive = labels[:, None] == labels[None, :]
    positive.fill_diagonal_(False)
    count = positive.sum(1)
    if not bool(count.any()):
        return z.sum() * 0.0
    log_p = F.log_softmax(_similarity(z, temperature), dim=1)
    per_anchor = -log_p.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
    return per_anchor[count > 0].mean()


def labelled_contrast(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return SupCon over both views (2, B, E) of the labelled samples of a batch; 0 without any."""
    labelled = labels != UNLABELLED
    return supervised_contrastive(
        z[:, labelled].flatten(0, 1), labels[labelled].repeat(2), temperature
    )


def _similarity(z: Tensor, temperature: float) -> Tensor:
    """Return the scaled inner products of all rows, -inf on the diagonal."""
    itself = torch.eye(len(z), dtype=torch.bool)
    return (z @ z.T / temperature).masked_fill(itself, float("-inf"))
