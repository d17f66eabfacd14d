"""Tokens that enter the trainable block: computed from crops, kept ragged, handed out in pairs.

Only tokens that the class token sees (itself, other prefix tokens, kept patches) reach the last
block's output, so only those are kept; a batch is padded to its longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.mgvit.attention import MaskOn, frozen_tokens, patch_keep, visible_keys
from pipeline.mgvit.augmentation import (
    Augmentations,
    GreyMask,
    Image,
    augmented_view,
    plain_view,
    view_rng,
)
from pipeline.mgvit.backbone import Normalise
from pipeline.progress import Progress, silent

Index = NDArray[np.int64]
Autocast = Callable[[], AbstractContextManager[object]]


class ArrayLike(Protocol):
    """What is read of an array of crops: in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Axis 0 counts the crops."""
        ...

    def __getitem__(self, key: Any) -> Any:
        """Return one crop or a block of them."""
        ...


@dataclass(frozen=True)
class Masking:
    """Mask-guided attention (section 3.3.1) and the input size of the network."""

    image_size: int
    mask_on: MaskOn
    mask_layers: int
    threshold: float


@dataclass(frozen=True)
class RaggedTokens:
    """Rows of tokens of different lengths, one after the other.

    `flat` (T, D) float16, in memory or memory-mapped; row r is ``flat[offsets[r]:offsets[r + 1]]``.
    `kept` (R, N) bool says which of a view's N tokens each row holds, or is None where nobody asks.
    """

    flat: NDArray[np.float16]
    offsets: Index
    kept: NDArray[np.bool_] | None = None

    def gather(self, rows: Index) -> tuple[Tensor, Tensor]:
        """Return tokens (R, N, D) float32, zero-padded, and visible (R, N) bool."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        tokens = np.zeros((len(rows), int(lengths.max()), self.flat.shape[1]), np.float32)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self.offsets[row]
            tokens[i, :length] = self.flat[start : start + length]
        visible = np.arange(tokens.shape[1]) < lengths[:, None]
        return torch.from_numpy(tokens), torch.from_numpy(visible)

    def spread(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one value a token (R, N) in the order of the view, 0 for tokens that are not kept.

        `values` (R, longest row) belong to the tokens that `gather` gives of all rows. Raises
        ValueError where `kept` is None.
        """
        if self.kept is None:
            raise ValueError("these tokens do not say where in their views they were")
        present = np.arange(values.shape[1]) < np.diff(self.offsets)[:, None]
        result = np.zeros(self.kept.shape, np.float32)
        result[self.kept] = values[present]
        return result


def two_views(n: int, n_views: int, rng: np.random.Generator) -> tuple[Index, Index]:
    """Draw two different views of `n_views` for each of n samples."""
    first = rng.integers(0, n_views, n)
    second = (first + rng.integers(1, n_views, n)) % n_views
    return first, second


@dataclass(frozen=True)
class CachedViews:
    """A pool of views per sample, computed once; epochs draw pairs of different views from it."""

    tokens: RaggedTokens
    n_views: int

    def pairs(
        self, samples: Index, epoch: int, rng: np.random.Generator, rows: Index
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (R, N, D) and visible (R, N) of two cached views of each sample."""
        del epoch
        first, second = two_views(len(samples), self.n_views, rng)
        views = np.concatenate([samples * self.n_views + first, samples * self.n_views + second])
        return self.tokens.gather(views[rows])


class FrozenBlocks:
    """The frozen part of the network with everything that its output depends on."""

    def __init__(
        self,
        vit: VisionTransformer,
        masking: Masking,
        *,
        device: torch.device,
        autocast: Autocast = nullcontext,
    ) -> None:
        self.vit = vit.to(device).eval()
        self.masking = masking
        self.device = device
        self.autocast = autocast
        self._normalise = Normalise(vit).to(device)

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], masks: NDArray[np.float32]) -> RaggedTokens:
        """Return the visible tokens of views: images (B, S, S, 3), masks (B, S, S) in [0, 1]."""
        pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        pixels = self._normalise(pixels)  # (B, 3, S, S)
        keep = patch_keep(
            torch.from_numpy(masks).to(self.device),
            self.vit.patch_embed.patch_size[0],
            threshold=self.masking.threshold,
        )  # (B, P)
        with self.autocast():
            tokens = frozen_tokens(
                self.vit,
                pixels,
                keep,
                mask_on=self.masking.mask_on,
                mask_layers=self.masking.mask_layers,
            )  # (B, N, D)
        visible = visible_keys(self.vit, keep, mask_on=self.masking.mask_on)  # (B, N)
        lengths = visible.sum(1).cpu().numpy()
        flat = tokens[visible].to(torch.float16).cpu().numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return RaggedTokens(flat, offsets, visible.cpu().numpy())


@dataclass(frozen=True)
class FreshViews:
    """New augmentations at every draw, as the paper does; the frozen blocks run every epoch."""

    blocks: FrozenBlocks
    images: ArrayLike
    masks: ArrayLike
    augmentations: Augmentations
    seed: int
    batch: int = 32

    def pairs(
        self, samples: Index, epoch: int, rng: np.random.Generator, rows: Index
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (R, N, D) and visible (R, N) of two new views of each sample."""
        del epoch
        draws = rng.integers(0, 2**31, 2 * len(samples))[rows]
        crops = np.concatenate([samples, samples])[rows]
        views = [
            augmented_view(
                self.images[int(row)],
                self.masks[int(row)],
                view_rng(self.seed, int(row), int(draw)),
                size=self.blocks.masking.image_size,
                augmentations=self.augmentations,
            )
            for row, draw in zip(crops, draws, strict=True)
        ]
        parts = [self.blocks(*stack(block)) for block in blocks_of(views, self.batch)]
        return concatenate(parts).gather(np.arange(len(views)))


def blocks_of(
    items: list[tuple[Image, GreyMask]], size: int
) -> Iterator[list[tuple[Image, GreyMask]]]:
    """Cut a list into pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def stack(views: list[tuple[Image, GreyMask]]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Stack views into images (B, S, S, 3) and masks (B, S, S)."""
    return np.stack([image for image, _ in views]), np.stack([mask for _, mask in views])


def concatenate(parts: list[RaggedTokens]) -> RaggedTokens:
    """Join the rows of several sets of tokens; `kept` is left out."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return RaggedTokens(np.concatenate([part.flat for part in parts]), offsets)


def iter_augmented(
    blocks: FrozenBlocks,
    images: ArrayLike,
    masks: ArrayLike,
    *,
    n_views: int,
    seed: int,
    augmentations: Augmentations,
    batch: int = 32,
    first_sample: int = 0,
    progress: Progress = silent,
) -> Iterator[RaggedTokens]:
    """Yield the tokens of `n_views` views of every crop, crop after crop, in pieces.

    `first_sample` is added to the number of a crop where its views are drawn, so that several
    arrays can share one numbering.
    """
    total = images.shape[0]
    pending: list[tuple[Image, GreyMask]] = []
    for i in range(total):
        image, mask = images[i], masks[i]
        for view in range(n_views):
            rng = view_rng(seed, first_sample + i, view)
            pending.append(
                augmented_view(
                    image,
                    mask,
                    rng,
                    size=blocks.masking.image_size,
                    augmentations=augmentations,
                )
            )
            if len(pending) == batch:
                yield blocks(*stack(pending))
                pending = []
        progress(i + 1, total)
    if pending:
        yield blocks(*stack(pending))


def iter_plain(
    blocks: FrozenBlocks,
    images: ArrayLike,
    masks: ArrayLike,
    *,
    batch: int = 32,
    progress: Progress = silent,
) -> Iterator[RaggedTokens]:
    """Yield the tokens of the plain view of every crop, `batch` crops at a time."""
    total = images.shape[0]
    for start in range(0, total, batch):
        stop = min(start + batch, total)
        block_images, block_masks = images[start:stop], masks[start:stop]
        views = [
            plain_view(image, mask, size=blocks.masking.image_size)
            for image, mask in zip(block_images, block_masks, strict=True)
        ]
        yield blocks(*stack(views))
        progress(stop, total)


@dataclass(frozen=True)
class Joined:
    """Two arrays of crops read as one, without copying either."""

    first: ArrayLike
    second: ArrayLike

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the two together."""
        return (self.first.shape[0] + self.second.shape[0], *self.second.shape[1:])

    def __getitem__(self, key: int) -> Any:
        """Return one crop."""
        n = self.first.shape[0]
        return self.first[key] if key < n else self.second[key - n]


@dataclass(frozen=True)
class Picked:
    """The rows `rows` (M,) of an array of crops, without copying it."""

    crops: ArrayLike
    rows: Index

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the picked crops."""
        return (len(self.rows), *self.crops.shape[1:])

    def __getitem__(self, key: int) -> Any:
        """Return one crop."""
        return self.crops[int(self.rows[key])]
