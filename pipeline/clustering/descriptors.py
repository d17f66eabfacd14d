"""What a region looks like, without training: the mixture's input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from pipeline.mgvit.augmentation import plain_view
from pipeline.mgvit.backbone import Normalise
from pipeline.mgvit.tokens import ArrayLike as Crops
from pipeline.mgvit.tokens import stack
from pipeline.progress import Progress, silent

Float = TypeVar("Float", np.float32, np.float64)


def patch_weights(masks: Tensor, patch: int) -> Tensor:
    """Return what each patch weighs (B, P), rows summing to 1, from masks (B, S, S) in [0, 1].

    A patch weighs as much as its pixels do together: with a binary mask, as far as that covers it.
    All patches weigh alike under an empty mask.
    """
    cover = F.avg_pool2d(masks[:, None], patch).flatten(1)  # (B, P)
    cover = torch.where(cover.sum(1, keepdim=True) > 0, cover, torch.ones_like(cover))
    return cover / cover.sum(1, keepdim=True)


def pool(vit: VisionTransformer, layers: Sequence[int], pixels: Tensor, weights: Tensor) -> Tensor:
    """Return the tokens (B, L, D) after the 0-based `layers`, averaged with `weights` (B, P).

    `pixels` (B, 3, S, S) are normalised. Blocks after the last of `layers` do not run. The result
    is float32 under autocast, too.
    """
    rising = sorted(set(layers))
    patches = vit.forward_intermediates(
        pixels, indices=rising, stop_early=True, output_fmt="NLC", intermediates_only=True
    )  # each (B, P, D)
    # Autocast leaves the weighted sums float32.
    pooled = [(weights[:, :, None] * tokens.float()).sum(1) for tokens in patches]
    return torch.stack([pooled[rising.index(layer)] for layer in layers], 1)


class PooledTokens:
    """Patch tokens after chosen blocks of a frozen ViT, averaged under the mask."""

    def __init__(
        self,
        vit: VisionTransformer,
        layers: Sequence[int],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        if not layers or not 0 <= min(layers) <= max(layers) < len(vit.blocks):
            raise ValueError(f"layers are {list(layers)}: use 0 to {len(vit.blocks) - 1}")
        self.vit = vit.to(device).eval()
        self.layers, self.device, self.autocast = tuple(layers), device, autocast
        self._normalise = Normalise(vit).to(device)

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.uint8], masks: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return (B, L, D) for images (B, S, S, 3) and masks (B, S, S) in [0, 1]."""
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        pixels = self._normalise(pixels)  # (B, 3, S, S)
        weights = patch_weights(
            torch.from_numpy(masks).to(self.device), int(self.vit.patch_embed.patch_size[0])
        )
        with self.autocast():
            pooled = pool(self.vit, self.layers, pixels, weights)
        return np.asarray(pooled.cpu().numpy())

    def over(
        self,
        images: Crops,
        weights: Crops,
        *,
        size: int,
        batch: int = 32,
        progress: Progress = silent,
    ) -> NDArray[np.float32]:
        """Return (M, L, D) of the plain views, `size` pixels a side, of M sub-images.

        `images` are (M, S, S, 3) uint8, `weights` (M, S, S) uint8 on any scale: only how the pixels
        of a sub-image compare matters. All weigh alike where all weights are 0.
        """
        parts = [np.zeros((0, len(self.layers), int(self.vit.embed_dim)), np.float32)]
        for start, stop in _ranges(images.shape[0], batch):
            pairs = zip(images[start:stop], weights[start:stop], strict=True)
            pixels, grey = stack([plain_view(*pair, size=size) for pair in pairs])
            parts.append(self(pixels, grey / np.float32(255)))
            progress(stop, images.shape[0])
        return np.concatenate(parts)


def _ranges(total: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, total)) for start in range(0, total, step))


@dataclass(frozen=True)
class DescriptorSpace:
    """How pooled tokens become descriptors: `mean` (L, D) of the set and `spread` (L,)."""

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    def __call__(self, pooled: ArrayLike) -> NDArray[np.float64]:
        """Return the descriptors (M, L, D) of pooled tokens (M, L, D)."""
        x = l2_normalise(np.asarray(pooled, np.float64) - self.mean)
        return np.asarray(x / self.spread[:, None])


def descriptor_space(pooled: ArrayLike) -> DescriptorSpace:
    """Return the space of a set of regions from its pooled tokens (M, L, D).

    Each layer is centred over the set, which takes away what all regions of a product share,
    L2-normalised, and scaled to total variance 1. Raises ValueError for another shape.
    """
    tokens = np.asarray(pooled, np.float64)
    if tokens.ndim != 3:
        raise ValueError(f"pooled tokens are {tokens.shape}, not (M, L, D)")
    if not len(tokens):
        return DescriptorSpace(np.zeros(tokens.shape[1:]), np.ones(tokens.shape[1]))
    mean = tokens.mean(0)
    spread = np.sqrt(l2_normalise(tokens - mean).var(0).sum(-1))  # (L,)
    return DescriptorSpace(mean, np.where(spread > 1e-9, spread, 1.0))


def region_descriptors(pooled: ArrayLike) -> NDArray[np.float64]:
    """Return the descriptors of a set of regions in its own `descriptor_space`.

    Parameters
    ----------
    pooled
        (M, L, D): tokens of M regions after L layers, averaged under the mask (`PooledTokens`).

    Returns
    -------
    (M, L, D) float64: centred over the set, of equal length within a layer, each layer of total
    variance 1.

    Examples
    --------
    >>> import numpy as np
    >>> pooled = np.random.default_rng(0).normal(size=(30, 2, 8))
    >>> region_descriptors(pooled).var(axis=0).sum(axis=-1).round(6).tolist()
    [1.0, 1.0]
    """
    return descriptor_space(pooled)(pooled)


def l2_normalise(x: NDArray[Float]) -> NDArray[Float]:
    """Scale the last axis of (..., D) to length 1; zeros stay zeros. Keeps the dtype."""
    length: NDArray[Float] = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.asarray(x / np.maximum(length, 1e-9), x.dtype)
