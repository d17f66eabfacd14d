"""MGViT (section 3.3.1) with explicit attention matrices over all tokens in every block.

The same class tokens as `pipeline.mgvit.attention` gives with mask_on "class".
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.backbone import embed


def attention_bias(vit: VisionTransformer, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Return what is added to the logits, (B, 1, N, N): -inf where the class token must not look.

    `masks` (B, S, S) in [0, 1]; a patch is kept where their mean is at least `threshold`.
    """
    patch = vit.patch_embed.patch_size[0]
    keep = F.avg_pool2d(masks[:, None], patch).flatten(1) >= threshold  # (B, P)
    prefix = int(vit.num_prefix_tokens)
    n = prefix + keep.shape[1]
    bias = torch.zeros(len(masks), 1, n, n)
    hidden = torch.zeros(keep.shape).masked_fill(~keep, float("-inf"))
    bias[:, 0, 0, prefix:] = hidden
    return bias


def class_tokens(
    vit: VisionTransformer, images: Tensor, masks: Tensor, *, mask_layers: int = 9
) -> Tensor:
    """Return the normed class tokens (B, D) of normalised images (B, 3, S, S)."""
    return last_block(vit, frozen_blocks(vit, images, masks, mask_layers=mask_layers), masks)


@torch.no_grad()
def frozen_blocks(
    vit: VisionTransformer, images: Tensor, masks: Tensor, *, mask_layers: int = 9
) -> Tensor:
    """Return the tokens (B, N, D) before the last block."""
    bias = attention_bias(vit, masks)
    x = embed(vit, images)
    first_masked = len(vit.blocks) - mask_layers
    for i, block in enumerate(vit.blocks[:-1]):
        x = _block(block, x, bias if i >= first_masked else None)
    return x


def last_block(vit: VisionTransformer, x: Tensor, masks: Tensor) -> Tensor:
    """Run the last block, the one that learns, over all tokens (B, N, D); class tokens (B, D)."""
    x = _block(vit.blocks[-1], x, attention_bias(vit, masks))
    normed: Tensor = vit.norm(x)
    return normed[:, 0]


def _block(block: Block, x: Tensor, bias: Tensor | None) -> Tensor:
    x = x + block.ls1(_attention(block, block.norm1(x), bias))
    return x + block.ls2(block.mlp(block.norm2(x)))  # type: ignore[no-any-return]


def _attention(block: Block, x: Tensor, bias: Tensor | None) -> Tensor:
    attn = block.attn
    b, n, d = x.shape
    qkv = attn.qkv(x).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]  # (B, H, N, d)
    logits = (q @ k.transpose(-2, -1)) * attn.scale  # (B, H, N, N)
    if bias is not None:
        logits = logits + bias
    out = (logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d)
    return attn.proj(out)  # type: ignore[no-any-return]
