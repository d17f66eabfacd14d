"""Attention of the untrained network without a mask, for the crops that the report shows.

What the trained network makes of the mask is seen beside what the backbone itself looks at (figures
4, 8 and 10 of the paper).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.io.arrays import ArraySpec, create_arrays
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.tokens import ArrayLike, FrozenBlocks, iter_plain

EACH = 4
"""Crops of each class."""


def shown_rows(
    probabilities: NDArray[np.float64], attention: NDArray[np.float32] | None
) -> NDArray[np.int64]:
    """Return the most confident crops of each class, `EACH` at most, that attend to a patch.

    Parameters
    ----------
    probabilities
        (M, C) of the crops.
    attention
        (M, N) of the trained network, class token first; None: no row.

    Returns
    -------
    Rows (K,), rising.
    """
    if attention is None:
        return np.zeros(0, np.int64)
    visible = np.flatnonzero(attention[:, 1:].sum(1) > 0)
    by_confidence = visible[np.argsort(-probabilities.max(1)[visible], kind="stable")]
    classes = probabilities.argmax(1)[by_confidence]
    rows = [by_confidence[classes == number][:EACH] for number in np.unique(classes)]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *rows]))


@torch.inference_mode()
def plain_attention(
    blocks: FrozenBlocks, images: NDArray[np.uint8], masks: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return the backbone's own attention to the patches of crops, (K, h, w), mean over heads.

    It is that of the class token in the last block, with nothing masked. `images` (K, S, S, 3) and
    `masks` (K, S, S) are crops, K > 0; they are looked at in their plain view.
    """
    unmasked = FrozenBlocks(
        blocks.vit,
        replace(blocks.masking, mask_on="none"),
        device=blocks.device,
        autocast=blocks.autocast,
    )
    block = ClassBlock(blocks.vit).to(blocks.device).eval()
    pieces = []
    for piece in iter_plain(unmasked, images, masks):
        tokens, visible = piece.gather(np.arange(len(piece.offsets) - 1))
        weights = block.attention(tokens.to(blocks.device), visible.to(blocks.device))
        pieces.append(weights.mean(1)[:, int(blocks.vit.num_prefix_tokens) :].float().cpu().numpy())
    return np.concatenate(pieces).reshape(-1, *blocks.vit.patch_embed.grid_size)


def write_plain_attention(
    folder: Path,
    crops: tuple[ArrayLike, ArrayLike],
    rows: NDArray[np.int64],
    blocks: FrozenBlocks | None,
) -> None:
    """Write plain_attention.zarr: `rows` (K,) of the crops and their `attention` (K, h, w).

    Without a network (`blocks` None) or rows there are none.
    """
    attention = np.zeros((0, 1, 1), np.float32)
    if blocks is not None and len(rows):
        images, masks = (np.stack([array[int(row)] for row in rows]) for array in crops)
        attention = plain_attention(blocks, images, masks)
    rows = rows[: len(attention)]
    specs = {
        "rows": ArraySpec(rows.shape, "int64"),
        "attention": ArraySpec(attention.shape, "float16"),
    }
    with create_arrays(folder / "plain_attention.zarr", specs) as arrays:
        arrays["rows"][:] = rows
        arrays["attention"][:] = attention.astype(np.float16)
