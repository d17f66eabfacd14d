"""What every peer sees of a set of images, from one pass of the frozen ViT over each view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from pipeline.detectors.base import Images
from pipeline.detectors.features import normalise_layer, resize
from pipeline.io.devices import Autocast
from pipeline.mgvit.augmentation import (
    Augmentations,
    augmented_view,
    plain_view,
    resized_side,
    view_rng,
)
from pipeline.mgvit.backbone import Normalise, forward_features
from pipeline.progress import Progress, silent

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Allocate = Callable[[str, tuple[int, ...], str], NDArray[np.generic]]
"""Makes an array of this name, shape and dtype, in memory or in a file."""

_BATCH = 16
_LAST = 2
"""Blocks whose patch tokens are kept: the last two (Anomaly Clustering)."""


def middle_blocks(depth: int) -> range:
    """Return the 0-based blocks whose tokens UniFormaly averages: 2 to 9 of 12."""
    return range(min(2, depth - 1), max(depth - 2, min(2, depth - 1) + 1))


@dataclass(frozen=True)
class Encoder:
    """The frozen ViT for views of `size` pixels."""

    vit: VisionTransformer
    size: int
    device: torch.device
    autocast: Autocast

    def pixels(self, views: Sequence[Pixels]) -> Tensor:
        """Return views (B, S, S, 3) as the ViT wants them, (B, 3, S, S)."""
        stacked = torch.from_numpy(np.stack(views)).to(self.device)
        return Normalise(self.vit).to(self.device)(stacked.permute(0, 3, 1, 2).float())  # type: ignore[no-any-return]

    @torch.inference_mode()
    def class_tokens(self, views: Sequence[Pixels]) -> Floats:
        """Return the class tokens (B, D) after the final norm."""
        with self.autocast():
            _, tokens = forward_features(self.vit, self.pixels(views), layers=[0])
        return np.asarray(tokens.float().cpu().numpy())

    @torch.inference_mode()
    def patches(self, views: Sequence[Pixels]) -> PatchTokens:
        """Return what the rows of input `patch` see of views (B, S, S, 3)."""
        depth = len(self.vit.blocks)
        middle = middle_blocks(depth)
        kept = [*middle, *range(max(depth - _LAST, 0), depth)]
        seen: list[Tensor] = []
        attn = self.vit.blocks[middle[-1]].attn
        hook = attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            with self.autocast():
                layers, heads = forward_features(self.vit, self.pixels(views), layers=kept)
        finally:
            hook.remove()
        layers = [layer.float() for layer in layers]
        blocks = layers[: len(middle)]
        return PatchTokens(
            class_tokens=heads.float(),
            last=[normalise_layer(layer) for layer in layers[len(middle) :]],
            means=[torch.stack(b).mean(0) for b in (blocks, [*map(normalise_layer, blocks)])],
            attention=class_attention(attn, seen[0].float(), self.vit.num_prefix_tokens),
        )


@dataclass(frozen=True)
class PatchTokens:
    """Class tokens (B, D), patch tokens (B, P, D), their means over blocks, attention (B, P)."""

    class_tokens: Tensor
    last: Sequence[Tensor]
    means: Sequence[Tensor]
    attention: Tensor


def class_attention(attn: torch.nn.Module, tokens: Tensor, prefix: int) -> Tensor:
    """Return the attention (B, P) of the class token to the patches, mean over heads.

    `tokens` (B, N, D) are the input of a timm `Attention`, whose fused products hide it.
    """
    b, n, d = tokens.shape
    heads = int(attn.num_heads)  # type: ignore[arg-type]
    qkv = attn.qkv(tokens).reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)  # type: ignore[operator]
    query, key = qkv[0][:, :, :1], qkv[1]  # (B, heads, 1, d'), (B, heads, N, d')
    weights = torch.softmax(query @ key.transpose(-2, -1) * (d // heads) ** -0.5, dim=-1)
    return weights[:, :, 0, prefix:].mean(1)


def whole_view(image: Pixels, size: int) -> Pixels:
    """Return the plain view of an image (H, W, 3): squashed to 256 for 224, then its centre."""
    square = resize(image, (resized_side(size), resized_side(size)))
    return plain_view(square, np.zeros(square.shape[:2], np.uint8), size=size)[0]


def drawn_view(
    image: Pixels, sample: int, view: int, *, size: int, seed: int, augmentations: Augmentations
) -> Pixels:
    """Return an augmented view of an image (H, W, 3), drawn for this sample and view alone."""
    square = resize(image, (resized_side(size), resized_side(size)))
    mask, rng = np.zeros(square.shape[:2], np.uint8), view_rng(seed, sample, view)
    return augmented_view(square, mask, rng, size=size, augmentations=augmentations)[0]


def class_tokens_of(
    encoder: Encoder,
    images: Images,
    n_views: int,
    *,
    seed: int,
    augmentations: Augmentations,
    progress: Progress = silent,
) -> tuple[Floats, Floats]:
    """Return class tokens (N, D) of the plain views, and (V, N, D) of augmented ones."""
    width = int(encoder.vit.embed_dim)
    tokens = np.zeros((1 + n_views, len(images), width), np.float32)
    draw = partial(drawn_view, size=encoder.size, seed=seed, augmentations=augmentations)
    for i in range(len(images)):
        image = images.read(i)
        views = [whole_view(image, encoder.size), *(draw(image, i, v) for v in range(n_views))]
        tokens[:, i] = np.concatenate([encoder.class_tokens(b) for b in batches(views)])
        progress(i + 1, len(images))
    return tokens[0], tokens[1:]


def patch_arrays(
    encoder: Encoder,
    images: Images,
    allocate: Allocate,
    *,
    prefix: str = "",
    progress: Progress = silent,
) -> None:
    """Fill the arrays of input `patch`: patch_0, patch_1, means_0, means_1, attention.

    Their names start with `prefix`. Tokens are float16.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    done = 0
    for views in batches(whole_view(image, encoder.size) for image in images):
        tokens = encoder.patches(views)
        parts: dict[str, Tensor] = {"attention": tokens.attention}
        parts |= {f"patch_{k}": layer for k, layer in enumerate(tokens.last)}
        parts |= {f"means_{k}": layer for k, layer in enumerate(tokens.means)}
        for name, part in parts.items():
            if name not in arrays:
                dtype = "float32" if name == "attention" else "float16"
                shape = (len(images), *part.shape[1:])
                arrays[name] = allocate(prefix + name, shape, dtype)
            arrays[name][done : done + len(views)] = part.cpu().numpy()
        done += len(views)
        progress(done, len(images))


def on_patches(maps: Floats, grid: tuple[int, int], size: int) -> Floats:
    """Return the means (N, P) over patches of maps (N, H, W) of whole images, as views show them.

    The view is the centre of the map: 224 of 256.
    """
    side = resized_side(size)
    small = F.interpolate(torch.from_numpy(maps)[:, None], (side, side), mode="area")
    start = (side - size) // 2
    centre = small[:, :, start : start + size, start : start + size]
    return np.asarray(F.adaptive_avg_pool2d(centre, grid).flatten(1).numpy())


def batches(views: Iterable[Pixels]) -> Iterator[list[Pixels]]:
    """Cut views into batches."""
    iterator = iter(views)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
