"""Prediction: every sub-image's class token, its logits, and what the class token attends to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.heads import MultiHead
from pipeline.mgvit.tokens import RaggedTokens

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """Per sub-image: `logits` (M, C_l + C_u) of the chosen head, `embeddings` (M, D) of norm 1.

    `attention` (M, N): the class token's attention to the N tokens of the view in the last block
    (class token, other prefix tokens, patches row by row), the mean over heads, rows summing to 1;
    None where the tokens do not say where they were, or where there are none.
    """

    logits: Floats
    embeddings: Floats
    attention: Floats | None


@torch.inference_mode()
def predict(
    pieces: Iterable[RaggedTokens],
    block: ClassBlock,
    heads: MultiHead,
    *,
    head: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Predictions:
    """Run the trained block and one head over the tokens of the plain views.

    No sub-images give arrays of zero rows.
    """
    _, n_classes, dim = heads.weight.shape
    logits: list[Floats] = [np.zeros((0, n_classes), np.float32)]
    embeddings: list[Floats] = [np.zeros((0, dim), np.float32)]
    attention: list[Floats] = []
    block, heads = block.to(device), heads.to(device)
    for piece in pieces:
        tokens, visible = piece.gather(np.arange(len(piece.offsets) - 1))
        tokens, visible = tokens.to(device), visible.to(device)
        with autocast():
            token = block(tokens, visible).float()  # (B, D)
            weights = block.attention(tokens, visible).float().mean(1)  # (B, longest row)
        if piece.kept is not None:
            attention.append(piece.spread(weights.cpu().numpy()))
        logits.append(heads(token)[head].cpu().numpy())
        embeddings.append(F.normalize(token, dim=-1).cpu().numpy())
    return Predictions(
        np.concatenate(logits),
        np.concatenate(embeddings),
        np.concatenate(attention) if attention else None,
    )
