"""Run a method on items in the order of their names, so that their positions cannot matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from pipeline.peers.base import Assignment, Ints, Method, PeerData

_FIRST_AXIS = ("class_tokens", "pooled", "scores", "masks", "attention")
_SECOND_AXIS = ("view_tokens",)
_SEVERAL = ("patch_tokens", "means")


def sort_items(method: Method, data: PeerData, n_classes: int, seed: int) -> Assignment:
    """Return the clusters of `method`, which sees the items sorted by `sample_ids`.

    A permutation of the items permutes the result, whatever the method draws at random.
    """
    order = np.argsort(np.asarray(data.sample_ids, np.str_), kind="stable")
    if np.array_equal(order, np.arange(len(order))):
        return method(data, n_classes, seed)
    sorted_result = method(_taken(data, order), n_classes, seed)
    back = np.argsort(order)
    probabilities = sorted_result.probabilities
    return replace(
        sorted_result,
        labels=sorted_result.labels[back],
        probabilities=None if probabilities is None else probabilities[back],
    )


def _taken(data: PeerData, rows: Ints) -> PeerData:
    changes: dict[str, Any] = {"sample_ids": [data.sample_ids[int(i)] for i in rows]}
    for name in (*_FIRST_AXIS, *_SECOND_AXIS, *_SEVERAL):
        value = getattr(data, name)
        if value is None:
            continue
        if name in _SEVERAL:
            changes[name] = [array[rows] for array in value]
        else:
            changes[name] = value[:, rows] if name in _SECOND_AXIS else value[rows]
    return replace(data, **changes)


def with_settings(method: Method, settings: Mapping[str, object]) -> Method:
    """Return `method` with those of `settings` that it has as fields, if it is a dataclass.

    `open_set` and `budget` reach the methods that know them this way.
    """
    known = settings_of(method)
    if not known:
        return method
    configurable: Any = method
    changed: Method = replace(configurable, **{k: v for k, v in settings.items() if k in known})
    return changed


def settings_of(method: object) -> set[str]:
    """Return the names of a method's settings: the fields of a dataclass, none of a function."""
    if not is_dataclass(method) or isinstance(method, type):
        return set()
    return {field.name for field in fields(method)}
