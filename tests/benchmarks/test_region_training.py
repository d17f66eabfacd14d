"""Trainings that the benchmarks compare: where they start, and that they sort what is easy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from benchmarks.network_variants import Stack
from benchmarks.region_heads import unlabelled
from benchmarks.region_training import (
    Basis,
    HeadSettings,
    VoteHeads,
    as_linear,
    divergence,
    train_heads,
    train_temi,
    vote_answers,
)
from pipeline.clustering.ensemble import MixtureEnsemble, fit_ensemble
from pipeline.mgvit.attention import ClassBlock, create_vit, frozen_tokens, visible_keys

SIZES = (20, 12, 8)


@pytest.fixture(scope="module")
def regions() -> np.ndarray:
    """Return descriptors (40, 2, 8) of three groups around three directions."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 8), SIZES, axis=0)[:, None]
    return np.asarray(centres + rng.normal(scale=0.1, size=(40, 2, 8)))


@pytest.fixture(scope="module")
def views(regions: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.asarray(regions + rng.normal(scale=0.05, size=(2, 40, 2, 8)))


@pytest.fixture(scope="module")
def blurred(regions: np.ndarray) -> np.ndarray:
    """Return the regions with so much noise that answers are not certain."""
    return np.asarray(regions + np.random.default_rng(2).normal(scale=0.3, size=regions.shape))


def _vote(regions: np.ndarray) -> MixtureEnsemble:
    options = {"dimensions": [2, 4], "extra_components": [0, 2]}
    return fit_ensemble(regions, np.ones(40), 4, normal_known=True, **options, seed=0)


@pytest.fixture(scope="module")
def vote(regions: np.ndarray) -> MixtureEnsemble:
    return _vote(regions)


def test_a_mixture_is_a_linear_softmax(vote: MixtureEnsemble, regions: np.ndarray) -> None:
    for mixture in vote.mixtures:
        weight, bias = as_linear(mixture)
        logits = torch.from_numpy(regions[:, mixture.layer] @ weight.T + bias)
        assert np.abs(logits.softmax(-1).numpy() - mixture.responsibilities(regions)).max() < 1e-9


def test_heads_start_as_the_vote(blurred: np.ndarray) -> None:
    vote, basis = _vote(blurred), Basis(blurred)
    with torch.no_grad():
        answers = VoteHeads(vote, basis)(basis(blurred)).mean(1).numpy()
    assert np.abs(answers - vote.probabilities(blurred)).max() < 1e-3


def test_heads_leave_the_vote(blurred: np.ndarray) -> None:
    views = blurred + np.random.default_rng(3).normal(scale=0.2, size=(2, *blurred.shape))
    vote = _vote(blurred)
    before = vote_answers(vote, blurred, views)
    after = train_heads(vote, blurred, views, HeadSettings(steps=20), 0)
    assert after.members.shape == (len(vote.mixtures), 40)
    assert after.plain.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.abs(after.plain - before.plain).max() > 0.01


def test_divergence_of_shares_is_that_of_scipy() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.1, 0.4])
    assert float(divergence(p, q)) == pytest.approx(entropy(p.numpy(), q.numpy()), abs=1e-6)


def test_temi_sorts_groups_and_leaves_out_known_normals(
    regions: np.ndarray, views: np.ndarray
) -> None:
    answers = train_temi(regions, views, 3, [1, 2, 3], 4, 0)
    found = answers.plain.argmax(1)
    groups = np.split(found, np.cumsum(SIZES)[:-1])
    assert sorted({int(c) for g in groups for c in g}) == [1, 2, 3]
    assert all(len(set(group.tolist())) == 1 for group in groups)
    members, of_views, silhouette = unlabelled(answers.plain, answers, regions)
    assert of_views == 1
    assert silhouette > 0.5
    assert members > 0.5


def test_two_class_blocks_start_as_the_network() -> None:
    torch.manual_seed(0)
    vit = create_vit("vit_tiny_patch16_224", None, image_size=32)
    keep = torch.tensor([[True, False, True, True]])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        above = frozen_tokens(vit, images, keep, mask_on="class", mask_layers=4)
        visible = visible_keys(vit, keep, mask_on="class")
        whole = ClassBlock(vit)(above, visible)
        upper = ClassBlock(vit)
        vit.blocks = torch.nn.Sequential(*list(vit.blocks)[:-1])
        below = frozen_tokens(vit, images, keep, mask_on="class", mask_layers=3)
        stacked = Stack(ClassBlock(vit), upper)(torch.cat([below, above], -1), visible)
    assert torch.allclose(stacked, whole, atol=1e-5)
