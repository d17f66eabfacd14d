"""Tokens before the trainable block: only visible ones kept, rows and views where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.params import Views
from pipeline.io.networks import augmentations, masking
from pipeline.mgvit.attention import (
    ClassBlock,
    create_vit,
    frozen_tokens,
    normalization,
    patch_keep,
)
from pipeline.mgvit.augmentation import plain_view
from pipeline.mgvit.heads import MultiHead
from pipeline.mgvit.prediction import predict
from pipeline.mgvit.tokens import (
    CachedViews,
    FreshViews,
    FrozenBlocks,
    Joined,
    RaggedTokens,
    concatenate,
    iter_augmented,
    iter_plain,
    two_views,
)

NAME, SIZE = "test_vit.r160_in1k", 64
OPTIONS = Views(image_size=SIZE, mask_layers=2)


@pytest.fixture(scope="module")
def blocks() -> FrozenBlocks:
    vit = create_vit(NAME, None, image_size=SIZE)
    return FrozenBlocks(vit, masking(OPTIONS), device=torch.device("cpu"))


def crops(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    masks = np.zeros((n, 256, 256), np.uint8)
    masks[:, 40:170, 60:200] = 1
    masks[0] = 0
    return rng.integers(0, 256, (n, 256, 256, 3), dtype=np.uint8), masks


def ragged(lengths: list[int]) -> RaggedTokens:
    flat = np.arange(sum(lengths) * 2, dtype=np.float16).reshape(-1, 2)
    return RaggedTokens(flat, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def test_gather_pads_to_the_longest_row() -> None:
    tokens, visible = ragged([1, 3, 2]).gather(np.array([2, 0, 2]))
    assert visible.tolist() == [[True, True], [True, False], [True, True]]
    assert tokens[0].tolist() == [[8, 9], [10, 11]]
    assert tokens[1].tolist() == [[0, 1], [0, 0]]
    assert tokens.dtype == torch.float32


@given(n_views=st.integers(2, 9), seed=st.integers(0, 99))
def test_two_views_differ(n_views: int, seed: int) -> None:
    first, second = two_views(50, n_views, np.random.default_rng(seed))
    assert (first != second).all()
    assert min(first.min(), second.min()) >= 0
    assert max(first.max(), second.max()) < n_views


def test_cached_pairs_are_views_of_the_sample_asked_for() -> None:
    source = CachedViews(ragged([1] * 12), n_views=3)  # sample s has rows 3s, 3s + 1, 3s + 2
    samples = np.array([3, 0, 3])
    tokens, _ = source.pairs(samples, 0, np.random.default_rng(0), np.arange(6))
    rows = (tokens[:, 0, 0] / 2).long().numpy()
    np.testing.assert_array_equal(rows // 3, np.r_[samples, samples])
    assert (rows[:3] != rows[3:]).all()


def test_the_frozen_blocks_keep_the_visible_tokens_alone(blocks: FrozenBlocks) -> None:
    images, masks = crops(3)
    views = [plain_view(i, m, size=SIZE) for i, m in zip(images, masks, strict=True)]
    kept = blocks(np.stack([v for v, _ in views]), np.stack([m for _, m in views]))
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in normalization(blocks.vit))
    pixels = torch.from_numpy(np.stack([v for v, _ in views])).permute(0, 3, 1, 2) / 255
    keep = patch_keep(
        torch.from_numpy(np.stack([m for _, m in views])), 16, threshold=OPTIONS.mask_threshold
    )
    full = frozen_tokens(blocks.vit, (pixels - mean) / std, keep, mask_on="class", mask_layers=2)
    assert np.diff(kept.offsets).tolist() == [1, 1 + int(keep[1].sum()), 1 + int(keep[2].sum())]
    assert keep[1].any()
    expected = torch.cat([full[1, :1], full[1, 1:][keep[1]]]).numpy()
    actual = kept.flat[kept.offsets[1] : kept.offsets[2]]
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)


def test_values_go_back_to_where_their_tokens_were() -> None:
    kept = np.array([[True, False, True, True], [True, False, False, False]])
    tokens = RaggedTokens(np.zeros((4, 2), np.float16), np.array([0, 3, 4]), kept)
    spread = tokens.spread(np.array([[1, 2, 3], [4, 9, 9]], np.float32))
    assert spread.tolist() == [[1, 0, 2, 3], [4, 0, 0, 0]]
    with pytest.raises(ValueError, match="do not say where"):
        ragged([1, 3]).spread(np.zeros((2, 3), np.float32))


def test_attention_lies_on_the_kept_patches_and_sums_to_one(blocks: FrozenBlocks) -> None:
    images, masks = crops(3)
    block = ClassBlock(blocks.vit).eval()
    heads = MultiHead(blocks.vit.embed_dim, 3, heads=1, generator=torch.Generator())
    result = predict(
        iter_plain(blocks, images, masks, batch=2), block, heads, head=0, device=blocks.device
    )
    assert result.attention is not None
    grid = SIZE // 16
    assert result.attention.shape == (3, 1 + grid**2)
    np.testing.assert_allclose(result.attention.sum(1), 1, rtol=1e-5)
    grey = np.stack([plain_view(i, m, size=SIZE)[1] for i, m in zip(images, masks, strict=True)])
    keep = patch_keep(torch.from_numpy(grey), 16, threshold=OPTIONS.mask_threshold).numpy()
    np.testing.assert_array_equal(result.attention[:, 1:] > 0, keep)
    assert result.attention[0, 0] == 1  # an empty mask


def test_pieces_and_numbering_do_not_matter(blocks: FrozenBlocks) -> None:
    images, masks = crops(4)
    options = {"n_views": 2, "seed": 5, "augmentations": augmentations(OPTIONS)}
    whole = concatenate(list(iter_augmented(blocks, images, masks, batch=3, **options)))
    parts = [
        *iter_augmented(blocks, images[:1], masks[:1], **options),
        *iter_augmented(blocks, images[1:], masks[1:], first_sample=1, **options),
    ]
    joined = concatenate(parts)
    np.testing.assert_array_equal(whole.offsets, joined.offsets)
    np.testing.assert_allclose(whole.flat, joined.flat, atol=4e-3)
    assert len(whole.offsets) == 4 * 2 + 1


def test_plain_views_of_no_crops_are_no_pieces(blocks: FrozenBlocks) -> None:
    images, masks = crops(2)
    assert list(iter_plain(blocks, images[:0], masks[:0])) == []
    assert sum(len(p.offsets) - 1 for p in iter_plain(blocks, images, masks, batch=1)) == 2


def test_fresh_views_differ_from_epoch_to_epoch(blocks: FrozenBlocks) -> None:
    images, masks = crops(3)
    source = FreshViews(
        blocks,
        Joined(images[:1], images[1:]),
        Joined(masks[:1], masks[1:]),
        augmentations(OPTIONS),
        0,
    )
    rng = np.random.default_rng(0)
    tokens, visible = source.pairs(np.array([0, 2]), 0, rng, np.arange(4))
    again, _ = source.pairs(np.array([0, 2]), 1, rng, np.arange(4))
    assert tokens.shape[0] == visible.shape[0] == 4
    assert visible[:, 0].all()
    assert not torch.equal(tokens[:, 0], again[:, 0])
    first, second = tokens[:2], tokens[2:]
    assert all(not torch.equal(a, b) for a, b in zip(first[:, 0], second[:, 0], strict=True))


def test_rows_of_a_batch_are_drawn_as_in_the_whole(blocks: FrozenBlocks) -> None:
    images, masks = crops(3)
    fresh = FreshViews(blocks, images, masks, augmentations(OPTIONS), 0)
    cached = CachedViews(ragged([1] * 9), n_views=3)
    samples, rows = np.array([0, 2, 1]), np.array([1, 2, 5])
    for source in (fresh, cached):
        whole, _ = source.pairs(samples, 0, np.random.default_rng(0), np.arange(6))
        rng = np.random.default_rng(0)
        part, visible = source.pairs(samples, 0, rng, rows)
        assert len(visible) == 3
        np.testing.assert_allclose(part[:, 0], whole[rows, 0], atol=1e-3)
        other = np.random.default_rng(0)
        source.pairs(samples, 0, other, rows[:1])
        assert rng.bit_generator.state == other.bit_generator.state


def test_joined_reads_from_the_right_part() -> None:
    both = Joined(np.arange(3), np.arange(10, 14))
    assert both.shape == (7,)
    assert [both[i] for i in (0, 2, 3, 6)] == [0, 2, 10, 13]
