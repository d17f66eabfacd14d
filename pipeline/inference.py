"""Prediction: every sub-image's class token, its logits and its novel-class probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from pipeline.heads import MultiHead
from pipeline.tokens import RaggedTokens

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """Per sub-image: `logits` (M, C_l + C_u) of the chosen head, `embeddings` (M, D) of norm 1."""

    logits: Floats
    embeddings: Floats


@torch.inference_mode()
def predict(
    pieces: Iterable[RaggedTokens],
    block: nn.Module,
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
    block, heads = block.to(device), heads.to(device)
    for piece in pieces:
        tokens, visible = piece.gather(np.arange(len(piece.offsets) - 1))
        with autocast():
            token = block(tokens.to(device), visible.to(device)).float()  # (B, D)
        logits.append(heads(token)[head].cpu().numpy())
        embeddings.append(F.normalize(token, dim=-1).cpu().numpy())
    return Predictions(np.concatenate(logits), np.concatenate(embeddings))
