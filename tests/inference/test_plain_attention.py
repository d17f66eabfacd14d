"""The backbone's own attention, for the crops that the report shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.params import Views
from pipeline.inference.plain_attention import (
    EACH,
    plain_attention,
    shown_rows,
    write_plain_attention,
)
from pipeline.io.arrays import open_arrays
from pipeline.io.networks import masking
from pipeline.mgvit.attention import create_vit, embed
from pipeline.mgvit.augmentation import plain_view
from pipeline.mgvit.backbone import Normalise
from pipeline.mgvit.tokens import FrozenBlocks

SIZE = 64


@pytest.fixture(scope="module")
def blocks() -> FrozenBlocks:
    vit = create_vit("test_vit.r160_in1k", None, image_size=SIZE)
    options = Views(image_size=SIZE, mask_layers=2)
    return FrozenBlocks(vit, masking(options), device=torch.device("cpu"))


def crops(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    masks = np.zeros((n, 256, 256), np.uint8)
    masks[:, 100:140, 100:140] = 1
    return rng.integers(0, 256, (n, 256, 256, 3), np.uint8), masks


def test_it_is_the_softmax_of_the_unmasked_last_block(blocks: FrozenBlocks) -> None:
    images, masks = crops(2)
    found = plain_attention(blocks, images, masks)
    assert found.shape == (2, 4, 4)
    views = [plain_view(i, m, size=SIZE)[0] for i, m in zip(images, masks, strict=True)]
    pixels = Normalise(blocks.vit)(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float())
    tokens = embed(blocks.vit, pixels)
    for block in blocks.vit.blocks[:-1]:
        tokens = block(tokens)
    last = blocks.vit.blocks[-1]
    b, n, _ = tokens.shape
    qkv = last.attn.qkv(last.norm1(tokens)).reshape(b, n, 3, last.attn.num_heads, -1)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    weights = (q[:, :, :1] @ k.transpose(2, 3) * last.attn.scale).softmax(-1)[:, :, 0].mean(1)
    np.testing.assert_allclose(found.reshape(2, -1), weights[:, 1:].numpy(), rtol=1e-2, atol=1e-4)


def test_the_most_confident_of_each_class_are_shown() -> None:
    confidence = np.linspace(0.9, 0.6, 2 * EACH + 2)
    classes = np.arange(len(confidence)) % 2
    probabilities = np.where(np.eye(2)[classes] > 0, confidence[:, None], 1 - confidence[:, None])
    attention = np.zeros((len(confidence), 5), np.float32)
    attention[:, 0], attention[1:, 3] = 0.5, 0.5  # the first crop has no patch under its mask
    expected = [1, 2, 3, 4, 5, 6, 7, 8]
    assert shown_rows(probabilities, attention).tolist() == expected
    assert shown_rows(probabilities, None).tolist() == []


def test_rows_go_with_their_crops(blocks: FrozenBlocks, tmp_path: Path) -> None:
    images, masks = crops(4)
    write_plain_attention(tmp_path, (images, masks), np.array([1, 3]), blocks)
    group = open_arrays(tmp_path / "plain_attention.zarr")
    assert np.asarray(group["rows"]).tolist() == [1, 3]
    expected = plain_attention(blocks, images[[1, 3]], masks[[1, 3]])
    np.testing.assert_allclose(np.asarray(group["attention"]), expected, atol=1e-3)
    for rows, network in ((np.zeros(0, np.int64), blocks), (np.array([1]), None)):
        write_plain_attention(tmp_path, (images, masks), rows, network)
        assert len(np.asarray(open_arrays(tmp_path / "plain_attention.zarr")["rows"])) == 0
