"""Oracles: patches in one dimension, three images {0, 1}, {0, 3}, {.5, 0}."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.peers.anomaly_clustering import (
    AnomalyClustering,
    distances_to_bank,
    effective_patches,
    mask_weights,
    mutual_distances,
    softmax_weights,
    weighted_means,
)
from tests.peers.shapes import blobs

TOKENS = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.5, 0.0]])[..., None]
DELTA = [[0, 0.75], [0, 2.25], [0.5, 0]]


def test_distances_between_images() -> None:
    np.testing.assert_allclose(mutual_distances(TOKENS), DELTA, atol=1e-6)


def test_blocks_of_images_change_nothing() -> None:
    tokens = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0))
    all_pairs = torch.cdist(tokens[:, None], tokens[None]).amin(3)  # (i, j, P)
    expected = (all_pairs.sum(1) - all_pairs[range(20), range(20)]) / 19
    np.testing.assert_allclose(mutual_distances(tokens), expected, atol=1e-5)


def test_weights_and_means() -> None:
    alpha = softmax_weights(np.array(DELTA), tau=1)
    expected = [[0.320821, 0.679179], [0.095349, 0.904651], [0.622459, 0.377541]]
    np.testing.assert_allclose(alpha, expected, atol=1e-6)
    means = weighted_means(TOKENS, alpha)[:, 0]
    np.testing.assert_allclose(means, [0.679179, 2.713952, 0.311230], atol=1e-6)


def test_bank_of_normal_patches() -> None:
    delta = distances_to_bank(TOKENS, torch.tensor([[0.0], [0.4]]))
    np.testing.assert_allclose(delta, [[0, 0.6], [0, 2.6], [0.1, 0]], atol=1e-6)
    means = weighted_means(TOKENS, softmax_weights(delta, tau=1))[:, 0]
    np.testing.assert_allclose(means, [0.645656, 2.792585, 0.262490], atol=1e-6)


def test_a_constant_added_to_all_distances_changes_nothing() -> None:
    first, second = (softmax_weights(np.array(DELTA) + c, tau=0.5) for c in (0, 7))
    np.testing.assert_allclose(first, second)


def test_order_of_patches_does_not_matter() -> None:
    means = [
        weighted_means(t, softmax_weights(mutual_distances(t), 1)) for t in (TOKENS, TOKENS.flip(1))
    ]
    np.testing.assert_allclose(*means, atol=1e-6)


def test_limits_of_tau() -> None:
    """High: the plain mean. Low: the patch with the largest distance alone."""
    np.testing.assert_allclose(softmax_weights(np.array(DELTA), tau=1e6), 0.5, atol=1e-5)
    low = softmax_weights(np.array(DELTA), tau=1e-3)
    np.testing.assert_allclose(weighted_means(TOKENS, low)[:, 0], [1, 3, 0.5], atol=1e-6)


def test_masks_weigh_by_their_share_and_an_empty_one_alike() -> None:
    alpha = mask_weights(np.array([[0.5, 1.5, 0], [0, 0, 0]]))
    np.testing.assert_allclose(alpha, [[0.25, 0.75, 0], [1 / 3] * 3])


def test_effective_patches() -> None:
    assert effective_patches(np.full((2, 4), 0.25)) == pytest.approx(4)
    assert effective_patches(np.eye(4)) == pytest.approx(1)


@pytest.mark.parametrize("weights", ["mutual", "normals", "masks"])
def test_the_defect_weighs_more_than_the_rest(weights: str) -> None:
    data, _ = blobs()
    few = AnomalyClustering(weights, tau=0.1)(data, 3, 0).notes  # type: ignore[arg-type]
    assert few["effective patches"] < 9.5  # those whose 3 x 3 patches hold the defect
    all_patches = AnomalyClustering("average")(data, 3, 0).notes["effective patches"]
    assert all_patches == pytest.approx(16)


@pytest.mark.parametrize(("weights", "lacks"), [("normals", "normal"), ("masks", "masks")])
def test_what_is_missing_is_named(weights: str, lacks: str) -> None:
    data, _ = blobs()
    less = type(data)(data.class_tokens, patch_tokens=data.patch_tokens, grid=data.grid)
    with pytest.raises(ValueError, match=lacks):
        AnomalyClustering(weights)(less, 3, 0)  # type: ignore[arg-type]
