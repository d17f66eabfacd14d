"""What every row of the comparison must hold to, whatever its method."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from pipeline.evaluation.clustering import clustering_scores
from pipeline.peers.base import Assignment, PeerData
from pipeline.peers.deep_rows import DEEP_ROWS
from pipeline.peers.order import sort_items
from pipeline.peers.rows import ROWS, method_of, methods, rows_of
from tests.peers.blobs import permuted
from tests.peers.shapes import BLOBS, blobs, one_blob

KEYS = sorted(set(ROWS) - set(DEEP_ROWS))
"""Trained rows are tested under small budgets in test_deep_methods.py."""


def run(key: str, data: PeerData, n_classes: int = BLOBS, seed: int = 0) -> Assignment:
    return sort_items(ROWS[key].method, data, n_classes, seed)


@pytest.mark.parametrize("key", KEYS)
def test_blobs_are_found(key: str) -> None:
    data, true = blobs(base=True)
    assert clustering_scores(true, run(key, data).labels).nmi > 0.95


@pytest.mark.parametrize("key", KEYS)
def test_permuting_images_permutes_the_result(key: str) -> None:
    data, _ = blobs(seed=1)
    order = np.random.default_rng(0).permutation(len(data.class_tokens))
    first, second = run(key, data), run(key, permuted(data, order))
    assert second.labels.tolist() == first.labels[order].tolist()
    if first.probabilities is not None:
        assert second.probabilities is not None
        np.testing.assert_allclose(second.probabilities, first.probabilities[order], atol=1e-5)


@pytest.mark.parametrize("key", KEYS)
def test_one_blob_is_no_crash(key: str) -> None:
    found = run(key, one_blob())
    assert found.labels.shape == (12,)
    assert 0 <= found.labels.min() <= found.labels.max() < BLOBS
    if found.probabilities is not None:
        assert np.isfinite(found.probabilities).all()


@pytest.mark.parametrize("key", KEYS)
def test_without_a_base_set_it_works(key: str) -> None:
    data, true = blobs(base=False)
    assert clustering_scores(true, run(key, data).labels).nmi > 0.95


@pytest.mark.parametrize("key", KEYS)
def test_a_row_takes_no_more_than_it_says(key: str) -> None:
    """What `uses` and `inputs` leave out may be missing."""
    row = ROWS[key]
    data, _ = blobs(base=True)
    gone: dict[str, None] = {}
    if "N" not in row.uses:
        gone |= dict.fromkeys(("normals", "normal_means", "normal_attention"))
    if "B" not in row.uses:
        gone |= dict.fromkeys(("base_tokens", "base_view_tokens", "base_labels"))
    if "M" not in row.uses:
        gone |= dict.fromkeys(("scores", "masks"))
    if "crop" not in row.inputs:
        gone |= {"pooled": None}
    if "patch" not in row.inputs:
        gone |= dict.fromkeys(("patch_tokens", "means", "attention"))
    less = replace(data, **gone)  # type: ignore[arg-type]
    assert run(key, less).labels.tolist() == run(key, data).labels.tolist()


def test_no_labels_of_queries_are_among_the_features() -> None:
    """Shuffled true labels cannot change a prediction: no field holds them."""
    assert {f.name for f in fields(PeerData) if "label" in f.name} == {"base_labels"}


def test_rows_belong_to_methods() -> None:
    assert {key for name in methods() for key in rows_of(name)} == set(ROWS)
    assert all(method_of(row) in methods() for row in ROWS.values())
    assert len({row.name for row in ROWS.values()}) == len(ROWS)
    with pytest.raises(KeyError, match="no method"):
        rows_of("k_medoids")
