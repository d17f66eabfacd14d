"""Contrasts of GCD, SimGCD, CMS and AMEND that the pipeline's own training does not have.

Shapes: B samples, E the width of the embedding; all embeddings are L2-normalised.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.mgvit.contrastive import info_nce, supervised_contrastive
from pipeline.mgvit.losses import UNLABELLED


def labelled_contrast(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return SupCon over both views (2, B, E) of the labelled samples of a batch; 0 without any."""
    labelled = labels != UNLABELLED
    return supervised_contrastive(
        z[:, labelled].flatten(0, 1), labels[labelled].repeat(2), temperature
    )


def both_contrasts(
    pairs: Tensor,
    z: Tensor,
    labels: Tensor,
    *,
    lambda_: float,
    temperature: float,
    temperature_labelled: float,
) -> Tensor:
    """Return L = (1 - lam) InfoNCE(pairs[1], pairs[2]; all images) + lam SupCon(z; D_l).

    Parameters
    ----------
    pairs, z
        (2, B, E) embeddings of both views.
    labels
        (B,) base classes or `UNLABELLED`.
    """
    unlabelled = info_nce(pairs[0], pairs[1], temperature)
    labelled = labelled_contrast(z, labels, temperature_labelled)
    return (1 - lambda_) * unlabelled + lambda_ * labelled
