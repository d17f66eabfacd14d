"""Pseudo-labels and L_cls_u, by which each view teaches the other: Eqs. 5, 9 and 12 of AnomalyNCD.

Logits are ``(..., B, C)``, the C_l base classes first, then the novel ones, of which the first is
normal; the leading axes are kept. Half-precision inputs are computed in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.precision import full


def teacher_temperature(epoch: int, *, warm: float, final: float, steps: int, hold: int) -> float:
    """Return the teacher's temperature tau_t of an epoch (appendix B).

    Parameters
    ----------
    epoch
        From 0.
    warm, final, steps, hold
        `steps` values spaced linearly from `warm` to `final`, each for `hold` epochs, then `final`.

    Raises
    ------
    ValueError
        For a negative epoch, and `steps` or `hold` below 1.

    Examples
    --------
    >>> schedule = {"warm": 0.07, "final": 0.04, "steps": 10, "hold": 4}
    >>> teacher_temperature(0, **schedule), teacher_temperature(100, **schedule)
    (0.07, 0.04)
    """
    if epoch < 0 or steps < 1 or hold < 1:
        raise ValueError(
            f"epoch must be >= 0, steps and hold >= 1, not {epoch}, {steps} and {hold}"
        )
    step = epoch // hold
    return final if step >= steps else float(np.linspace(warm, final, steps)[step])


def pseudo_labels(
    logits: Tensor,
    scores: Tensor,
    *,
    temperature: float,
    n_base: int,
    plc_threshold: float | None,
) -> Tensor:
    """Return the pseudo-labels q of the teacher, Eq. 9, corrected by the anomaly scores, Eq. 5.

    ``q = softmax(logits / temperature)`` over the novel classes, 0 for the `n_base` base classes;
    then ``q <- w e + (1 - w) q`` with ``w = max(plc_threshold - scores, 0)`` and e one-hot at the
    first novel class.

    Parameters
    ----------
    logits
        (..., B, C), base classes first.
    scores
        (B,) anomaly scores in [0, 1].
    plc_threshold
        None leaves q uncorrected.

    Returns
    -------
    (..., B, C) without gradient, rows summing to 1.

    Raises
    ------
    ValueError
        When `n_base` leaves no novel class.

    Examples
    --------
    >>> logits, scores = torch.zeros(2, 2), torch.tensor([0.0, 1.0])
    >>> labels = pseudo_labels(logits, scores, temperature=0.1, n_base=0, plc_threshold=0.5)
    >>> labels.tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    check_novel(logits, n_base)
    novel = torch.softmax(full(logits.detach())[..., n_base:] / temperature, dim=-1)
    q = F.pad(novel, (n_base, 0))  # (..., B, C)
    if plc_threshold is None:
        return q
    w = (plc_threshold - scores.detach().to(q)).clamp_min(0).unsqueeze(-1)  # (B, 1)
    q = (1 - w) * q
    q[..., n_base] += w.squeeze(-1)
    return q


def soft_cross_entropy(q: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return ``-sum_c q_c log p_c`` with ``p = softmax(logits / temperature)``, mean over B.

    Parameters
    ----------
    q, logits
        (..., B, C). A class with q = 0 adds nothing, even where its logit is -inf.

    Returns
    -------
    (...), one value for each of the leading axes.

    Examples
    --------
    >>> q = torch.tensor([[0.5, 0.5]])
    >>> round(float(soft_cross_entropy(q, torch.zeros(1, 2), 0.1)), 4)
    0.6931
    """
    log_p = F.log_softmax(full(logits) / temperature, dim=-1)
    return -(q * log_p.masked_fill(q == 0, 0.0)).sum(-1).mean(-1)


def discovery_loss(
    first: Tensor,
    second: Tensor,
    scores: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
    n_base: int,
    plc_threshold: float | None,
) -> Tensor:
    """Return L_cls_u: the pseudo-labels of each view supervise the other view, Eq. 12.

    Parameters
    ----------
    first, second
        (..., B, C) logits of the two views of the unlabelled samples.
    scores
        (B,) anomaly scores in [0, 1].

    Returns
    -------
    (...), the mean of the two directions (Eq. 12 writes their sum).

    Examples
    --------
    >>> view = torch.tensor([[9.0, 0.0]])
    >>> temperatures = {"student_temperature": 1.0, "teacher_temperature": 1.0}
    >>> loss = discovery_loss(
    ...     view, view, torch.ones(1), n_base=0, plc_threshold=0.5, **temperatures
    ... )
    >>> round(float(loss), 4)
    0.0012
    """
    directions = [
        soft_cross_entropy(
            pseudo_labels(
                teacher,
                scores,
                temperature=teacher_temperature,
                n_base=n_base,
                plc_threshold=plc_threshold,
            ),
            student,
            student_temperature,
        )
        for teacher, student in ((first, second), (second, first))
    ]
    return (directions[0] + directions[1]) / 2


def check_novel(logits: Tensor, n_base: int) -> None:
    """Raise ValueError unless `n_base` of the logits (..., C) leave a novel class."""
    if not 0 <= n_base < logits.shape[-1]:
        raise ValueError(f"n_base is {n_base}: {logits.shape[-1]} logits leave no novel class")
