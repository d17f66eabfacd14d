"""Pre-norm ViTs with quick GELU (CLIP's), against timm's own forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.mgvit.backbone import create_vit, forward_features, normalization

CLIP = "vit_large_patch14_clip_quickgelu_336.openai"
"""The ViT of the paper's MuSc."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make timm's models narrow and shallow, and else as they are."""
    original = timm.create_model

    def create(name: str, **options: Any) -> VisionTransformer:
        vit: VisionTransformer = original(name, embed_dim=48, num_heads=3, depth=4, **options)
        return vit

    monkeypatch.setattr("pipeline.mgvit.backbone.timm.create_model", create)


def by_timm(vit: VisionTransformer, pixels: Tensor, layers: list[int]) -> tuple[list[Tensor], Any]:
    """Patch tokens after blocks, by hooks in timm's forward pass, and its class token."""
    seen: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, i=i: seen.__setitem__(i, out))
        for i, block in enumerate(vit.blocks)
    ]
    tokens = vit.forward_features(pixels)
    for hook in hooks:
        hook.remove()
    return [seen[layer][:, 1:] for layer in layers], tokens[:, 0]


@pytest.mark.parametrize("size", [336, 518])
@pytest.mark.usefixtures("small")
def test_clip_is_run_as_timm_runs_it(size: int) -> None:
    native = create_vit(CLIP, None)
    vit = create_vit(CLIP, native.state_dict(), image_size=size)
    assert isinstance(vit.norm_pre, nn.LayerNorm)
    assert type(vit.blocks[0].mlp.act).__name__ == "QuickGELU"
    assert isinstance(vit.blocks[0].ls1, nn.Identity)
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    found, head = forward_features(vit, pixels, layers=[3, 1])
    plain = timm.create_model(CLIP, pretrained=False, num_classes=0, img_size=size).eval()
    side = size // 14
    grid = native.pos_embed[:, 1:].reshape(1, 24, 24, 48).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    positions = torch.cat([native.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)
    plain.load_state_dict({**native.state_dict(), "pos_embed": positions})
    with torch.inference_mode():
        expected, class_token = by_timm(plain, pixels, [3, 1])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == (2, side**2, 48)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head, class_token, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_whole_clip_takes_the_paper_s_size_and_blocks() -> None:
    vit = create_vit(CLIP, None, image_size=518)
    layers = [5, 11, 17, 23]
    tokens, head = forward_features(vit, torch.zeros(1, 3, 518, 518), layers=layers)
    assert [layer.shape for layer in tokens] == [(1, 37 * 37, 1024)] * 4
    assert head.shape == (1, 1024)
    assert sum(p.numel() for p in vit.parameters()) > 3e8


def test_clip_has_its_own_normalisation() -> None:
    assert normalization(CLIP)[0] == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


@pytest.mark.parametrize(
    ("aspect", "grid"), [(1.0, (4, 4)), (0.25, (2, 8)), (4.0, (8, 2)), (1.7, (5, 3)), (20, (18, 1))]
)
def test_inputs_keep_an_aspect_at_about_as_many_patches(aspect: float, grid: Any) -> None:
    """The positions are those of the whole grid, squeezed as the image is."""
    state = create_vit("test_vit", None, image_size=160).state_dict()
    vit = create_vit("test_vit", state, image_size=64, aspect=aspect)
    assert vit.patch_embed.grid_size == grid
    rows, columns = grid
    pixels = torch.randn(2, 3, 16 * rows, 16 * columns, generator=torch.Generator().manual_seed(0))
    tokens, head = forward_features(vit, pixels, layers=[1])
    assert tokens[0].shape == (2, rows * columns, 64)
    old = state["pos_embed"][:, 1:].reshape(1, 10, 10, 64).permute(0, 3, 1, 2)
    new = nn.functional.interpolate(old, grid, mode="bicubic", align_corners=False)
    torch.testing.assert_close(vit.pos_embed[:, 1:], new.flatten(2).transpose(1, 2))
    plain = timm.create_model("test_vit", num_classes=0, img_size=pixels.shape[2:]).eval()
    plain.load_state_dict({**state, "pos_embed": vit.pos_embed})
    with torch.inference_mode():
        (expected,), class_token = by_timm(plain, pixels, [1])
    torch.testing.assert_close(tokens[0], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head, class_token, atol=1e-5, rtol=1e-4)
