from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.peers.base import PeerData
from pipeline.peers.uniformaly import (
    UniFormaly,
    background_masks,
    coreset,
    patch_scores,
    top_means,
)
from tests.peers.shapes import blobs


def test_pooled_attention_of_ones() -> None:
    """3 x 3 ones, window 3: corners 4/9, edges 6/9, centre 1."""
    found = background_masks(np.ones((1, 9), np.float32), (3, 3), window=3)
    corner, edge = 4 / 9, 6 / 9
    np.testing.assert_allclose(
        found[0], [corner, edge, corner, edge, 1, edge, corner, edge, corner], atol=1e-6
    )


def test_each_image_has_its_own_maximum() -> None:
    attention = np.stack([np.ones(9), np.full(9, 0.01)]).astype(np.float32)
    first, second = background_masks(attention, (3, 3))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_all_patches_without_a_mask_are_the_plain_mean() -> None:
    tokens = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    scores, visible = torch.rand(2, 5), torch.ones(2, 5, dtype=torch.bool)
    np.testing.assert_allclose(top_means(tokens, scores, visible, 1.0), tokens.mean(1), atol=1e-6)


def test_the_highest_scores_are_averaged() -> None:
    tokens = torch.arange(5.0).reshape(1, 5, 1)
    scores, visible = torch.tensor([[0.1, 3, 2, 0, 1]]), torch.ones(1, 5, dtype=torch.bool)
    assert top_means(tokens, scores, visible, 0.4).item() == pytest.approx(1.5)


def test_background_never_fills_up() -> None:
    """One visible patch of zero score is taken, not two; none visible: the first alone."""
    tokens = torch.arange(5.0).reshape(1, 5, 1)
    visible = torch.tensor([[False, False, False, True, False]])
    assert top_means(tokens, torch.zeros(1, 5), visible, 0.4).item() == 3
    assert top_means(tokens, torch.zeros(1, 5), ~torch.ones(1, 5).bool(), 0.4).item() == 0


def test_scores_are_squared_distances_and_zero_in_the_background() -> None:
    tokens = torch.tensor([[[0.0], [3.0], [9.0]]])
    visible = torch.tensor([[True, True, False]])
    found = patch_scores(tokens, visible, torch.tensor([[1.0], [0.5]]))
    np.testing.assert_allclose(found, [[0.25, 4, 0]], atol=1e-5)


def test_coreset_covers_the_far_points() -> None:
    points = torch.cat([torch.randn(18, 2) * 0.01, torch.tensor([[9.0, 0], [0, 9]])])
    assert (coreset(points, 0.15, seed=0).norm(dim=1) > 8).sum() == 2


def test_permuting_patches_of_constant_attention_changes_nothing() -> None:
    data, _ = blobs()
    assert data.means is not None
    assert data.normal_means is not None
    shuffled = np.random.default_rng(0).permutation(16)
    moved = PeerData(
        data.class_tokens,
        grid=data.grid,
        means=[m[:, shuffled] for m in data.means],
        normal_means=[m[:, shuffled] for m in data.normal_means],
        attention=data.attention,
        normal_attention=data.normal_attention,
    )
    first, second = (UniFormaly()(d, 3, 0).labels.tolist() for d in (data, moved))
    assert first == second


def test_normal_references_are_needed() -> None:
    data, _ = blobs()
    less = PeerData(data.class_tokens, grid=data.grid, means=data.means, attention=data.attention)
    with pytest.raises(ValueError, match="normal"):
        UniFormaly()(less, 3, 0)
