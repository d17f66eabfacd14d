"""The losses of a training, from its history.csv to a chart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from markupsafe import Markup

from pipeline.io.paths import damaged, missing
from pipeline.report.charts import line_chart

_CURVES = {
    "loss_total": "total",
    "loss_rep": "contrastive",
    "loss_cls_u": "pseudo-labels",
    "loss_reg": "mean entropy",
    "loss_rep_l": "contrastive, labelled",
    "loss_cls_l": "labels",
}


def loss_chart(path: Path) -> Markup | None:
    """Return SVG charts of the losses in history.csv: the terms, and those of each head.

    Terms that are zero throughout are left out.

    None without an epoch: nothing was trained. Raises `ArtifactError` for a missing or damaged
    file.
    """
    history = _read(path)
    if len(history) == 0:
        return None
    curves = {
        label: history[column].tolist()
        for column, label in _CURVES.items()
        if (history[column] != 0).any()
    }
    numbers = [str(name) for name in history.select_dtypes("number")]
    heads = [name for name in numbers if name.startswith("loss_head_")]
    return line_chart(curves) + _head_chart({name: history[name].tolist() for name in heads})


def _head_chart(heads: dict[str, list[float]]) -> Markup:
    """Return the loss of each head, by which the one for inference is chosen; "" without heads."""
    if not heads:
        return Markup("")
    best = min(heads, key=lambda name: heads[name][-1])
    labels = {name: name.replace("loss_head_", "head ") for name in heads}
    note = Markup(
        '<p class="note">Pseudo-labels + mu x mean entropy of each head; {} ends lowest.</p>'
    )
    chart = line_chart({labels[name]: losses for name, losses in heads.items()})
    return note.format(labels[best]) + chart


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise missing(path)
    try:
        history = pd.read_csv(path)
    except (ValueError, OSError) as error:  # also what pandas calls an empty or broken file
        raise damaged(path, f"not a readable CSV file ({error})") from error
    lacking = [column for column in _CURVES if column not in history]
    if lacking:
        raise damaged(path, f"lacks the columns {lacking}")
    for column in _CURVES if len(history) else ():
        if not pd.api.types.is_numeric_dtype(history[column]):
            raise damaged(path, f"the column {column!r} holds text")
    return history
