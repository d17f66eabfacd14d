from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.detectors import patchcore


def _layers(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, 12, d)).astype(np.float32) for d in (3, 2)]


GRID = (3, 4)


def _vectors(layers: list[np.ndarray]) -> np.ndarray:
    """3 x 3 means, layers concatenated, (N, 12, 5)."""
    parts = []
    for layer in layers:
        maps = np.pad(layer.reshape(-1, 3, 4, layer.shape[2]), ((0, 0), (1, 1), (1, 1), (0, 0)))
        total = sum(maps[:, y : y + 3, x : x + 4] for y in range(3) for x in range(3))
        parts.append(np.asarray(total).reshape(len(layer), 12, -1) / 9)
    return np.concatenate(parts, axis=-1)


def _naive_k_centre(points: np.ndarray, keep: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < keep:
        to_chosen = np.linalg.norm(points[:, None] - points[chosen][None], axis=-1).min(1)
        to_chosen[chosen] = -1
        chosen.append(int(to_chosen.argmax()))
    return chosen


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 25), keep=st.integers(1, 30), seed=st.integers(0, 1000))
def test_k_centre_equals_the_definition(n, keep, seed):
    rng = np.random.default_rng(seed)
    points, start = rng.standard_normal((n, 3)), int(rng.integers(n))
    out = patchcore.k_centre(torch.from_numpy(points), keep, start=start)
    assert out.tolist() == _naive_k_centre(points, min(keep, n), start)


def test_k_centre_stops_when_only_duplicates_are_left():
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [5.0, 0.0], [5.0, 0.0]])
    assert sorted(patchcore.k_centre(points, 4).tolist()) == [0, 2]


def test_bank_holds_normal_patches_at_full_width():
    layers = _layers(40)
    out = patchcore.bank(layers, GRID, ratio=0.05, seed=3)
    assert out.shape == (24, 5)
    gaps = np.abs(_vectors(layers).reshape(-1, 1, 5) - out[None]).max(-1)  # (480, 24)
    assert gaps.min(axis=0).max() < 1e-6
    assert len(np.unique(gaps.argmin(axis=0))) == 24


def test_bank_is_capped_seeded_and_projected_when_wide():
    layers = [np.random.default_rng(1).standard_normal((5, 12, 200)).astype(np.float32)]
    a, b, c = (patchcore.bank(layers, GRID, ratio=1, maximum=7, seed=s) for s in (0, 0, 1))
    assert a.shape == (7, 200)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_bank_of_all_patches_gives_zero_distances():
    layers = _layers(20)
    memory = patchcore.bank(layers, GRID, ratio=1)
    assert len(memory) == 240
    distances, _ = patchcore.patch_distances(layers, GRID, memory)
    assert distances.max() == 0


@pytest.mark.parametrize("columns", [5, 4096])
def test_distances_equal_the_definition(monkeypatch, columns):
    monkeypatch.setattr(patchcore, "_COLUMNS", columns)
    queries, memory = _layers(18, seed=1), patchcore.bank(_layers(6), GRID, ratio=0.6)
    distances, indices = patchcore.patch_distances(queries, GRID, memory)
    pairs = np.linalg.norm(_vectors(queries)[:, :, None] - memory[None, None], axis=-1)
    np.testing.assert_allclose(distances, pairs.min(-1), atol=1e-5)
    assert np.array_equal(indices, pairs.argmin(-1))


@pytest.mark.parametrize("neighbours", [1, 3, 9, 500])
def test_image_scores_equal_equation_7(neighbours):
    queries, memory = _layers(7, seed=1), patchcore.bank(_layers(6), GRID, ratio=0.6)
    distances, indices = patchcore.patch_distances(queries, GRID, memory)
    out = patchcore.image_scores(queries, GRID, memory, distances, indices, neighbours=neighbours)
    for image, score in zip(_vectors(queries), out, strict=True):
        pairs = np.linalg.norm(image[:, None] - memory[None], axis=-1)  # (P, M)
        worst = pairs.min(1).argmax()
        nearest = pairs[worst].argmin()
        around = np.argsort(np.linalg.norm(memory - memory[nearest], axis=1))[:neighbours]
        weight = 1 - np.exp(pairs[worst, nearest]) / np.exp(pairs[worst, around]).sum()
        assert score == pytest.approx(weight * pairs[worst, nearest], abs=1e-5)


def test_reweighting_can_be_off_and_needs_two_bank_patches():
    queries, memory = _layers(4, seed=1), patchcore.bank(_layers(6), GRID, ratio=0.6)
    distances, indices = patchcore.patch_distances(queries, GRID, memory)
    plain = patchcore.image_scores(queries, GRID, memory, distances, indices, reweight=False)
    assert np.array_equal(plain, distances.max(1))
    distances, indices = patchcore.patch_distances(queries, GRID, memory[:1])
    alone = patchcore.image_scores(queries, GRID, memory[:1], distances, indices)
    assert np.array_equal(alone, distances.max(1))


def test_no_normal_images():
    with pytest.raises(ValueError, match="split 'normal' is empty"):
        patchcore.bank([np.zeros((0, 12, 3), np.float32)], GRID)
