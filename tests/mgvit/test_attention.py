"""Masked attention against explicit matrices; the class block against the whole last block."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pipeline.mgvit.attention import (
    ClassBlock,
    MaskOn,
    autocast_for,
    create_vit,
    forward_features,
    frozen_tokens,
    normalization,
    patch_keep,
    visible_keys,
)

MODES: list[MaskOn] = ["class", "patch", "all", "none"]
PATCH, SIDE, DEPTH, DIM = 4, 4, 4, 12
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


def tiny_vit(
    *, scale: float | None = 0.3, registers: int = 0, qkv_bias: bool = True
) -> VisionTransformer:
    """A float64 ViT on 16 x 16 images, every parameter of which is drawn at random."""
    vit = VisionTransformer(
        img_size=PATCH * SIDE,
        patch_size=PATCH,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=3,
        num_classes=0,
        init_values=scale,
        reg_tokens=registers,
        qkv_bias=qkv_bias,
    ).double()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in vit.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = centre + 0.4 * draw
    return vit.requires_grad_(False).eval()


def some_images(seed: int = 2, b: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, 3, PATCH * SIDE, PATCH * SIDE, generator=generator, dtype=torch.float64)


def some_keep() -> Tensor:
    """Masks of every kind: some patches, none, all, a single one."""
    keep = torch.rand(4, SIDE * SIDE, generator=torch.Generator().manual_seed(3)) < 0.4
    keep[1], keep[2] = False, True
    keep[3] = False
    keep[3, 5] = True
    return keep


def allowed(keep: Tensor, n_prefix: int, mask_on: MaskOn) -> Tensor:
    """Who sees whom, entry by entry: (B, N, N) bool, queries along axis 1."""
    b, p = keep.shape
    n = n_prefix + p
    result = torch.ones(b, n, n, dtype=torch.bool)
    for i in range(b):
        for query in range(n):
            masked = (query == 0 and mask_on in ("class", "all")) or (
                query >= n_prefix and mask_on in ("patch", "all")
            )
            for key in range(1, n):  # registers, then patches
                if masked and (key < n_prefix or not keep[i, key - n_prefix]):
                    result[i, query, key] = False
    return result


def plain_block(block: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """A transformer block with explicit attention matrices; mask (B, N, N)."""
    attn = block.attn
    h = block.norm1(x)
    width = attn.qkv.weight.shape[0] // 3
    q, k, v = attn.qkv(h).split(width, dim=-1)
    size = width // attn.num_heads
    heads = []
    for i in range(attn.num_heads):
        part = slice(i * size, (i + 1) * size)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / size**0.5
        heads.append(logits.masked_fill(~mask, float("-inf")).softmax(-1) @ v[..., part])
    x = x + block.ls1(attn.proj(torch.cat(heads, -1)))
    return x + block.ls2(block.mlp(block.norm2(x)))


def plain_tokens(
    vit: VisionTransformer, images: Tensor, keep: Tensor, mask_on: MaskOn, mask_layers: int
) -> Tensor:
    x = vit._pos_embed(vit.patch_embed(images))
    mask = allowed(keep, vit.num_prefix_tokens, mask_on)
    for i, block in enumerate(vit.blocks[:-1]):
        masked = i >= DEPTH - mask_layers
        x = plain_block(block, x, mask if masked else torch.ones_like(mask))
    return x


@pytest.mark.parametrize("mask_on", MODES)
@pytest.mark.parametrize("mask_layers", [1, 3, 9])
@pytest.mark.parametrize("registers", [0, 2])
def test_frozen_tokens_equal_explicit_matrices(
    mask_on: MaskOn, mask_layers: int, registers: int
) -> None:
    vit, images, keep = tiny_vit(registers=registers), some_images(), some_keep()
    tokens = frozen_tokens(vit, images, keep, mask_on=mask_on, mask_layers=mask_layers)
    close(tokens, plain_tokens(vit, images, keep, mask_on, mask_layers))


def test_modes_and_layers_differ() -> None:
    vit, images, keep = tiny_vit(), some_images(), some_keep()
    results = [
        frozen_tokens(vit, images, keep, mask_on=mode, mask_layers=layers)
        for mode, layers in [("none", 3), ("class", 2), ("class", 3), ("patch", 3), ("all", 3)]
    ]
    for i, one in enumerate(results):
        assert all((one - other).abs().max() > 1e-3 for other in results[:i])


def test_one_masked_layer_is_the_last_block_alone() -> None:
    vit, images, keep = tiny_vit(), some_images(), some_keep()
    close(
        frozen_tokens(vit, images, keep, mask_on="class", mask_layers=1),
        frozen_tokens(vit, images, keep, mask_on="none", mask_layers=4),
    )


@pytest.mark.parametrize("registers", [0, 2])
def test_unmasked_equals_the_model(registers: int) -> None:
    vit, images = tiny_vit(registers=registers), some_images()
    keep = torch.ones(len(images), SIDE * SIDE, dtype=torch.bool)
    for mode in MODES if registers == 0 else ["none"]:  # a mask hides registers
        tokens = frozen_tokens(vit, images, keep, mask_on=mode, mask_layers=3)
        token = ClassBlock(vit)(tokens, visible_keys(vit, keep, mask_on=mode))
        close(token, vit.forward_features(images)[:, 0])


def test_forward_features_equal_the_model() -> None:
    vit, images = tiny_vit(registers=2), some_images()
    layers, token = forward_features(vit, images, layers=[3, 1])
    close(token, vit.forward_features(images)[:, 0])
    expected = vit.get_intermediate_layers(images, n=[1, 3])
    close(layers[0], expected[1])
    close(layers[1], expected[0])


def test_final_norm_of_an_averaging_model() -> None:
    vit = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=3, global_pool="avg"
    )
    nn.init.normal_(vit.fc_norm.weight, generator=torch.Generator().manual_seed(0))
    images = some_images().float()
    expected = vit.fc_norm(vit.forward_features(images)[:, 0])
    torch.testing.assert_close(forward_features(vit, images, layers=[0])[1], expected)


def reference_gradients(
    vit: VisionTransformer, tokens: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, gradient for the tokens and for the parameters of the whole last block."""
    block = copy.deepcopy(vit.blocks[-1]).requires_grad_(True)
    tokens = tokens.clone().requires_grad_(True)
    out = vit.norm(plain_block(block, tokens, mask))[:, 0]
    (out.sin() + out**2).sum().backward()
    assert tokens.grad is not None
    return (
        out.detach(),
        tokens.grad,
        {k: p.grad for k, p in block.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("mask_on", MODES)
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize(("registers", "qkv_bias"), [(0, True), (2, False)])
def test_class_block_equals_the_plain_block(
    mask_on: MaskOn, scale: float | None, registers: int, qkv_bias: bool
) -> None:
    vit, keep = tiny_vit(scale=scale, registers=registers, qkv_bias=qkv_bias), some_keep()
    tokens = plain_tokens(vit, some_images(), keep, "none", 1)
    mask = allowed(keep, vit.num_prefix_tokens, mask_on)
    expected, token_gradient, gradients = reference_gradients(vit, tokens, mask)
    block = ClassBlock(vit)
    tokens = tokens.requires_grad_(True)
    out = block(tokens, visible_keys(vit, keep, mask_on=mask_on))
    (out.sin() + out**2).sum().backward()
    close(out.detach(), expected)
    assert tokens.grad is not None
    close(tokens.grad, token_gradient)
    own = {k: p.grad for k, p in block.named_parameters() if p.requires_grad}
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        close(own[name], gradient)


def test_the_block_learns_and_the_final_norm_does_not() -> None:
    for trainable in (False, True):
        block = ClassBlock(tiny_vit().requires_grad_(trainable))
        assert {name for name, p in block.named_parameters() if not p.requires_grad} == {
            "norm.weight",
            "norm.bias",
        }


def test_empty_mask_leaves_the_class_token_to_itself() -> None:
    vit = tiny_vit()
    tokens = torch.randn(2, 17, DIM, dtype=torch.float64)
    visible = visible_keys(vit, torch.zeros(2, 16, dtype=torch.bool), mask_on="class")
    close(ClassBlock(vit)(tokens, visible), ClassBlock(vit)(tokens[:, :1], visible[:, :1]))
    close(
        ClassBlock(vit)(tokens, torch.zeros_like(visible)),
        ClassBlock(vit)(tokens, visible),
    )


def test_registers_carry_nothing_past_the_mask() -> None:
    """The class token of an empty mask depends on the position alone, not on the image."""
    vit, keep = tiny_vit(registers=2), torch.zeros(4, SIDE * SIDE, dtype=torch.bool)
    tokens = [
        frozen_tokens(vit, some_images(seed), keep, mask_on="class", mask_layers=DEPTH)
        for seed in (2, 3)
    ]
    visible = visible_keys(vit, keep, mask_on="class")
    assert (tokens[0][:, 1] - tokens[1][:, 1]).abs().max() > 1e-3
    close(ClassBlock(vit)(tokens[0], visible), ClassBlock(vit)(tokens[1], visible))


@pytest.mark.parametrize("registers", [0, 2])
def test_attention_is_the_first_row_of_the_explicit_matrices(registers: int) -> None:
    vit, keep = tiny_vit(registers=registers), some_keep()
    tokens = torch.randn(4, 17 + registers, DIM, dtype=torch.float64)
    visible = visible_keys(vit, keep, mask_on="class")
    weights = ClassBlock(vit).attention(tokens, visible)
    last = vit.blocks[-1]
    q, k, _ = last.attn.qkv(last.norm1(tokens)).split(DIM, dim=-1)
    size = DIM // 3
    for head in range(3):
        part = slice(head * size, (head + 1) * size)
        logits = (q[:, :1, part] @ k[..., part].transpose(1, 2)).squeeze(1) / size**0.5
        expected = logits.masked_fill(~visible, float("-inf")).softmax(-1)
        close(weights[:, head], expected)
    close(weights.sum(-1), torch.ones(4, 3, dtype=torch.float64))
    assert (weights[~visible[:, None].expand_as(weights)] == 0).all()
    close(weights[1, :, 0], torch.ones(3, dtype=torch.float64))  # an empty mask


def test_gathered_and_padded_tokens_give_the_same() -> None:
    vit, keep = tiny_vit(registers=2), some_keep()
    tokens = torch.randn(4, 18 + 1, DIM, dtype=torch.float64)
    visible = visible_keys(vit, keep, mask_on="class")
    rows = [t[v] for t, v in zip(tokens, visible, strict=True)]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    present = torch.arange(padded.shape[1]) < lengths[:, None]
    close(ClassBlock(vit)(padded, present), ClassBlock(vit)(tokens, visible))


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_hidden_tokens_have_no_influence(seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, 17, DIM, dtype=torch.float64, generator=generator)
    visible = torch.rand(2, 17, generator=generator) < share
    visible[:, 0] = True
    other = torch.where(visible[..., None], tokens, torch.full_like(tokens, 7.0))
    block = ClassBlock(tiny_vit())
    close(block(other, visible), block(tokens, visible))


def test_folding_keeps_the_function_and_changes_the_steps() -> None:
    vit = tiny_vit(scale=0.3)
    tokens = torch.randn(3, 17, DIM, dtype=torch.float64)
    visible = torch.ones(3, 17, dtype=torch.bool)
    blocks = [ClassBlock(vit), ClassBlock(vit, fold_layerscale=True)]
    outs = [block(tokens, visible) for block in blocks]
    close(outs[1], outs[0])
    for out in outs:
        out.square().sum().backward()
    apart, folded = (block.mlp.fc2.weight.grad for block in blocks)
    close(folded * vit.blocks[-1].ls2.gamma[:, None], apart)
    assert "ls1.gamma" in blocks[0].state_dict()
    assert "ls1.gamma" not in blocks[1].state_dict()
    assert vit.blocks[-1].ls1.gamma.requires_grad is False


def test_parameters_are_named_as_in_the_model() -> None:
    vit = tiny_vit()
    block = ClassBlock(vit)
    for parameter in block.parameters():
        parameter.data += 0.1
    state = block.state_dict()
    vit.blocks[-1].load_state_dict({k: v for k, v in state.items() if not k.startswith("norm.")})
    again = ClassBlock(vit)
    again.load_state_dict(state)
    tokens = torch.randn(2, 5, DIM, dtype=torch.float64)
    visible = torch.ones(2, 5, dtype=torch.bool)
    close(again(tokens, visible), block(tokens, visible))


def test_patch_keep_equals_means_in_loops() -> None:
    masks = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    masks[0] = 0
    masks[1, :4, :2] = 1  # half of the first patch, exactly
    masks[1, :4, 2:4] = 0
    keep = patch_keep(masks, 4, threshold=0.5)
    for i in range(3):
        for row in range(2):
            for column in range(2):
                pixels = masks[i, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                assert keep[i, 2 * row + column] == (pixels.double().mean() >= 0.5)
    assert keep[1, 0]
    assert not keep[0].any()
    assert patch_keep(masks[:2] > 0.5, 4, threshold=0.9).dtype == torch.bool
    with pytest.raises(ValueError, match="multiple of 3"):
        patch_keep(masks, 3, threshold=0.5)


def test_visible_keys() -> None:
    vit, keep = tiny_vit(registers=2), some_keep()
    for mode in MODES:
        expected = allowed(keep, 3, mode)[:, 0]
        assert torch.equal(visible_keys(vit, keep, mask_on=mode), expected)


def test_create_vit_reads_and_resamples() -> None:
    before = torch.get_rng_state()
    vit = create_vit("test_vit", None, image_size=64, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert vit.patch_embed.grid_size == (4, 4)
    assert not any(p.requires_grad for p in vit.parameters())
    state = vit.state_dict()
    again = create_vit("test_vit", state, image_size=64)
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
    larger = create_vit("test_vit", state, image_size=96)
    assert larger.pos_embed.shape[1] == 37
    assert torch.equal(larger.pos_embed[:, 0], state["pos_embed"][:, 0])
    images = torch.zeros(1, 3, 96, 96)
    assert forward_features(larger, images, layers=[0])[0][0].shape == (1, 36, 64)
    other = create_vit("test_vit", None, image_size=64, seed=2)
    assert not torch.equal(other.pos_embed, vit.pos_embed)


def test_create_vit_names_what_does_not_fit() -> None:
    state = dict(create_vit("test_vit", None, image_size=64).state_dict())
    with pytest.raises(ValueError, match=r"test_vit: 1 keys missing \(cls_token\), 0 keys unexp"):
        create_vit("test_vit", {k: v for k, v in state.items() if k != "cls_token"}, image_size=64)
    with pytest.raises(ValueError, match=r"1 keys unexpected \(nonsense\)"):
        create_vit("test_vit", {**state, "nonsense": state["cls_token"]}, image_size=64)
    with pytest.raises(ValueError, match=r"pos_embed has shape \(1, 8, 64\)"):
        create_vit("test_vit", {**state, "pos_embed": state["pos_embed"][:, :8]}, image_size=64)
    with pytest.raises(ValueError, match="no multiple of"):
        create_vit("test_vit", state, image_size=70)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_model", "not a timm model"),
        ("test_vit.no_such_tag", "not a timm model"),
        ("resnet10t", "it is a ResNet"),
        ("test_vit2", "no class token"),
    ],
)
def test_unusable_models_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        create_vit(name, None, image_size=64)


@pytest.mark.parametrize("change", [{"qk_norm": True}, {"norm_layer": "rmsnorm"}])
def test_attention_that_cannot_be_split_is_refused(change: dict[str, object]) -> None:
    vit = VisionTransformer(16, 4, embed_dim=12, depth=1, num_heads=3, **change)
    with pytest.raises(ValueError, match=r"normalised"):
        ClassBlock(vit)


def test_bad_arguments() -> None:
    vit, images, keep = tiny_vit(), some_images(), some_keep()
    with pytest.raises(ValueError, match="keep has shape"):
        frozen_tokens(vit, images, keep[:, :5], mask_on="class", mask_layers=3)
    with pytest.raises(ValueError, match="at least 1"):
        frozen_tokens(vit, images, keep, mask_on="class", mask_layers=0)
    with pytest.raises(ValueError, match="layers 0 to 3"):
        forward_features(vit, images, layers=[4])


def test_normalization_is_the_weights_own() -> None:
    assert normalization("test_vit") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    mean, _ = normalization("vit_base_patch8_224.dino")
    assert mean == (0.485, 0.456, 0.406)
    assert normalization(create_vit("test_vit", None, image_size=32)) == normalization("test_vit")


def test_precision() -> None:
    cpu = torch.device("cpu")
    vit = create_vit("test_vit", None, image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    keep = torch.ones(2, 16, dtype=torch.bool)
    keep[:, 3:] = False
    run = partial(frozen_tokens, vit, images, keep, mask_on="all", mask_layers=3)
    exact = run()
    with autocast_for(cpu, "float32"):
        assert torch.equal(run(), exact)
    with autocast_for(cpu, "bfloat16"):
        rounded = run()
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.cosine_similarity(rounded, exact, dim=-1).min() > 0.999
    with autocast_for(cpu, "auto"):
        assert torch.cosine_similarity(run(), exact, dim=-1).min() > 0.999


def test_positions_are_resampled_without_antialiasing() -> None:
    state = create_vit("test_vit", None, image_size=160).state_dict()
    smaller = create_vit("test_vit", state, image_size=64)
    grid = state["pos_embed"][:, 1:].reshape(1, 10, 10, -1).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, (4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(smaller.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))
