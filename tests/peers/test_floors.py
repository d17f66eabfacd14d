from __future__ import annotations

import numpy as np
import pytest

from pipeline.peers.base import PeerData
from pipeline.peers.floors import Floor
from pipeline.peers.partitions import kmeans_labels, ward_labels

LINE = np.array([[0.0], [0.1], [5.0], [5.2], [9.0]])


def test_kmeans_finds_what_lies_together() -> None:
    labels = kmeans_labels(LINE, 3, seed=0)
    assert labels[0] == labels[1]
    assert labels[2] == labels[3]
    assert len(set(labels.tolist())) == 3


def test_ward_merges_what_costs_least() -> None:
    """9 costs (9 - 5.1)^2 * 2 / 3 = 10.1 with 5 and 5.2; the two pairs cost 25.5."""
    assert ward_labels(LINE, 2).tolist() == [1, 1, 0, 0, 0]


def test_no_more_clusters_than_points() -> None:
    assert ward_labels(LINE[:1], 3).tolist() == [0]
    assert kmeans_labels(LINE[[0, 0, 0]], 3, seed=0).tolist() == [0, 0, 0]


def test_length_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(12, 4)).astype(np.float32)
    longer = tokens * rng.uniform(0.5, 9, size=(12, 1)).astype(np.float32)
    floor = Floor("ward", "class")
    first, second = (floor(PeerData(class_tokens=t), 3, 0).labels for t in (tokens, longer))
    assert first.tolist() == second.tolist()


def test_pooled_tokens_are_asked_for() -> None:
    with pytest.raises(ValueError, match="pooled"):
        Floor("ward", "pooled")(PeerData(class_tokens=np.eye(3, dtype=np.float32)), 2, 0)
