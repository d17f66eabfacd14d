"""UniFormaly: Lee, Lim, Jang, Yoon, arXiv 2307.12540; code YoojLee/Uniformaly.

PatchCore on ViT tokens, the background masked by the ViT's own attention; the mean of the most
anomalous tokens describes an image; k-means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.detectors.patchcore import k_centre
from pipeline.peers.base import Assignment, Floats, PeerData, PeerRow, Tokens
from pipeline.peers.partitions import kmeans_labels, squared_distances

_WINDOW = 7
_VISIBLE = 0.1
_BANK = 0.1
_TOP = 0.05
_PROJECTED = 128


def background_masks(attention: Floats, grid: tuple[int, int], window: int = _WINDOW) -> Floats:
    """Return m (N, P): attention (N, P) averaged over window x window patches, over its maximum.

    Zeros beyond the border count. The maximum is that of each image.
    """
    maps = torch.from_numpy(np.array(attention, np.float32)).reshape(-1, 1, *grid)
    pooled = F.avg_pool2d(maps, window, stride=1, padding=window // 2).flatten(1)  # (N, P)
    return np.asarray((pooled / pooled.amax(1, keepdim=True).clamp_min(1e-12)).numpy())


def coreset(tokens: Tensor, share: float, seed: int) -> Tensor:
    """Return ceil(share * M) of tokens (M, D), by greedy k-centre on a projection to 128."""
    generator = torch.Generator().manual_seed(seed)
    small = tokens
    if tokens.shape[1] > _PROJECTED:
        matrix = torch.randn(tokens.shape[1], _PROJECTED, generator=generator)
        small = tokens @ matrix / _PROJECTED**0.5
    start = int(torch.randint(len(tokens), (1,), generator=generator))
    chosen = k_centre(small, max(1, int(np.ceil(share * len(tokens)))), start=start)
    return tokens[torch.from_numpy(chosen)]


def patch_scores(tokens: Tensor, visible: Tensor, bank: Tensor) -> Tensor:
    """Return s (N, P): the squared distance to the bank's nearest token, 0 in the background."""
    scores = torch.zeros(tokens.shape[:2])
    for i, image in enumerate(tokens):
        blocks = [squared_distances(image, b).amin(1) for b in torch.split(bank, 4096)]
        scores[i] = torch.where(visible[i], torch.stack(blocks).amin(0), 0.0)
    return scores


def top_means(tokens: Tensor, scores: Tensor, visible: Tensor, share: float) -> Floats:
    """Return d (N, D): the mean of the round(share * P) tokens with the largest scores.

    Of visible tokens alone if they are fewer (the published code fills up with background); at
    least one.
    """
    n, p, _ = tokens.shape
    ranked = torch.where(visible, scores, -1.0)
    counts = visible.sum(1).clamp(1, max(1, round(share * p)))
    order = ranked.argsort(dim=1, descending=True, stable=True)
    means = [tokens[i, order[i, : int(counts[i])]].mean(0) for i in range(n)]
    return np.asarray(torch.stack(means).numpy())


@dataclass(frozen=True)
class UniFormaly:
    """`normalised`: tokens are layer-normalised over the map before the mean over blocks."""

    normalised: bool = False

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return hard clusters. Raises ValueError without normal references or attention."""
        if data.means is None or data.attention is None or data.grid is None:
            raise ValueError("there are no patch tokens with attention: use the input patch")
        if data.normal_means is None or data.normal_attention is None:
            raise ValueError("there are no normal references")
        visible = background_masks(data.attention, data.grid) > _VISIBLE
        seen = background_masks(data.normal_attention, data.grid) > _VISIBLE
        tokens = _tensor(data.means[int(self.normalised)])
        normal = _tensor(data.normal_means[int(self.normalised)])[torch.from_numpy(seen)]
        shown = torch.from_numpy(visible)
        scores = patch_scores(tokens, shown, coreset(normal, _BANK, seed))
        means = top_means(tokens, scores, shown, _TOP)
        notes = {"share masked out": float(1 - visible.mean())}
        return Assignment(kmeans_labels(means, n_classes, seed), notes=notes)


def _tensor(tokens: Tokens | NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.asarray(tokens, np.float32))


_FOOTNOTE = "Published with DINO ViT-B/8 and 784 patches; here 256, of which 13 are averaged."
ROWS = {
    "uniformaly": PeerRow(
        name="UniFormaly (DINOv2 S/14)",
        method=UniFormaly(),
        inputs=("patch",),
        uses=frozenset({"N"}),
        random=True,
        published={"MVTec AD": (0.547, 0.433, 0.645), "MTD": (0.421, 0.322, 0.609)},
        footnote=_FOOTNOTE,
    ),
    "uniformaly_normalised": PeerRow(
        name="UniFormaly (DINOv2 S/14, blocks normalised)",
        method=UniFormaly(normalised=True),
        inputs=("patch",),
        uses=frozenset({"N"}),
        random=True,
        footnote=f"{_FOOTNOTE} The norm of each block is ours.",
    ),
}
