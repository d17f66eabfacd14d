"""Patch features of a frozen ViT: what every detector here works on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.detectors.grids import Grid, tile_spans, tiled_grid
from pipeline.progress import Progress, silent

Array = NDArray[np.float32] | NDArray[np.float16]
Allocate = Callable[[tuple[int, ...], "np.dtype[np.float16] | np.dtype[np.float32]"], Array]
"""Makes an uninitialised array; callers may hand out memory-mapped ones to keep memory flat."""

Encoder = Callable[[Tensor], tuple[Sequence[Tensor], Tensor]]
"""Images (B, 3, H, W) float32 -> (patch tokens (B, P, D) of each layer, class tokens (B, D))."""

_EPSILON = 1e-5


@dataclass(frozen=True)
class Features:
    """Features of N images: patch tokens of each layer (N, P, D), class tokens (N, D) float32.

    Patches are in row-major order over `grid` = (rows, columns), P = rows * columns. They are
    layer-normalised per image and layer, see `normalise_layer`.
    """

    layers: tuple[Array, ...]
    class_tokens: NDArray[np.float32]
    grid: Grid


def allocate_memory(
    shape: tuple[int, ...], dtype: np.dtype[np.float16] | np.dtype[np.float32]
) -> Array:
    """Allocate in memory: the default `Allocate`."""
    return np.empty(shape, dtype)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to (*size, 3), `size` a height and a width in pixels.

    Area averaging where the image has more pixels than wanted, cubic interpolation where fewer.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] * image.shape[1] > height * width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def normalise_layer(tokens: Tensor) -> Tensor:
    """Layer-normalise tokens (B, P, D) without parameters, over all P x D values of an image.

    MuSc (ICLR 2024), section 3.2. A constant image gives zeros.
    """
    return functional.layer_norm(tokens, tokens.shape[1:], eps=_EPSILON)


def neighbourhood_mean(tokens: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Average tokens (B, P, D) over size x size patches; zero padding, divisor size * size."""
    if size % 2 == 0 or size < 1:
        raise ValueError(f"a neighbourhood must be an odd number of patches, got {size}")
    if size == 1:
        return tokens
    b, p, d = tokens.shape
    if grid[0] * grid[1] != p:
        raise ValueError(f"{p} patches do not fill a grid of {grid[0]} x {grid[1]}")
    maps = tokens.reshape(b, *grid, d).permute(0, 3, 1, 2)  # (B, D, rows, columns)
    maps = functional.avg_pool2d(maps, size, stride=1, padding=size // 2, count_include_pad=True)
    return maps.permute(0, 2, 3, 1).reshape(b, p, d)


def unit_vectors(tokens: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Return unit vectors (B, P, D) of tokens (B, P, D) averaged over size x size patches.

    At the border the mean is, but for its length, that of the patches that exist. Zeros stay zeros.
    """
    return functional.normalize(neighbourhood_mean(tokens, grid, size), dim=-1)


def tiled(encode: Encoder, tile: Grid, tiles: int, patch: int) -> Encoder:
    """Return an encoder that sees images in `tiles` * `tiles` overlapping tiles, as one grid.

    `encode` takes tiles of `tile` patches of `patch` pixels a side; images (B, 3, H, W) fill
    `tiled_grid`. Class tokens are the mean over the tiles.
    """
    rows, columns = tile_spans(tile[0], tiles), tile_spans(tile[1], tiles)
    grid = tiled_grid(tile, tiles)

    def encode_tiles(pixels: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        whole: list[Tensor] = []
        heads: list[Tensor] = []
        for (top, above), (left, beside) in product(rows, columns):
            y, x = (
                slice(patch * s, patch * (s + t)) for s, t in zip((top, left), tile, strict=True)
            )
            tokens, head = encode(pixels[:, :, y, x])
            if not whole:
                whole = [
                    t.new_empty(len(t), *grid, t.shape[2], dtype=torch.float32) for t in tokens
                ]
            inside = slice(above.start - top, above.stop - top)
            within = slice(beside.start - left, beside.stop - left)
            for layer, part in zip(whole, tokens, strict=True):
                seen = part.reshape(len(part), *tile, -1)  # (B, rows, columns, D) of the tile
                layer[:, above, beside] = seen[:, inside, within].float()
            heads.append(head.float())
        return [layer.flatten(1, 2) for layer in whole], torch.stack(heads).mean(0)

    return encode if tiles == 1 else encode_tiles


@torch.inference_mode()
def extract(
    encode: Encoder,
    images: Iterable[NDArray[np.uint8]],
    count: int,
    grid: Grid,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    half: bool = False,
    batch: int = 16,
    allocate: Allocate = allocate_memory,
    progress: Progress = silent,
) -> Features:
    """Run `count` equally sized images (H, W, 3) uint8 RGB through a frozen ViT, by batches.

    `grid` is how the ViT cuts them into patches. `half` stores the patch tokens in float16 (after
    layer normalisation their values are small), otherwise float32. Raises ValueError if `images`
    yields another number of images than `count`, `count` is 0, or the tokens do not fill the grid.
    """
    if count < 1:
        raise ValueError("there are no images to take features of")
    dtype = np.dtype(np.float16) if half else np.dtype(np.float32)
    shift = torch.tensor(mean, device=device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=device).view(1, 3, 1, 1)
    layers: list[Array] = []
    class_tokens: list[NDArray[np.float32]] = []
    done = 0
    for block in _batches(images, batch):
        pixels = torch.from_numpy(np.stack(block)).to(device).permute(0, 3, 1, 2)  # (B, 3, H, W)
        tokens, heads = encode((pixels.float() / 255 - shift) / scale)
        if done + len(block) > count:
            raise ValueError(f"more images than the {count} that were announced")
        if not layers:
            if any(t.shape[1] != grid[0] * grid[1] for t in tokens):
                raise ValueError(f"the patch tokens do not fill a grid of {grid[0]} x {grid[1]}")
            layers = [allocate((count, *t.shape[1:]), dtype) for t in tokens]
        for store, layer in zip(layers, tokens, strict=True):
            store[done : done + len(block)] = normalise_layer(layer.float()).cpu().numpy()
        class_tokens.append(heads.float().cpu().numpy())
        done += len(block)
        progress(done, count)
    if done != count:
        raise ValueError(f"{done} images instead of the {count} that were announced")
    return Features(tuple(layers), np.concatenate(class_tokens), grid)


def _batches(images: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch


def upsample(scores: NDArray[np.float32], grid: tuple[int, int], size: int) -> NDArray[np.float32]:
    """Turn patch scores (B, P) into maps (B, size, size), bilinearly; patch centres stay put.

    Maps are square whatever the grid: their coordinates are relative to the image's sides.
    """
    maps = torch.from_numpy(np.asarray(scores, np.float32)).reshape(-1, 1, *grid)  # (B, 1, h, w)
    large = functional.interpolate(maps, (size, size), mode="bilinear", align_corners=False)
    return np.asarray(large[:, 0].numpy(), np.float32)
