"""BLCA: its descriptor, threshold and loss by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.peers.blca import blurred, descriptors, pair_loss, threshold, weights


def test_weights_are_a_softmax_in_units_of_the_spread() -> None:
    scores = np.array([[0, 0, 1], [0, 0, 0.5]], np.float32)
    got = weights(scores, 0.5)
    exp = np.exp(np.array([[0, 0, 2], [0, 0, 1]]))
    np.testing.assert_allclose(got, exp / exp.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(weights(7 * scores, 0.5), got, rtol=1e-5)
    np.testing.assert_allclose(weights(np.zeros((1, 4), np.float32), 0.5), 0.25)


def test_the_blur_stays_within_an_image_and_the_mean_of_an_image_is_0() -> None:
    tokens = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32)
    got = blurred(tokens, 0.5)
    np.testing.assert_allclose(got.mean((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(blurred(tokens[:1], 0.5), got[:1], atol=1e-6)
    sharp = blurred(tokens, 0.0)
    np.testing.assert_allclose(sharp, tokens - tokens.mean((1, 2), keepdims=True), atol=1e-6)
    assert sharp.std() > got.std()


def test_descriptors_of_uniform_weights_vanish_and_of_one_patch_are_it() -> None:
    tokens = np.random.default_rng(1).standard_normal((2, 2, 2, 3)).astype(np.float32)
    uniform = np.full((2, 4), 0.25, np.float32)
    np.testing.assert_allclose(descriptors(tokens, uniform, 0.0), 0, atol=1e-6)
    one = np.eye(4, dtype=np.float32)[[1, 2]]
    expected = tokens[[0, 1], [0, 1], [1, 0]] - tokens.mean((1, 2))
    np.testing.assert_allclose(descriptors(tokens, one, 0.0), expected, atol=1e-6)


def test_threshold_is_the_quantile_of_the_normal_cluster() -> None:
    found = np.repeat(np.array([[0, 0], [5, 5]], np.float32), [6, 4], axis=0)
    peaks = np.r_[np.linspace(0.1, 0.2, 6), np.linspace(0.8, 0.9, 4)].astype(np.float32)
    got = threshold(found, peaks[:, None], 2, 0)
    assert got == pytest.approx(float(np.quantile(peaks, 0.6)))


def test_pair_loss_by_hand() -> None:
    a, b, c = torch.eye(3)
    sets = [x[None] for x in (a, a, b, c, F.normalize(a + b, dim=0))]
    # ||P-P'||^2 = 0, ||Q-Q'||^2 = 2, ||P-Q'||^2 = 2, ||P'-P''||^2 = 2 - sqrt 2
    assert float(pair_loss(*sets, margin=0.5)) == pytest.approx(1.0)
    assert float(pair_loss(*sets, margin=1.0)) == pytest.approx(1 + (2**0.5 - 1) / 2, abs=1e-6)


def test_pairs_without_patches_are_left_out() -> None:
    a, b = torch.eye(2)[:, None]
    none = torch.empty(0, 2)
    assert float(pair_loss(none, none, a, b, none, margin=0.5)) == pytest.approx(2)
    assert float(pair_loss(none, none, none, b, none, margin=0.5)) == 0
