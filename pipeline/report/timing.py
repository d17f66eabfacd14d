"""Wall time of the stages, per image, from the records of their last runs (paper, table 13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PER_IMAGE = ("maps", "mebin", "crops", "predict", "merge")
"""Stages whose time is given in milliseconds an image."""
IN_TOTAL = ("views", "train")
"""Stages whose time is given in seconds."""


@dataclass(frozen=True)
class TimeRow:
    """The times of one category, in the order of `PER_IMAGE` and `IN_TOTAL`; None: unknown."""

    name: str
    n_images: int
    per_image: tuple[str | None, ...]
    in_total: tuple[str | None, ...]
    machines: str


def time_row(
    name: str, n_images: int, records: Mapping[str, Mapping[str, Any] | None]
) -> TimeRow | None:
    """Return the times of a category; None if no stage has a record.

    `records` maps a stage to its record of `pipeline.io.provenance.recorded`, or to None. A record
    without a usable `wall_s` is ignored. Raises ValueError unless `n_images` is positive.
    """
    if n_images < 1:
        raise ValueError(f"{n_images} images: no time per image")
    seconds = {stage: _seconds(records.get(stage)) for stage in (*PER_IMAGE, *IN_TOTAL)}
    if all(value is None for value in seconds.values()):
        return None
    machines = [
        _machine(records.get(stage)) for stage, value in seconds.items() if value is not None
    ]
    return TimeRow(
        name,
        n_images,
        tuple(_format(seconds[stage], 1000 / n_images) for stage in PER_IMAGE),
        tuple(_format(seconds[stage], 1) for stage in IN_TOTAL),
        "; ".join(dict.fromkeys(machines)),
    )


def _seconds(record: Mapping[str, Any] | None) -> float | None:
    value = record.get("wall_s") if record else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return float(value) if usable else None  # type: ignore[arg-type]


def _format(seconds: float | None, factor: float) -> str | None:
    return None if seconds is None else f"{seconds * factor:.1f}"


def _machine(record: Mapping[str, Any] | None) -> str:
    content = record or {}
    device = content.get("device")
    if device not in (None, "cpu"):
        return str(device)
    return f"{content.get('cpus', '?')} CPU cores, {content.get('machine', 'unknown')}"
