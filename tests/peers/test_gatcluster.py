"""GATCluster against the values of its specification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.peers.gatcluster import (
    Settings,
    attention_target,
    binary_cross_entropy,
    entropy,
    moved,
    objective,
    relation_groups,
    relation_loss,
    token_maps,
    translation_target,
    window,
)

Q = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
P = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.3, 0.7]])
GROUPS = torch.tensor([0, 0, 1])


def test_targets_of_the_specification() -> None:
    t = [[0.873134, 0.126866], [0.534247, 0.465753], [0.160494, 0.839506]]
    d = [[0.984112, 0.015888], [0.632432, 0.367568], [0.045614, 0.954386]]
    torch.testing.assert_close(translation_target(Q), torch.tensor(t), atol=1e-6, rtol=0)
    torch.testing.assert_close(attention_target(Q), torch.tensor(d), atol=1e-6, rtol=0)


def test_losses_of_the_specification() -> None:
    agreement = float((P * translation_target(Q)).sum(1).mean())
    assert -agreement == pytest.approx(-0.619894, abs=1e-6)
    assert float(-entropy(P)) == pytest.approx(-0.690923, abs=1e-6)
    bce = float(binary_cross_entropy(P, attention_target(Q)))
    assert bce == pytest.approx(0.444547, abs=1e-6)
    relation = float(relation_loss(P, GROUPS))
    assert relation == pytest.approx(0.620092, abs=1e-6)
    total = objective(P, Q, translation_target(Q), attention_target(Q), GROUPS, Settings())
    attended = float(binary_cross_entropy(Q, attention_target(Q)))
    expected = -5 * agreement - 3 * float(entropy(P) + entropy(Q)) + relation + 5 * attended
    assert float(total) == pytest.approx(expected, abs=1e-5)


def test_window_of_the_specification() -> None:
    got = window(torch.tensor([[0.5, 0.25]]), torch.tensor([0.8]), 3, 3, 0.05)[0]
    outer = [0.020116, 0.020116, 0.000039]
    expected = torch.tensor([outer, [0.457833, 0.457833, 0.000884], outer])
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_one_hot_cosines_are_finite() -> None:
    p = torch.eye(2).repeat(2, 1).requires_grad_()
    loss = relation_loss(p, torch.tensor([0, 0, 0, 1]))
    assert math.isfinite(float(loss.detach()))
    assert bool(torch.isfinite(torch.autograd.grad(loss, p)[0]).all())


def test_groups_are_those_of_kmeans_or_each_image_alone() -> None:
    d = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0) + np.float32(0.01)
    groups = relation_groups(d, 2, 0.1, 0)
    assert len(set(groups[:10])) == len(set(groups[10:])) == 1
    assert groups[0] != groups[10]
    assert relation_groups(np.r_[d[:1], np.repeat(d[10:], 3, axis=0)], 2, 0.1, 0).tolist() == list(
        range(31)
    )
    assert relation_groups(d[:10], 2, 0.1, 0).tolist() == list(range(10))


def test_moved_maps_are_flips_and_shifts_of_the_map() -> None:
    maps = torch.arange(12.0).view(1, 3, 4, 1)
    rng = np.random.default_rng(0)
    seen = {tuple(moved(maps, 1, rng).flatten().tolist()) for _ in range(300)}
    assert len(seen) == 18
    assert tuple(maps.flatten().tolist()) in seen
    assert tuple(maps.flip(2).flatten().tolist()) in seen


def test_larger_maps_are_averaged_and_projected() -> None:
    tokens = np.random.default_rng(0).standard_normal((5, 16, 6)).astype(np.float32)
    maps = token_maps(tokens, (4, 4), Settings(most_patches=2, components=6), 0)
    assert maps.shape == (5, 2, 2, 6)
    cell = tokens.reshape(5, 2, 2, 2, 2, 6).mean((2, 4)).reshape(20, 6)
    mine = torch.cdist(maps.flatten(0, 2), maps.flatten(0, 2))
    theirs = torch.cdist(torch.from_numpy(cell), torch.from_numpy(cell))
    torch.testing.assert_close(mine / mine.max(), theirs / theirs.max(), atol=1e-3, rtol=0)
