"""Training by several processes, one rank each: the trainable block runs on a share of the rows.

The contrastive losses and the regulariser look at the whole batch, so a loss on the rows of one
rank would be another objective. Here all ranks draw the same batch, run the block on their own
rows, exchange the class tokens and compute projector, heads and loss on all of them, each the same.
Only the block's gradients differ; they are added in the order of the ranks, so that a result does
not depend on the network in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from pipeline.errors import AnomalyNCDError

Index = NDArray[np.int64]


class LostRankError(AnomalyNCDError):
    """Another rank does not answer: it ended, or the network between them did."""


class RanksDifferError(AnomalyNCDError):
    """Ranks that should be at the same state are not."""


@dataclass(frozen=True)
class Ranks:
    """Rank `rank` of `size` processes that train one network; by default there is one."""

    rank: int = 0
    size: int = 1

    def share(self, n: int) -> Index:
        """Return this rank's rows of 0 to n, (m,) int64; m >= 1.

        Shares are as long as the first, but for the last ones. A rank for which nothing is left
        takes row 0, and `whole` drops what it makes of it.
        """
        start, stop = self._bounds(n, self.rank)
        return np.arange(start, stop) if start < stop else np.zeros(1, np.int64)

    def whole(self, own: Tensor, n: int) -> Tensor:
        """Return (n, ...) of all ranks from `own` (m, ...), the rows of `share`.

        Gradients flow to `own` alone. Raises `LostRankError`.
        """
        if self.size == 1:
            return own
        bounds = [self._bounds(n, rank) for rank in range(self.size)]
        lengths = [stop - start for start, stop in bounds]
        own = own[: lengths[self.rank]]
        padded = own.new_zeros((lengths[0], *own.shape[1:]))
        padded[: len(own)] = own.detach()
        parts = [part[:m] for part, m in zip(self._gather(padded), lengths, strict=True)]
        parts[self.rank] = own
        return torch.cat(parts)

    def add_gradients(self, module: nn.Module) -> None:
        """Replace the gradients of `module` by their sums over the ranks, added in order.

        Raises `LostRankError`.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        parts = self._gather(torch.cat([gradient.flatten() for gradient in gradients]))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        lengths = [gradient.numel() for gradient in gradients]
        for gradient, values in zip(gradients, torch.split(total, lengths), strict=True):
            gradient.copy_(values.view_as(gradient))

    def agree(self, digest: bytes, device: torch.device) -> None:
        """Raise `RanksDifferError` unless all ranks give the same `digest`; `LostRankError`."""
        if self.size == 1:
            return
        own = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(device)
        others = [n for n, part in enumerate(self._gather(own)) if not torch.equal(part, own)]
        if others:
            raise RanksDifferError(
                f"the state of rank {self.rank} is not that of rank {others[0]}: use machines of "
                "one kind with the same packages, which see the same data folder"
            )

    def _bounds(self, n: int, rank: int) -> tuple[int, int]:
        length = -(-n // self.size)
        return min(rank * length, n), min((rank + 1) * length, n)

    def _gather(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        try:
            distributed.all_gather(parts, own)
        except RuntimeError as error:
            raise LostRankError(f"rank {self.rank}: {error}") from error
        return parts


def current_ranks() -> Ranks:
    """Return the ranks of the process group that this process has joined, if any."""
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return Ranks()
