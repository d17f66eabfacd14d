"""history.csv: the losses of a training, a row an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.io.files import replacing
from pipeline.mgvit.checkpoints import EpochLosses

COLUMNS = (
    "epoch",
    "lr",
    "loss_total",
    "loss_rep",
    "loss_cls_u",
    "loss_reg",
    "loss_rep_l",
    "loss_cls_l",
)


def write_history(path: Path, history: Sequence[EpochLosses]) -> None:
    """Write one row an epoch: the terms of the loss, and L_cls_u + mu L_reg of each head."""
    rows = [
        {
            **dict(zip(COLUMNS, _terms(row), strict=True)),
            **{f"loss_head_{i}": loss for i, loss in enumerate(row.per_head)},
        }
        for row in history
    ]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=None if rows else COLUMNS).to_csv(
            temporary, index=False, float_format="%.6g"
        )


def _terms(row: EpochLosses) -> tuple[float, ...]:
    return (row.epoch, row.lr, row.total, row.rep, row.cls_u, row.reg, row.rep_l, row.cls_l)
