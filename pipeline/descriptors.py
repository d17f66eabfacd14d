"""What a region looks like and how large it is, without training: the mixture's input.

The middle blocks of a self-supervised ViT tell defects apart better than the class token of its
last (docs/results.md), and a sub-image of fixed size no longer shows how large its region was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from pipeline.progress import Progress, silent
from pipeline.tokens import ArrayLike as Crops
from pipeline.tokens import stack
from pipeline.views import plain_view
from pipeline.vit import embed, normalization

Floats = NDArray[np.float32]
_CLIP = 3.0


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
        mean, std = normalization(vit)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], masks: Floats) -> Floats:
        """Return (B, L, D) for images (B, S, S, 3) and masks (B, S, S) in [0, 1].

        A patch weighs as much as the mask covers it; all patches weigh alike under an empty mask.
        """
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        pixels = (pixels - self._mean) / self._std  # (B, 3, S, S)
        patch = self.vit.patch_embed.patch_size[0]
        cover = F.avg_pool2d(torch.from_numpy(masks).to(self.device)[:, None], patch).flatten(1)
        cover = torch.where(cover.sum(1, keepdim=True) > 0, cover, torch.ones_like(cover))
        weights = cover / cover.sum(1, keepdim=True)  # (B, P)
        pooled = {}
        with self.autocast():
            tokens = embed(self.vit, pixels)  # (B, N, D)
            for i, block in enumerate(self.vit.blocks[: max(self.layers) + 1]):
                tokens = block(tokens)
                if i in self.layers:
                    patches = tokens[:, self.vit.num_prefix_tokens :].float()
                    pooled[i] = torch.einsum("bp,bpd->bd", weights, patches)
        return np.asarray(torch.stack([pooled[i] for i in self.layers], 1).cpu().numpy())

    def over(
        self,
        images: Crops,
        masks: Crops,
        *,
        size: int,
        batch: int = 32,
        progress: Progress = silent,
    ) -> Floats:
        """Return (M, L, D) of the plain views, `size` pixels a side, of M sub-images."""
        parts = [np.zeros((0, len(self.layers), int(self.vit.embed_dim)), np.float32)]
        for start, stop in _ranges(images.shape[0], batch):
            pairs = zip(images[start:stop], masks[start:stop], strict=True)
            parts.append(self(*stack([plain_view(*pair, size=size) for pair in pairs])))
            progress(stop, images.shape[0])
        return np.concatenate(parts)


def _ranges(total: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, total)) for start in range(0, total, step))


def region_descriptors(
    pooled: ArrayLike, areas_px: ArrayLike, scores: ArrayLike, *, geometry_weight: float = 0.35
) -> NDArray[np.float64]:
    """Return one vector (M, L * D + 2) for each region, appearance first.

    `pooled` (M, L, D) is centred over the set and L2-normalised, each layer by itself. The last two
    are the logarithm of the region's size (the root of `areas_px`, mask pixels) and its anomaly
    score (`scores`), standardised over the regions that have a mask and clipped at 3 deviations; a
    sub-image with an empty mask has 0 in both, so that an empty mask tells nothing there. Each of
    the two parts has total variance 1 over the set, geometry then multiplied by `geometry_weight`.
    Raises ValueError where the numbers of regions differ.
    """
    tokens = np.asarray(pooled, np.float64)
    area = np.asarray(areas_px, np.float64)
    if tokens.ndim != 3 or not len(tokens) == len(area) == len(np.asarray(scores)):
        raise ValueError(f"tokens {tokens.shape}, {len(area)} areas: not of the same regions")
    if not len(tokens):
        return np.zeros((0, tokens.shape[1] * tokens.shape[2] + 2))
    tokens = tokens - tokens.mean(0)
    norm = np.linalg.norm(tokens, axis=-1, keepdims=True)
    appearance = (tokens / np.maximum(norm, 1e-9)).reshape(len(tokens), -1)
    columns = [np.log(np.maximum(area, 1.0)) / 2, np.asarray(scores, np.float64)]
    geometry = np.stack([_standardised(column, area > 0) for column in columns], 1)
    return np.concatenate([_unit(appearance), geometry_weight * _unit(geometry)], 1)


def _standardised(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not known.any() or values[known].std() < 1e-9:
        return np.zeros_like(values)
    standard = (values - values[known].mean()) / values[known].std()
    return np.where(known, np.clip(standard, -_CLIP, _CLIP), 0.0)


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    total = float(np.sqrt(x.var(0).sum()))
    return x / total if total > 1e-9 else x
