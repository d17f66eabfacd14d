"""GCD's objective, and that its clustering is on trained tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.mgvit import losses
from pipeline.mgvit.contrastive import info_nce
from pipeline.peers.gcd import GCD, Settings, objective
from pipeline.peers.gcd_kmeans import SemiSupervisedKMeans
from pipeline.peers.training import Budget, training_set
from tests.peers.blobs import blobs


def test_the_objective_weighs_both_contrasts() -> None:
    z = F.normalize(torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.tensor([0, -1, 1, 0, -1])
    known = labels >= 0
    supcon = losses.supervised_contrastive(z[:, known].flatten(0, 1), labels[known].repeat(2), 0.07)
    expected = 0.65 * losses.info_nce(z[0], z[1], 1.0) + 0.35 * supcon
    torch.testing.assert_close(objective(z, labels, Settings()), expected)
    none = torch.full((5,), -1)
    expected = 0.65 * info_nce(z[0], z[1], 1.0)
    torch.testing.assert_close(objective(z, none, Settings()), expected)


def test_without_training_it_is_the_clamped_kmeans_and_with_it_tokens_change() -> None:
    data, _ = blobs(3, 40, noise=0.3)
    still = GCD(Settings(hidden=8), Budget("sgd", 0.0, 32, 1))
    assert np.array_equal(still(data, 3, 2).labels, SemiSupervisedKMeans()(data, 3, 2).labels)
    samples = training_set(data, use_base=True)
    trained = GCD(Settings(hidden=8), Budget("sgd", 0.1, 32, 3))._train(samples, 0)
    with torch.no_grad():
        assert float((trained(samples.plain) - samples.plain).abs().max()) > 1e-3


def test_the_open_set_reaches_the_clustering() -> None:
    data, _ = blobs(2, 20)
    method = GCD(Settings(hidden=8), Budget("sgd", 0.0, 32, 1), open_set=True)
    queries = replace(
        data, class_tokens=data.base_tokens, view_tokens=data.base_view_tokens, sample_ids=[]
    )
    assert method(queries, 1, 0).labels.max() >= 1
    assert replace(method, open_set=False)(queries, 1, 0).labels.max() == 0


@pytest.mark.parametrize("restarts", [1, 3])
def test_restarts_reach_the_clustering(restarts: int) -> None:
    data, _ = blobs(3, 30, noise=0.4)
    method = GCD(Settings(hidden=8, restarts=restarts), Budget("sgd", 0.0, 32, 1))
    expected = SemiSupervisedKMeans(restarts)(data, 3, 4).labels
    assert np.array_equal(method(data, 3, 4).labels, expected)
