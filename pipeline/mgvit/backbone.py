"""Plain timm vision transformers: made for an input size, loaded strictly, run unmasked.

Tokens are ordered class token, other prefix tokens (registers), then patches in row-major order;
N = prefix tokens + P patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import timm
import torch
from timm.layers import Attention, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

RGB = tuple[float, float, float]


def create_vit(
    name: str,
    state: Mapping[str, Tensor] | None,
    *,
    image_size: int | None = None,
    aspect: float = 1.0,
    seed: int = 0,
) -> VisionTransformer:
    """Return the timm model `name` for square inputs of `image_size` pixels, frozen, without head.

    `image_size` None keeps the size that the model was made for, or the grid of `state`. With
    another `aspect` than 1 the inputs have about as many patches, and about this height / width.
    `state` is a timm state dict, loaded strictly; its position grid may have any size and is
    resampled (bicubic without antialiasing, as DINO and DINOv2 do it). `state` None gives random
    weights drawn from `seed`; the global random state is left as it was. Raises ValueError for an
    unknown name, a model that is no plain ViT with a class token, keys or shapes that do not fit,
    and a size that the patches do not divide.
    """
    _config(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        vit = timm.create_model(name, pretrained=False, num_classes=0)
    check_plain(vit, name)
    patch = vit.patch_embed.patch_size[0]
    if image_size is not None and (image_size < patch or image_size % patch):
        raise ValueError(f"an image size of {image_size} is no multiple of {name}'s patch, {patch}")
    if state is not None:
        _load(vit, state, name)
    if image_size is not None:
        _resize(vit, _grid(image_size // patch, aspect))
    return vit.requires_grad_(False).eval()


def check_plain(vit: VisionTransformer, name: str) -> None:
    """Raise ValueError unless `vit` is a ViT whose attention can be masked here."""

    def refuse(why: str) -> None:
        raise ValueError(f"{name} cannot be used: {why}")

    if type(vit) is not VisionTransformer:
        refuse(f"it is a {type(vit).__name__}, not a plain timm VisionTransformer")
    if not vit.has_class_token:
        refuse("it has no class token")
    if vit.patch_embed.patch_size[0] != vit.patch_embed.patch_size[1]:
        refuse("its patches are not square")
    for block in vit.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            refuse("its blocks are not plain timm blocks")
        # `norm` (of the heads' outputs) and `gate` came with later versions of timm.
        extras = (getattr(block.attn, part, None) for part in ("q_norm", "k_norm", "norm", "gate"))
        if not all(extra is None or isinstance(extra, nn.Identity) for extra in extras):
            refuse("its attention has normalised or gated queries, keys or outputs")
        if not all(_is_affine(norm) for norm in (block.norm1, block.norm2)):
            refuse("its blocks are not normalised by LayerNorm with weight and bias")


def _is_affine(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None


def _load(vit: VisionTransformer, state: Mapping[str, Tensor], name: str) -> None:
    own = vit.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"these weights are not those of {name}: {_some('missing', missing)}, "
            f"{_some('unexpected', unexpected)}"
        )
    if "pos_embed" in own:  # take over the grid of the weights
        change = state["pos_embed"].shape[-2] - own["pos_embed"].shape[-2]
        side = isqrt(max(vit.patch_embed.num_patches + change, 1))
        if change:
            size = side * vit.patch_embed.patch_size[0]
            vit.set_input_size(img_size=(size, size))
    for key, tensor in vit.state_dict().items():
        if state[key].shape != tensor.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
            raise ValueError(f"these weights are not those of {name}: {key} has shape {shapes}")
    vit.load_state_dict(state, strict=True)


def _grid(side: int, aspect: float) -> tuple[int, int]:
    """Return rows and columns of about `side` ** 2 patches with rows / columns near `aspect`."""
    root = aspect**0.5
    return max(1, round(side * root)), max(1, round(side / root))


def _resize(vit: VisionTransformer, grid: tuple[int, int]) -> None:
    """Set the input size and resample the positions; timm's own way differs by its antialiasing."""
    old, old_grid, patch = vit.pos_embed, vit.patch_embed.grid_size, vit.patch_embed.patch_size[0]
    if grid == old_grid and vit.patch_embed.img_size == (grid[0] * patch, grid[1] * patch):
        return
    vit.set_input_size(img_size=(grid[0] * patch, grid[1] * patch))
    if old is not None and vit.patch_embed.grid_size != old_grid:
        positions = resample_abs_pos_embed(
            old.detach(),
            new_size=list(vit.patch_embed.grid_size),
            old_size=list(old_grid),
            num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
            antialias=False,
        )
        vit.pos_embed = nn.Parameter(positions)


def _some(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
    return f"{len(keys)} keys {what}" + (f" ({shown})" if keys else "")


def normalization(vit: VisionTransformer | str) -> tuple[RGB, RGB]:
    """Return mean and std, for values in [0, 1], that the weights of a model or name want."""
    config = _config(vit) if isinstance(vit, str) else vit.pretrained_cfg
    (r, g, b), (r_std, g_std, b_std) = config["mean"], config["std"]
    return (float(r), float(g), float(b)), (float(r_std), float(g_std), float(b_std))


class Normalise(nn.Module):
    """Pixels (B, 3, S, S) float32 from 0 to 255 -> the range that the weights of `vit` want."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        mean, std = normalization(vit)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """Subtract the mean of each channel and divide by its deviation."""
        return (pixels - self.mean) / self.std


def _config(name: str) -> dict[str, Any]:
    """Return timm's description of a model with these weights, or raise ValueError."""
    try:
        cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a known architecture with an unknown tag
        cfg = None
    if cfg is None:
        raise ValueError(
            f"{name!r} is not a timm model (see timm.list_models('vit*', pretrained=True))"
        )
    config: dict[str, Any] = cfg.to_dict()
    return config


def forward_features(
    vit: VisionTransformer, images: Tensor, *, layers: Sequence[int]
) -> tuple[list[Tensor], Tensor]:
    """Return patch tokens (B, P, D) after each of the 0-based `layers`, in their order, without
    the final norm, and the class tokens (B, D) after the last layer and the final norm.

    Nothing is masked. Raises ValueError for no layers, or one that the model does not have.
    """
    depth = len(vit.blocks)
    if not layers or not 0 <= min(layers) <= max(layers) < depth:
        raise ValueError(f"layers {list(layers)}: this backbone has the layers 0 to {depth - 1}")
    rising = sorted(set(layers))
    tokens, patches = vit.forward_intermediates(images, indices=rising, output_fmt="NLC")
    by_layer = dict(zip(rising, patches, strict=True))  # each (B, P, D)
    # Models that average patches leave the final norm to `fc_norm`; it is the identity in others.
    return [by_layer[layer] for layer in layers], vit.fc_norm(tokens[:, 0])


def final_norm(vit: VisionTransformer) -> nn.Module:
    """Return the norm after the last block; models that average patches name it `fc_norm`."""
    norm: nn.Module = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
    return norm


def embed(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Return the input tokens (B, N, D) of the first block for images (B, 3, S, S)."""
    return vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))  # type: ignore[no-any-return]
