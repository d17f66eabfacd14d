"""The training objective (AnomalyNCD sections 3.3.2 and appendix A): one equation, one function.

Its contrastive terms are in `contrastive`, pseudo-labels and L_cls_u in `self_distillation`.

Shapes: B samples of a batch, C = C_l + C_u classes (the C_l base classes first, then the novel
ones, of which the first is normal), E the width of the contrastive embedding. Wherever logits or
probabilities are ``(..., B, C)``, the leading axes are kept: logits of H heads, (H, B, C), give one
loss per head, (H,). Half-precision inputs are computed in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.contrastive import info_nce, supervised_contrastive
from pipeline.mgvit.precision import full
from pipeline.mgvit.self_distillation import check_novel, discovery_loss

UNLABELLED = -1
"""Label of a sample that has none."""


def mean_entropy_regulariser(p: Tensor) -> Tensor:
    """Return L_reg = log(C) - H(mean of p over the samples): 0 when all classes are used equally.

    Parameters
    ----------
    p
        (..., M, C) probabilities over all classes of both views of the unlabelled samples.

    Returns
    -------
    (...), to be minimised. Finite, gradient included, where a class has probability 0 everywhere.

    Examples
    --------
    >>> float(mean_entropy_regulariser(torch.eye(2)))
    0.0
    """
    mean = full(p).mean(-2)  # (..., C)
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    return math.log(mean.shape[-1]) + (mean * log_mean).sum(-1)


def supervised_cross_entropy(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return L_cls_l: cross-entropy of ``logits / temperature`` with `labels`, mean over B, Eq. 11.

    Parameters
    ----------
    logits
        (..., B, C). With the two views concatenated along B (labels too) the mean is over both.
    labels
        (B,) int64 in [0, C).

    Returns
    -------
    (...), one value for each of the leading axes.

    Examples
    --------
    >>> round(float(supervised_cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, 2]), 0.1)), 4)
    1.3863
    """
    log_p = F.log_softmax(full(logits) / temperature, dim=-1)
    index = labels.expand(log_p.shape[:-1]).unsqueeze(-1)  # (..., B, 1)
    return -log_p.gather(-1, index).squeeze(-1).mean(-1)


@dataclass(frozen=True)
class LossTerms:
    """Value of the objective and of its terms; classification terms are means over the heads."""

    total: Tensor
    """Scalar, with gradient."""
    rep: Tensor
    """L_rep, detached, as all that follow."""
    cls: Tensor
    """L_cls_u."""
    reg: Tensor
    """L_reg."""
    rep_labelled: Tensor
    """L_rep_l; 0 without labelled samples."""
    cls_labelled: Tensor
    """L_cls_l; 0 without labelled samples."""
    per_head: Tensor
    """(H,) L_cls_u + mu L_reg: the head where its mean is smallest serves for inference."""


def total_loss(
    logits: Tensor,
    z: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    n_base: int,
    teacher_temperature: float,
    student_temperature: float,
    contrast_temperature: float,
    contrast_temperature_labelled: float,
    lambda_: float,
    mu: float,
    plc_threshold: float | None,
    views_summed: bool = False,
) -> LossTerms:
    """Return ``lambda (L_rep_l + L_cls_l) + (1 - lambda) (L_rep + L_cls_u + mu L_reg)``, Eq. 4.

    Classification terms are averaged over the heads. L_rep runs over all samples, as the paper's
    section 3.3.2 says. Without labelled samples their terms vanish and the factor 1 - lambda stays.
    Computed outside autocast.

    Parameters
    ----------
    logits
        (H, 2B, C) of the heads, or (2B, C): the first views of all B samples, then the second.
    z
        (2B, E) L2-normalised embeddings, in the same order.
    scores
        (B,) anomaly scores in [0, 1], used for unlabelled samples alone.
    labels
        (B,) int64, a base class in [0, n_base) or `UNLABELLED`.
    views_summed
        L_cls_l and L_cls_u are sums over the two views, as Eqs. 11 and 12 are written, not means.

    Returns
    -------
    The scalar with gradient, and its terms without.

    Raises
    ------
    ValueError
        For shapes that do not fit, a label that is not a base class, and a batch without unlabelled
        samples.

    Examples
    --------
    >>> logits, z = torch.zeros(4, 3), torch.eye(2).repeat(2, 1)
    >>> labels = torch.tensor([0, UNLABELLED])
    >>> terms = total_loss(
    ...     logits,
    ...     z,
    ...     torch.ones(2),
    ...     labels,
    ...     n_base=1,
    ...     teacher_temperature=0.07,
    ...     student_temperature=0.1,
    ...     contrast_temperature=1.0,
    ...     contrast_temperature_labelled=0.07,
    ...     lambda_=0.3,
    ...     mu=4.0,
    ...     plc_threshold=0.5,
    ... )
    >>> round(float(terms.cls), 4), round(float(terms.reg), 4)
    (1.0986, 0.0)
    """
    views, unlabelled = _check_batch(logits, z, scores, labels, n_base)  # (H, 2, B, C), (B,)
    with torch.autocast(logits.device.type, enabled=False):
        first, second = z.chunk(2)
        rep = info_nce(first, second, contrast_temperature)
        cls, reg = _unlabelled_terms(
            views[:, :, unlabelled],
            scores[unlabelled],
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            n_base=n_base,
            plc_threshold=plc_threshold,
        )
        rep_l, cls_l = _labelled_terms(
            views,
            z,
            labels,
            student_temperature=student_temperature,
            contrast_temperature=contrast_temperature_labelled,
        )
        if views_summed:
            cls, cls_l = 2 * cls, 2 * cls_l
        per_head = cls + mu * reg
        total = lambda_ * (rep_l + cls_l.mean()) + (1 - lambda_) * (rep + per_head.mean())
    terms = (rep, cls.mean(), reg.mean(), rep_l, cls_l.mean(), per_head)
    return LossTerms(total, *(term.detach() for term in terms))


def _unlabelled_terms(
    novel: Tensor,
    scores: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
    n_base: int,
    plc_threshold: float | None,
) -> tuple[Tensor, Tensor]:
    """Return L_cls_u (H,) and L_reg (H,) from logits (H, 2, B_u, C)."""
    cls = discovery_loss(
        novel[:, 0],
        novel[:, 1],
        scores,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        n_base=n_base,
        plc_threshold=plc_threshold,
    )
    p = torch.softmax(full(novel.flatten(1, 2)) / student_temperature, dim=-1)
    return cls, mean_entropy_regulariser(p)


def _labelled_terms(
    views: Tensor,
    z: Tensor,
    labels: Tensor,
    *,
    student_temperature: float,
    contrast_temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return L_rep_l, a scalar, and L_cls_l, (H,); zeros without labelled samples."""
    labelled = labels != UNLABELLED
    twice = labels[labelled].repeat(2)
    if len(twice) == 0:
        zero = full(z).new_zeros(())
        return zero, zero.expand(len(views))
    rep = supervised_contrastive(z[labelled.repeat(2)], twice, contrast_temperature)
    of_labelled = views[:, :, labelled].flatten(1, 2)  # (H, 2 B_l, C)
    return rep, supervised_cross_entropy(of_labelled, twice, student_temperature)


def _check_batch(
    logits: Tensor, z: Tensor, scores: Tensor, labels: Tensor, n_base: int
) -> tuple[Tensor, Tensor]:
    """Return the logits as (H, 2, B, C) and which of the B samples are unlabelled."""
    n = len(labels)
    if logits.ndim == 2:
        logits = logits.unsqueeze(0)
    if logits.ndim != 3 or logits.shape[1] != 2 * n or len(z) != 2 * n or len(scores) != n:
        raise ValueError(
            f"a batch of {n} labels needs {n} scores, logits (H, {2 * n}, C) and z ({2 * n}, E), "
            f"not {len(scores)} scores, {tuple(logits.shape)} and {tuple(z.shape)}"
        )
    check_novel(logits, n_base)
    unlabelled = labels == UNLABELLED
    if not bool(unlabelled.any()):
        raise ValueError("the batch has no unlabelled sample: skip such batches")
    if bool((((labels < 0) | (labels >= n_base)) & ~unlabelled).any()):
        raise ValueError(f"labels must be base classes in [0, {n_base}) or {UNLABELLED}")
    return logits.reshape(len(logits), 2, n, -1), unlabelled
