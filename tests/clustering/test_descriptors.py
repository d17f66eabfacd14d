"""Descriptors against direct computations, and what must not change them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from pipeline.clustering.descriptors import PooledTokens, one_row_a_part, region_descriptors
from pipeline.mgvit.augmentation import resized_side
from pipeline.mgvit.backbone import create_vit, embed, normalization
from pipeline.mgvit.precision import autocast_for

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


def test_a_pixel_counts_by_its_weight_on_any_scale(vit) -> None:
    images, _ = pair()
    size = resized_side(SIZE)
    images = np.stack([cv2.resize(image, (size, size)) for image in images])
    weights = np.zeros((3, size, size), np.uint8)
    weights[:, : size // 2], weights[:, size // 2 :] = 200, 2
    over = PooledTokens(vit, [1], device=torch.device("cpu")).over
    uneven, half = over(images, weights, size=SIZE), over(images, weights // 2, size=SIZE)
    np.testing.assert_allclose(uneven, half, rtol=1e-4, atol=1e-5)
    top, even = (over(images, (weights > n).astype(np.uint8), size=SIZE) for n in (100, 0))
    assert np.linalg.norm(uneven - top) < 0.2 * np.linalg.norm(even - top)


def test_pieces_do_not_matter(vit) -> None:
    images, masks = pair()
    pool = PooledTokens(vit, [1], device=torch.device("cpu"))
    small = pool.over(images, masks, size=SIZE, batch=2)
    np.testing.assert_allclose(small, pool.over(images, masks, size=SIZE), rtol=1e-3, atol=1e-4)
    assert pool.over(images[:0], masks[:0], size=SIZE).shape == (0, 1, vit.embed_dim)


def test_bfloat16_products_give_float32_tokens(vit) -> None:
    """As `compute.dtype: auto` has it on a recent GPU."""
    images, masks = pair()
    cpu = torch.device("cpu")
    exact = PooledTokens(vit, [1], device=cpu)(images, masks)
    rough = PooledTokens(vit, [1], device=cpu, autocast=lambda: autocast_for(cpu, "bfloat16"))(
        images, masks
    )
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_unknown_layer(vit) -> None:
    with pytest.raises(ValueError, match="layers are"):
        PooledTokens(vit, [99], device=torch.device("cpu"))


def test_scale_and_common_appearance_do_not_matter() -> None:
    pooled = np.random.default_rng(1).normal(size=(30, 2, 8))
    d = region_descriptors(pooled)
    assert d.shape == (30, 2, 8)
    np.testing.assert_allclose(d.var(0).sum(-1), 1)
    np.testing.assert_allclose(region_descriptors(pooled * [[[3.0], [0.2]]] + 7), d, atol=1e-9)


def test_layers_count_alike() -> None:
    pooled = np.random.default_rng(1).normal(size=(30, 2, 8)) * [[[100.0], [1.0]]]
    d = region_descriptors(pooled)
    np.testing.assert_allclose(d.var(0).sum(-1), [1, 1])
    np.testing.assert_allclose(np.ptp(np.linalg.norm(d, axis=-1), axis=0), 0, atol=1e-9)


def test_degenerate_sets() -> None:
    assert np.all(region_descriptors(np.ones((4, 1, 3))) == 0)
    assert region_descriptors(np.zeros((0, 1, 3))).shape == (0, 1, 3)
    with pytest.raises(ValueError, match="not \\(M, L, D\\)"):
        region_descriptors(np.ones((4, 3)))


def test_a_part_of_several_images_is_one_row():
    values = np.arange(14.0).reshape(7, 2)
    images, parts = [0, 0, 1, 2, 3, 4, 4], [9, 9, 5, 9, 5, 1, 1]
    found = one_row_a_part(values, images, parts)
    means = [values[[0, 1, 3]].mean(0), values[[2, 4]].mean(0), values[5], values[6]]
    np.testing.assert_allclose(found, means)


def test_images_by_themselves_stay_as_they_are():
    values = np.random.default_rng(0).normal(size=(5, 2, 3))
    images = [0, 0, 1, 2, 2]
    for parts in (None, [3, 3, 1, 2, 2]):
        np.testing.assert_array_equal(one_row_a_part(values, images, parts), values)
    assert one_row_a_part(np.zeros((0, 2, 3)), [], []).shape == (0, 2, 3)
