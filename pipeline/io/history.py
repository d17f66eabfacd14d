"""history.csv: the losses of a training, a row an epoch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.io.files import replacing
from pipeline.mgvit.training import TrainingResult


def write_history(path: Path, result: TrainingResult) -> None:
    """Write one row an epoch: the terms of the loss, and L_cls_u + mu L_reg of each head."""
    rows = [
        {
            "epoch": row.epoch,
            "lr": row.lr,
            "loss_total": row.total,
            "loss_rep": row.rep,
            "loss_cls_u": row.cls_u,
            "loss_reg": row.reg,
            "loss_rep_l": row.rep_l,
            "loss_cls_l": row.cls_l,
            **{f"loss_head_{i}": loss for i, loss in enumerate(row.per_head)},
        }
        for row in result.history
    ]
    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
