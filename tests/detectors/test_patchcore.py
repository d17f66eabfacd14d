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


def _mean(layer: np.ndarray, size: int) -> np.ndarray:
    """Means over size x size patches with zeros around the grid, (N, 12, D)."""
    half = size // 2
    maps = layer.reshape(-1, 3, 4, layer.shape[2])
    maps = np.pad(maps, ((0, 0), (half, half), (half, half), (0, 0)))
    total = sum(maps[:, y : y + 3, x : x + 4] for y in range(size) for x in range(size))
    return np.asarray(total).reshape(layer.shape) / size**2


def _vectors(layers: list[np.ndarray], sizes: tuple[int, ...] = (1,)) -> np.ndarray:
    """Means of every layer over every size, joined, (N, 12, 5 * len(sizes))."""
    return np.concatenate([_mean(layer, size) for layer in layers for size in sizes], axis=-1)


def _naive_k_centre(points: np.ndarray, keep: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < keep:
        to_chosen = np.linalg.norm(points[:, None] - points[chosen][None], axis=-1).min(1)
        to_chosen[chosen] = -1
        chosen.append(int(to_chosen.argmax()))
    return chosen


@settings(max_examples=30)
@given(n=st.integers(1, 25), keep=st.integers(1, 30), seed=st.integers(0, 1000))
def test_k_centre_equals_the_definition(n, keep, seed):
    rng = np.random.default_rng(seed)
    points, start = rng.standard_normal((n, 3)), int(rng.integers(n))
    out = patchcore.k_centre(torch.from_numpy(points), keep, start=start)
    assert out.tolist() == _naive_k_centre(points, min(keep, n), start)


@pytest.mark.parametrize("pool", [1, 3, 10])
@pytest.mark.parametrize("products", [1, 4096])
def test_k_centre_from_a_small_pool_equals_the_definition(monkeypatch, pool, products):
    monkeypatch.setattr(patchcore, "_POOL", pool)
    monkeypatch.setattr(patchcore, "_PRODUCTS", products)
    points = np.random.default_rng(pool).standard_normal((60, 4))
    points[20:25] = points[3]  # duplicates are never taken twice
    out = patchcore.k_centre(torch.from_numpy(points), 50, start=7)
    assert out.tolist() == _naive_k_centre(points, 50, 7)


def test_k_centre_looks_at_all_points_only_now_and_then(monkeypatch):
    rounds = []
    catch_up = patchcore._catch_up
    monkeypatch.setattr(
        patchcore, "_catch_up", lambda *args: (rounds.append(len(args[3])), catch_up(*args))[1]
    )
    points = torch.from_numpy(np.random.default_rng(0).standard_normal((9000, 8)))
    patchcore.k_centre(points, 400)
    assert len(rounds) < 40


def test_k_centre_stops_when_only_duplicates_are_left():
    points = torch.tensor([[1.0, 2.0], [1.0, 2.0], [5.0, 0.0], [5.0, 0.0]])
    assert sorted(patchcore.k_centre(points, 4).tolist()) == [0, 2]


def test_bank_holds_normal_patches_at_full_width():
    layers = _layers(40)
    out, _ = patchcore.bank(layers, GRID, ratio=0.05, seed=3)
    assert out.shape == (24, 5)
    gaps = np.abs(_vectors(layers).reshape(-1, 1, 5) - out[None]).max(-1)  # (480, 24)
    assert gaps.min(axis=0).max() < 1e-6
    assert len(np.unique(gaps.argmin(axis=0))) == 24


def test_bank_is_capped_seeded_and_projected_when_wide():
    layers = [np.random.default_rng(1).standard_normal((5, 12, 200)).astype(np.float32)]
    a, b, c = (patchcore.bank(layers, GRID, ratio=1, maximum=7, seed=s)[0] for s in (0, 0, 1))
    assert a.shape == (7, 200)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_bank_of_all_patches_gives_zero_distances():
    layers = _layers(20)
    memory, _ = patchcore.bank(layers, GRID, ratio=1)
    assert len(memory) == 240
    distances, _ = patchcore.patch_distances(layers, GRID, memory)
    assert distances.max() == 0


@pytest.mark.parametrize("columns", [5, 4096])
@pytest.mark.parametrize("sizes", [(1,), (3,), (1, 3)])
def test_distances_equal_the_definition(monkeypatch, columns, sizes):
    monkeypatch.setattr(patchcore, "_COLUMNS", columns)
    queries, normals = _layers(18, seed=1), _layers(6)
    memory, _ = patchcore.bank(normals, GRID, neighbourhoods=sizes, ratio=0.6)
    distances, indices = patchcore.patch_distances(queries, GRID, memory, neighbourhoods=sizes)
    pairs = np.linalg.norm(_vectors(queries, sizes)[:, :, None] - memory[None, None], axis=-1)
    np.testing.assert_allclose(distances, pairs.min(-1), atol=1e-5)
    assert np.array_equal(indices, pairs.argmin(-1))


@pytest.mark.parametrize("neighbours", [1, 3, 9, 500])
@pytest.mark.parametrize("sizes", [(1,), (3,)])
def test_image_scores_equal_equation_7(neighbours, sizes):
    queries, normals = _layers(7, seed=1), _layers(6)
    memory, _ = patchcore.bank(normals, GRID, neighbourhoods=sizes, ratio=0.6)
    distances, indices = patchcore.patch_distances(queries, GRID, memory, neighbourhoods=sizes)
    out = patchcore.image_scores(
        queries,
        GRID,
        memory,
        distances,
        indices,
        neighbourhoods=sizes,
        neighbours=neighbours,
    )
    for image, score in zip(_vectors(queries, sizes), out, strict=True):
        pairs = np.linalg.norm(image[:, None] - memory[None], axis=-1)  # (P, M)
        worst = pairs.min(1).argmax()
        nearest = pairs[worst].argmin()
        around = np.argsort(np.linalg.norm(memory - memory[nearest], axis=1))[:neighbours]
        weight = 1 - np.exp(pairs[worst, nearest]) / np.exp(pairs[worst, around]).sum()
        assert score == pytest.approx(weight * pairs[worst, nearest], abs=1e-5)


def test_reweighting_can_be_off_and_needs_two_bank_patches():
    queries, memory = _layers(4, seed=1), patchcore.bank(_layers(6), GRID, ratio=0.6)[0]
    distances, indices = patchcore.patch_distances(queries, GRID, memory)
    plain = patchcore.image_scores(queries, GRID, memory, distances, indices, reweight=False)
    assert np.array_equal(plain, distances.max(1))
    distances, indices = patchcore.patch_distances(queries, GRID, memory[:1])
    alone = patchcore.image_scores(queries, GRID, memory[:1], distances, indices)
    assert np.array_equal(alone, distances.max(1))


def test_held_out_images_are_compared_with_the_patches_of_others():
    layers = _layers(6)
    memory, owners = patchcore.bank(layers, GRID, ratio=0.6)
    found = patchcore.held_out_distances(layers, GRID, memory, owners, [4, 1])
    for row, image in zip(found, (4, 1), strict=True):
        others = np.delete(_vectors(layers), image, axis=0).reshape(-1, 5)
        stored = np.array([m for m in memory if np.abs(others - m).max(1).min() < 1e-6])
        pairs = np.linalg.norm(_vectors(layers)[image][:, None] - stored[None], axis=-1)
        np.testing.assert_allclose(row, pairs.min(1), atol=1e-5)
    alone = patchcore.held_out_distances(layers, GRID, memory, np.zeros(len(memory), np.int64), [0])
    assert np.isinf(alone).all()


def test_held_out_parts_are_compared_with_other_parts():
    layers = _layers(6)
    memory, owners = patchcore.bank(layers, GRID, ratio=1.0)
    parts = np.array([0, 0, 1, 1, 2, 2])
    found = patchcore.held_out_distances(layers, GRID, memory, owners, [0], parts=parts)
    pairs = np.linalg.norm(
        _vectors(layers)[0][:, None] - _vectors(layers)[2:].reshape(-1, 5)[None], axis=-1
    )
    np.testing.assert_allclose(found[0], pairs.min(1), atol=1e-5)


def test_no_normal_images():
    with pytest.raises(ValueError, match="split 'normal' is empty"):
        patchcore.bank([np.zeros((0, 12, 3), np.float32)], GRID)
