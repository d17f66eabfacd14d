"""MuSc over all pairs of images and PatchCore's greedy k-centre, in plain torch (section 1)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def mutual_scores(features: Tensor, *, fraction: float = 0.3) -> Tensor:
    """Return the scores (N, P) of unit features (N, P, D): MuSc, one pair of images at a time.

    The same as `pipeline.detectors.musc.mutual_scores`.
    """
    n = len(features)
    keep = max(1, int(fraction * (n - 1) + 1e-9))
    scores = []
    for i in range(n):
        nearest = [torch.cdist(features[i], features[j]).min(1).values for j in range(n) if j != i]
        table = torch.stack(nearest, 1)  # (P, N - 1)
        scores.append(table.topk(keep, largest=False).values.mean(1))
    return torch.stack(scores)


@torch.no_grad()
def k_centre(points: Tensor, keep: int, *, start: int = 0) -> list[int]:
    """Return the numbers of `keep` of the points (N, D): always the one farthest from all taken.

    The same as `pipeline.detectors.patchcore.k_centre`.
    """
    chosen = [start]
    nearest = torch.full((len(points),), torch.inf)
    for _ in range(keep - 1):
        distances = (points - points[chosen[-1]]).norm(dim=1)
        nearest = torch.minimum(nearest, distances)
        chosen.append(int(nearest.argmax()))
    return chosen


@torch.no_grad()
def nearest_distances(queries: Tensor, bank: Tensor, *, rows: int = 256) -> Tensor:
    """Return the distances (Q,) of queries (Q, D) to their nearest of the bank (M, D)."""
    parts = [
        torch.cdist(queries[start : start + rows], bank).min(1).values
        for start in range(0, len(queries), rows)
    ]
    return torch.cat(parts)
