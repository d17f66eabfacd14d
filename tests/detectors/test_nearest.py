"""Distances to banks of normal patches, against the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.detectors import nearest
from pipeline.detectors.nearest import Bank, build_bank, distances

GRID = (4, 5)


def _tokens(n: int, d: int = 12, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    base = generator.standard_normal((1, 20, d))
    return (base + 0.5 * generator.standard_normal((n, 20, d))).astype(np.float32)


def _unit(tokens: np.ndarray, size: int) -> np.ndarray:
    n, _, d = tokens.shape
    maps, r = tokens.reshape(n, *GRID, d).astype(np.float64), size // 2
    means = np.zeros_like(maps)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            window = maps[:, max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
            means[:, y, x] = window.mean((1, 2))
    flat = means.reshape(n, -1, d)
    return flat / np.linalg.norm(flat, axis=-1, keepdims=True)


def _naive(queries: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.linalg.norm(queries[:, :, None] - stored[None, None], axis=-1).min(2)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("columns", [7, 1000])
def test_distances_equal_the_definition(monkeypatch, size, columns):
    monkeypatch.setattr(nearest, "_COLUMNS", columns)
    normal, queries = _tokens(3, seed=1), _tokens(6, seed=2)
    bank = build_bank(normal, GRID, size, keep=60)
    assert len(bank.patches) == 60
    found = distances(queries, GRID, size, bank)
    assert found.dtype == np.float32
    expected = _naive(_unit(queries, size), _unit(normal, size).reshape(60, -1))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_bank_holds_patches_of_the_images_it_names():
    normal = _tokens(40, seed=3)
    bank = build_bank(normal.astype(np.float16), GRID, 3, keep=50)
    assert bank.patches.dtype == np.float16
    assert bank.patches.shape == (50, 12)
    unit = _unit(normal.astype(np.float16), 3)
    for patch, owner in zip(bank.patches, bank.owners, strict=True):
        assert np.linalg.norm(unit[owner] - patch, axis=1).min() < 2e-3


def test_a_thinned_bank_covers_what_is_rare():
    """One odd patch of 800 stays; a random choice of 40 would miss it 19 times of 20."""
    normal = _tokens(40, seed=4) * 0.01 + _tokens(1, seed=4)
    normal[17, 3] = -normal[17, 3]
    bank = build_bank(normal, GRID, 1, keep=40)
    assert distances(normal[17:18], GRID, 1, bank)[0, 3] < 1e-2


def test_banks_are_seeded():
    normal = _tokens(20, d=200, seed=5)
    first, again, other = (build_bank(normal, GRID, 1, keep=30, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.patches, again.patches)
    assert not np.array_equal(first.patches, other.patches)


def test_an_image_is_not_compared_with_its_own_part():
    normal = _tokens(4, seed=6)
    owners = [0, 0, 1, 2]
    bank = build_bank(normal, GRID, 1, owners=owners, keep=80)
    found = distances(normal, GRID, 1, bank, parts=owners)
    unit = _unit(normal, 1)
    for image, others in enumerate(([2, 3], [2, 3], [0, 1, 3], [0, 1, 2])):
        expected = _naive(unit[image : image + 1], unit[others].reshape(-1, 12))
        np.testing.assert_allclose(found[image], expected[0], atol=2e-3)
    assert distances(normal, GRID, 1, bank).max() < 2e-3


def test_without_others_distances_are_infinite():
    bank = build_bank(_tokens(1), GRID, 1)
    assert np.isinf(distances(_tokens(1), GRID, 1, bank, parts=[0])).all()


@pytest.mark.parametrize("parts", [None, [5] * 6])
def test_half_precision_finds_nearly_the_nearest(parts):
    normal, queries = _tokens(30, d=64, seed=7), _tokens(6, d=64, seed=8)
    bank = build_bank(normal, GRID, 1, keep=600)
    exact = distances(queries, GRID, 1, bank, parts=parts)
    half = distances(queries, GRID, 1, bank, parts=parts, half=True)
    assert (half >= exact - 1e-6).all()
    np.testing.assert_allclose(half, exact, rtol=0.02)


def test_what_cannot_be_done_is_said():
    with pytest.raises(ValueError, match="at least one normal reference"):
        build_bank(np.zeros((0, 20, 4), np.float32), GRID, 1)
    with pytest.raises(ValueError, match="owners"):
        build_bank(_tokens(3), GRID, 1, owners=[0, 1])


def test_progress_ends_at_the_total():
    calls: list[tuple[int, int]] = []
    bank = Bank(torch.eye(12)[:3].numpy().astype(np.float16), np.arange(3))
    distances(_tokens(9), GRID, 1, bank, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (9, 9)
