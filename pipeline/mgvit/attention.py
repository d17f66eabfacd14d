"""Mask-guided ViT (AnomalyNCD section 3.3.1) on a plain timm `VisionTransformer`.

The blocks before the last are frozen: `frozen_tokens` gives the input of the last block. The last
block learns, and only its class token is used: `ClassBlock`. Tokens are ordered class token, other
prefix tokens (registers), then patches in row-major order; N = prefix tokens + P patches.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.mgvit.backbone import (
    check_plain,
    create_vit,
    embed,
    final_norm,
    forward_features,
    normalization,
)
from pipeline.mgvit.precision import autocast_for

__all__ = [
    "ClassBlock",
    "MaskOn",
    "autocast_for",
    "create_vit",
    "forward_features",
    "frozen_tokens",
    "normalization",
    "patch_keep",
    "visible_keys",
]

MaskOn = Literal["class", "patch", "all", "none"]
Span = tuple[int, int, bool]
"""Queries first to last (exclusive) and whether they see the visible keys only."""


def patch_keep(masks: Tensor, patch: int, *, threshold: float) -> Tensor:
    """Return which patches the mask keeps.

    Parameters
    ----------
    masks
        (B, S, S) in [0, 1].
    patch
        Side of a patch in pixels.
    threshold
        A patch is kept when the mean of its pixels is at least this.

    Returns
    -------
    (B, P) bool, row-major.

    Raises
    ------
    ValueError
        When `patch` does not divide S.

    Examples
    --------
    >>> mask = torch.zeros(1, 4, 4)
    >>> mask[0, :2, 1:] = 1
    >>> patch_keep(mask, 2, threshold=0.5).tolist()
    [[True, True, False, False]]
    """
    if masks.ndim != 3 or masks.shape[1] % patch or masks.shape[2] % patch:
        raise ValueError(f"masks {tuple(masks.shape)} are not (B, S, S), S a multiple of {patch}")
    dtype = masks.dtype if masks.dtype == torch.float64 else torch.float32
    return F.avg_pool2d(masks[:, None].to(dtype), patch).flatten(1) >= threshold  # (B, P)


def visible_keys(vit: VisionTransformer, keep: Tensor, *, mask_on: MaskOn) -> Tensor:
    """Return (B, N) bool: the keys that the class token's query sees in a masked layer.

    All of them unless the mask is on the class token ('class', 'all'): then the class token itself
    and the kept patches of `keep` (B, P). Registers are hidden like patches outside the mask: they
    have seen those.
    """
    if mask_on in ("class", "all"):
        return _masked_keys(vit, keep)
    return torch.ones_like(_masked_keys(vit, keep))


def _masked_keys(vit: VisionTransformer, keep: Tensor) -> Tensor:
    with_registers = F.pad(keep, (int(vit.num_prefix_tokens) - 1, 0), value=False)
    return F.pad(with_registers, (1, 0), value=True)  # (B, N)


def frozen_tokens(
    vit: VisionTransformer, images: Tensor, keep: Tensor, *, mask_on: MaskOn, mask_layers: int
) -> Tensor:
    """Return the input tokens (B, N, D) of the last block.

    `images` (B, 3, S, S) are normalised, `keep` (B, P) is of `patch_keep`. In the last
    `mask_layers` of all layers, the trainable last one included (more than there are: in all), the
    masked queries see the class token and the kept patches alone. Masked are the class token's
    query ('class'), the patches' ('patch'), both ('all') or none; registers see everything and are
    hidden from masked queries. A patch that is not kept does not even see itself. Raises ValueError
    when `keep` does not fit.
    """
    if mask_layers < 1:
        raise ValueError(f"mask_layers must be at least 1, got {mask_layers}")
    tokens = embed(vit, images)  # (B, N, D)
    visible = _masked_keys(vit, keep)  # (B, N)
    if visible.shape != tokens.shape[:2]:
        raise ValueError(
            f"keep has shape {tuple(keep.shape)}, the images have "
            f"{len(tokens)} x {tokens.shape[1] - vit.num_prefix_tokens} patches"
        )
    spans = _query_spans(vit.num_prefix_tokens, tokens.shape[1], mask_on)
    first_masked = len(vit.blocks) - mask_layers
    for i, block in enumerate(vit.blocks[:-1]):
        masked = i >= first_masked and mask_on != "none"
        tokens = _masked_block(block, tokens, visible, spans) if masked else block(tokens)
    return tokens


def _query_spans(n_prefix: int, n_tokens: int, mask_on: MaskOn) -> list[Span]:
    """Cut the queries into neighbours that are masked alike."""
    on_class, on_patch = mask_on in ("class", "all"), mask_on in ("patch", "all")
    spans: list[Span] = []
    for start, stop, masked in (
        (0, 1, on_class),
        (1, n_prefix, False),
        (n_prefix, n_tokens, on_patch),
    ):
        if spans and spans[-1][2] == masked:
            spans[-1] = (spans[-1][0], stop, masked)
        elif stop > start:
            spans.append((start, stop, masked))
    return spans


def _masked_block(block: Block, tokens: Tensor, visible: Tensor, spans: list[Span]) -> Tensor:
    """Run a timm block in which each span of queries has its own key mask.

    Spans without a mask go through the fused kernel unmasked, and the class token's row alone
    costs next to nothing, so mask_on = 'class' is about as fast as no mask.
    """
    attn = block.attn
    b, n, _ = tokens.shape
    qkv = attn.qkv(block.norm1(tokens)).reshape(b, n, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, d)
    keys = visible[:, None, None]  # (B, 1, 1, N)
    parts = [
        F.scaled_dot_product_attention(
            q[:, :, start:stop], k, v, attn_mask=keys if masked else None
        )
        for start, stop, masked in spans
    ]
    out = torch.cat(parts, dim=2).transpose(1, 2).reshape(b, n, -1)  # (B, N, D)
    tokens = tokens + block.ls1(attn.proj(out))
    return tokens + block.ls2(block.mlp(block.norm2(tokens)))  # type: ignore[no-any-return]


class ClassBlock(nn.Module):
    """The last block, trainable, and the final norm, frozen: the class token's output alone.

    With a single query q per head the keys need not exist: k_j . q = x_j . (W_k^T q), and
    sum_j a_j v_j = W_v (sum_j a_j x_j) + b_v. The affine part of the first norm is moved out of
    the sums over tokens in the same way. The key's bias adds the same to all logits of a head, so
    it has no influence and its gradient is zero.

    Parameters are copies named as in timm's block, and `norm` for the final norm.

    Parameters
    ----------
    vit
        A plain timm ViT (`backbone.check_plain`); it is left as it is.
    fold_layerscale
        Multiply LayerScale into `attn.proj` and `mlp.fc2`: the same function, but gradient steps
        act on the output as if there was no LayerScale. Nothing happens without one.

    Raises
    ------
    ValueError
        For a ViT that is not plain.

    Examples
    --------
    >>> vit = create_vit("test_vit", None)
    >>> images, keep = torch.zeros(2, 3, 160, 160), torch.ones(2, 100).bool()
    >>> tokens = frozen_tokens(vit, images, keep, mask_on="class", mask_layers=1)
    >>> ClassBlock(vit)(tokens, torch.ones(2, 101).bool()).shape
    torch.Size([2, 64])
    """

    def __init__(self, vit: VisionTransformer, *, fold_layerscale: bool = False) -> None:
        super().__init__()
        check_plain(vit, "this model")
        block = copy.deepcopy(vit.blocks[-1]).requires_grad_(True)
        self.norm1, self.attn, self.ls1 = block.norm1, block.attn, block.ls1
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2
        self.norm = copy.deepcopy(final_norm(vit)).requires_grad_(False)
        if fold_layerscale:
            self.ls1 = _fold(self.attn.proj, self.ls1)
            self.ls2 = _fold(self.mlp.fc2, self.ls2)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return normed class tokens (B, D) from tokens (B, N, D) and visible (B, N) bool.

        `visible` marks the keys that the class token sees; it always sees itself (token 0). Hidden
        tokens have no influence (they must be finite), so rows may be gathered and padded.
        """
        x = F.layer_norm(tokens, tokens.shape[-1:], eps=self.norm1.eps)  # (B, N, D)
        first = tokens[:, 0]  # (B, D)
        first = first + self.ls1(self.attn.proj(self._attend(x, visible)))
        first = first + self.ls2(self.mlp(self.norm2(first)))
        return self.norm(first)  # type: ignore[no-any-return]

    def attention(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the class token's attention weights (B, H, N), at least float32.

        Arguments are those of `forward`. Over the visible keys, the class token's own (token 0)
        among them, the weights of a head sum to 1; those of hidden keys are 0.
        """
        return self._weights(F.layer_norm(tokens, tokens.shape[-1:], eps=self.norm1.eps), visible)

    def _weights(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return the attention weights (B, H, N) of the class token; x is standardised."""
        attn, gain, shift = self.attn, self.norm1.weight, self.norm1.bias
        heads = attn.num_heads
        w_q, w_k, _ = attn.qkv.weight.reshape(3, heads, -1, x.shape[-1]).unbind(0)  # (H, d, D)
        query = torch.einsum("bi,hdi->bhd", x[:, 0] * gain + shift, w_q)  # (B, H, d)
        if attn.qkv.bias is not None:
            query = query + attn.qkv.bias.reshape(3, heads, -1)[0]
        direction = torch.einsum("bhd,hdi->bhi", query * attn.scale, w_k) * gain  # (B, H, D)
        logits = torch.einsum("bhi,bni->bhn", direction, x)  # (B, H, N)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        itself = torch.arange(x.shape[1], device=x.device) == 0  # (N,)
        hidden = ~(visible | itself)[:, None]  # (B, 1, N)
        return logits.masked_fill(hidden, float("-inf")).softmax(-1)  # (B, H, N)

    def _attend(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return the heads' outputs (B, H * d) for the class token; x (B, N, D) is standardised."""
        attn, gain, shift = self.attn, self.norm1.weight, self.norm1.bias
        heads = attn.num_heads
        w_v = attn.qkv.weight.reshape(3, heads, -1, x.shape[-1])[2]  # (H, d, D)
        weights = self._weights(x, visible)  # (B, H, N)
        mean = torch.einsum("bhn,bni->bhi", weights, x) * gain + shift  # (B, H, D)
        out = torch.einsum("bhi,hdi->bhd", mean, w_v)  # (B, H, d)
        if attn.qkv.bias is not None:
            out = out + attn.qkv.bias.reshape(3, heads, -1)[2]
        return out.flatten(1)


def _fold(linear: nn.Linear, scale: nn.Module) -> nn.Module:
    """Multiply a LayerScale into the layer before it and return what takes its place."""
    if isinstance(scale, nn.Identity):
        return scale
    gamma = scale.gamma
    assert isinstance(gamma, Tensor)
    with torch.no_grad():
        linear.weight.mul_(gamma[:, None])
        if linear.bias is not None:
            linear.bias.mul_(gamma)
    return nn.Identity()
