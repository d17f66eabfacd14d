"""The canonical order of images, in which random numbers are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.peers.base import Assignment, Ints, PeerData


def by_sample_id(fit: Callable[[PeerData], Assignment], data: PeerData) -> Assignment:
    """Return ``fit(data)``, computed with the images in the order of their ids.

    A permutation of the images then permutes the assignment and changes nothing else.
    """
    order = np.argsort(np.asarray(data.sample_ids), kind="stable")
    found = fit(_take(data, order))
    back = np.argsort(order)
    probabilities = None if found.probabilities is None else found.probabilities[back]
    return Assignment(found.labels[back], probabilities)


def _take(data: PeerData, order: Ints) -> PeerData:
    return replace(
        data,
        class_tokens=data.class_tokens[order],
        view_tokens=None if data.view_tokens is None else data.view_tokens[:, order],
        patch_tokens=None if data.patch_tokens is None else [x[order] for x in data.patch_tokens],
        pooled=None if data.pooled is None else data.pooled[order],
        scores=None if data.scores is None else data.scores[order],
        sample_ids=[data.sample_ids[i] for i in order],
    )
