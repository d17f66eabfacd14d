"""Descriptors against direct computations, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.descriptors import PooledTokens, region_descriptors
from pipeline.vit import create_vit, embed, normalization

SIZE = 64


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    import timm

    state = timm.create_model("test_vit.r160_in1k", num_classes=0).state_dict()
    return create_vit("test_vit.r160_in1k", state, image_size=SIZE)


def pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (3, SIZE, SIZE, 3), np.uint8)
    masks = np.zeros((3, SIZE, SIZE), np.float32)
    masks[0, 5:30, 20:50] = 1
    masks[1, 40:44, 3:9] = 1
    return images, masks


def test_pooled_tokens_are_the_mask_weighted_mean(vit) -> None:
    images, masks = pair()
    pooled = PooledTokens(vit, [1, 0], device=torch.device("cpu"))(images, masks)
    mean, std = normalization(vit)
    pixels = (images / 255 - np.array(mean)) / np.array(std)
    patch = vit.patch_embed.patch_size[0]
    with torch.inference_mode():
        tokens = embed(vit, torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
        layers = []
        for block in vit.blocks[:2]:
            tokens = block(tokens)
            layers.append(tokens[:, vit.num_prefix_tokens :].numpy())
    for i in range(3):
        weights = np.array(
            [
                masks[i, y : y + patch, x : x + patch].mean()
                for y in range(0, SIZE, patch)
                for x in range(0, SIZE, patch)
            ]
        )
        weights = weights if weights.any() else np.ones_like(weights)
        for column, layer in enumerate((1, 0)):
            expected = (weights[:, None] * layers[layer][i]).sum(0) / weights.sum()
            np.testing.assert_allclose(pooled[i, column], expected, rtol=1e-3, atol=1e-4)


def test_pieces_do_not_matter(vit) -> None:
    images, masks = pair()
    pool = PooledTokens(vit, [1], device=torch.device("cpu"))
    small = pool.over(images, masks, size=SIZE, batch=2)
    np.testing.assert_allclose(small, pool.over(images, masks, size=SIZE), rtol=1e-3, atol=1e-4)
    assert pool.over(images[:0], masks[:0], size=SIZE).shape == (0, 1, vit.embed_dim)


def test_unknown_layer(vit) -> None:
    with pytest.raises(ValueError, match="layers are"):
        PooledTokens(vit, [99], device=torch.device("cpu"))


def described(**changes):
    rng = np.random.default_rng(1)
    values = {
        "pooled": rng.normal(size=(30, 2, 8)),
        "areas_px": rng.integers(1, 4000, 30).astype(float),
        "scores": rng.random(30),
    } | changes
    return region_descriptors(**values)


def test_the_parts_have_the_stated_variance() -> None:
    d = described(geometry_weight=0.5)
    assert d.shape == (30, 18)
    np.testing.assert_allclose(d[:, :16].var(0).sum(), 1)
    np.testing.assert_allclose(d[:, 16:].var(0).sum(), 0.25)


def test_units_of_length_and_common_appearance_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    pooled = rng.normal(size=(30, 2, 8))
    areas = rng.integers(1, 4000, 30).astype(float)
    d = described()
    np.testing.assert_allclose(described(areas_px=areas * 9), d, atol=1e-9)
    np.testing.assert_allclose(described(pooled=pooled + 7.0), d, atol=1e-9)


def test_an_empty_mask_has_neutral_geometry() -> None:
    areas = np.r_[np.zeros(5), np.linspace(10, 900, 25)]
    scores = np.r_[np.full(5, 0.9), np.linspace(0.1, 0.8, 25)]
    d = described(areas_px=areas, scores=scores)
    assert np.all(d[:5, 16:] == 0)
    assert np.all(np.isfinite(d))


def test_constant_inputs_stay_finite() -> None:
    d = region_descriptors(np.ones((4, 1, 3)), np.zeros(4), np.zeros(4))
    assert np.all(d == 0)
    assert region_descriptors(np.zeros((0, 1, 3)), [], []).shape == (0, 5)
    with pytest.raises(ValueError, match="not of the same regions"):
        region_descriptors(np.ones((4, 1, 3)), np.zeros(3), np.zeros(4))
