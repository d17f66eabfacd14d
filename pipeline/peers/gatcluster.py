"""GATCluster (Niu, Zhang, Wang, Liang, ECCV 2020): four self-made targets, one through a window.

Frozen trunk: the map is a 1x1 convolution of frozen patch tokens (projected on their principal
components). Views are flips and shifts of the token map, as no patch tokens of augmented views are
cached.

Shapes: B images, h x w patches, D width, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.peers.base import Assignment, Floats, PeerData
from pipeline.peers.layers import linear
from pipeline.peers.training import Budget, Kind, PeerError, Stepper, chosen, generators

EQUAL = Budget("adam", 1e-3, 32, 500)
"""500 rounds of 8 passes; epochs are rounds."""
OFFICIAL = Budget("adam", 1e-3, 32, 6000)


@dataclass(frozen=True)
class Settings:
    """Constants of heads and targets."""

    width: float = 0.05
    """lam of the window."""
    channels: int = 10
    components: int = 64
    """Principal components of the tokens (ours)."""
    most_patches: int = 8
    """Rows and columns of the map; a larger one is averaged (ours)."""
    passes: int = 8
    entropy_weight: float = 3.0
    target_weight: float = 5.0
    attention_weight: float = 5.0
    smallest_share: float = 0.1
    shift: int = 1
    """Largest shift of a view, in patches of the map."""


def window(centre: Tensor, spread: Tensor, rows: int, columns: int, width: float) -> Tensor:
    """Return G(u) = exp(-||u - m||^2 / (2 lam s)) on a grid over [0, 1]^2, (B, h, w).

    Parameters
    ----------
    centre
        (B, 2) m, the vertical coordinate first.
    spread
        (B,) s.
    """
    vertical = torch.linspace(0, 1, rows)[None, :, None] - centre[:, 0, None, None]
    horizontal = torch.linspace(0, 1, columns)[None, None, :] - centre[:, 1, None, None]
    scale = 2 * width * spread.clamp_min(1e-6)[:, None, None]
    return torch.exp(-(vertical.square() + horizontal.square()) / scale)


def translation_target(q: Tensor) -> Tensor:
    """Return t = q / column sum, rows normalised, of probabilities (B, K)."""
    scaled = q / q.sum(0).clamp_min(1e-12)
    return scaled / scaled.sum(1, keepdim=True)


def attention_target(q: Tensor) -> Tensor:
    """Return d = q^2 / column sum, rows normalised, of probabilities (B, K)."""
    return _rows(q.square() / q.sum(0).clamp_min(1e-12))


def _rows(x: Tensor) -> Tensor:
    return x / x.sum(1, keepdim=True)


def relation_groups(target: Floats, n_classes: int, smallest: float, seed: int) -> np.ndarray:
    """Return groups (N,) of k-means on d (N, K); each image alone if a group is too small.

    Too small is less than `smallest` N / K images; then no pair but (i, i) belongs together.
    """
    n = len(target)
    k = min(n_classes, len(np.unique(target, axis=0)))
    if k < n_classes:
        return np.arange(n)
    labels = KMeans(k, n_init=5, random_state=seed).fit_predict(target)
    if np.bincount(labels, minlength=k).min() < max(smallest * n / n_classes, 1):
        return np.arange(n)
    return np.asarray(labels, np.int64)


def binary_cross_entropy(p: Tensor, target: Tensor) -> Tensor:
    """Return the mean of -[d log p + (1 - d) log(1 - p)], logarithms at least -100."""
    return F.binary_cross_entropy(p.clamp(0, 1), target)


def relation_loss(p: Tensor, groups: Tensor) -> Tensor:
    """Return BCE(cos(p_i, p_j), same group) over the pairs i >= j of probabilities (B, K)."""
    unit = F.normalize(p, dim=1)
    i, j = torch.tril_indices(len(p), len(p))
    return binary_cross_entropy((unit @ unit.T)[i, j], (groups[i] == groups[j]).to(p))


def entropy(p: Tensor) -> Tensor:
    """Return H(mean p) of probabilities (B, K)."""
    mean = p.mean(0).clamp_min(1e-12)
    return -(mean * mean.log()).sum()


def objective(
    p: Tensor, attended: Tensor, t: Tensor, d: Tensor, groups: Tensor, settings: Settings
) -> Tensor:
    """Return -5 mean <p, t> - 3 [H(p) + H(p_att)] + relation + 5 BCE(p_att, d).

    Parameters
    ----------
    p, attended
        (B, K) probabilities of both heads.
    t, d, groups
        Fixed targets of the same images.
    """
    s = settings
    return (
        -s.target_weight * (p * t).sum(1).mean()
        - s.entropy_weight * (entropy(p) + entropy(attended))
        + relation_loss(p, groups)
        + s.attention_weight * binary_cross_entropy(attended, d)
    )


class Network(nn.Module):
    """Map, features, two heads and the window between them."""

    def __init__(
        self, dim: int, cells: int, n_classes: int, s: Settings, generator: torch.Generator
    ) -> None:
        super().__init__()
        inner = max(s.channels, 2 * n_classes)
        self.width = s.width
        self.map = linear(dim, inner, generator)
        self.map_norm = nn.BatchNorm1d(inner)
        self.features = linear(inner, s.channels, generator)
        self.features_norm = nn.BatchNorm1d(s.channels)
        self.attention = linear(inner, s.channels, generator)
        self.attention_norm = nn.BatchNorm1d(s.channels)
        self.where = linear(cells * s.channels, 3, generator)
        self.head = _head(s.channels, n_classes, generator)
        self.attended_head = _head(s.channels, n_classes, generator)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return p and p_att (B, K) of token maps (B, h, w, D)."""
        size = tokens.shape[:3]
        cells = F.relu(self.map_norm(self.map(tokens.flatten(0, 2))))
        features = self.features_norm(self.features(cells)).view(*size, -1)
        looked = F.relu(self.attention_norm(self.attention(cells)))
        where = torch.sigmoid(self.where(looked.view(size[0], -1)))  # (B, 3): m1, m2, s
        g = window(where[:, :2], where[:, 2], size[1], size[2], self.width)
        attended = (g[..., None] * features).sum((1, 2))
        p = torch.softmax(self.head(features.mean((1, 2))), -1)
        return p, torch.softmax(self.attended_head(attended), -1)


def _head(channels: int, n_classes: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(
        linear(channels, n_classes, generator), nn.ReLU(), linear(n_classes, n_classes, generator)
    )


def token_maps(tokens: Floats, grid: tuple[int, int], s: Settings, seed: int) -> Tensor:
    """Return maps (N, h, w, C): tokens (N, P, D) averaged to a coarser grid, on whitened PCs."""
    n, _, dim = tokens.shape
    maps = torch.from_numpy(tokens).float().view(n, *grid, dim).permute(0, 3, 1, 2)
    size = (min(grid[0], s.most_patches), min(grid[1], s.most_patches))
    maps = F.adaptive_avg_pool2d(maps, size).permute(0, 2, 3, 1)
    flat = maps.reshape(-1, dim).numpy()
    components = min(s.components, dim, len(flat))
    reduced = PCA(components, random_state=seed).fit_transform(flat)
    reduced = reduced / max(float(reduced.std()), 1e-12)
    return torch.from_numpy(reduced).float().view(n, *size, components)


def moved(maps: Tensor, shift: int, rng: np.random.Generator) -> Tensor:
    """Return the maps (B, h, w, C), flipped at random and shifted with repeated edges."""
    if rng.random() < 0.5:
        maps = maps.flip(2)
    down, right = rng.integers(-shift, shift + 1, 2)
    rows = (torch.arange(maps.shape[1]) + int(down)).clamp(0, maps.shape[1] - 1)
    columns = (torch.arange(maps.shape[2]) + int(right)).clamp(0, maps.shape[2] - 1)
    return maps[:, rows][:, :, columns]


@dataclass(frozen=True)
class GATCluster:
    """GATCluster's heads on frozen patch tokens."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return probabilities of the head without window.

        Raises
        ------
        PeerError
            Without patch tokens and their grid.
        """
        if data.patch_tokens is None or data.grid is None:
            raise PeerError("GATCluster needs patch tokens and their grid: input `patch`")
        s = self.settings
        generator, rng = generators(seed)
        maps = token_maps(np.asarray(data.patch_tokens[-1], np.float32), data.grid, s, seed)
        cells = maps.shape[1] * maps.shape[2]
        network = Network(maps.shape[3], cells, n_classes, s, generator)
        budget = chosen(self.budget, equal=EQUAL, official=OFFICIAL)
        step = Stepper([network], budget)
        alone = 0
        for number in range(budget.epochs):
            p = _probabilities(network, maps)
            t, d = translation_target(p), attention_target(p)
            groups = torch.from_numpy(
                relation_groups(d.numpy(), n_classes, s.smallest_share, seed + number)
            )
            alone += len(torch.unique(groups)) == len(maps)
            network.train()
            for _ in range(s.passes):
                for rows in _batches(len(maps), budget.batch, rng):
                    p, attended = network(moved(maps[rows], s.shift, rng))
                    loss = objective(p, attended, t[rows], d[rows], groups[rows], s)
                    step(loss, number / budget.epochs)
        found = _probabilities(network, maps).numpy()
        notes = {"share of rounds without relation": alone / budget.epochs}
        return Assignment(found.argmax(1).astype(np.int64), found, notes)


def _probabilities(network: Network, maps: Tensor) -> Tensor:
    """Return p (N, K) of all maps in evaluation mode."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part)[0] for part in torch.split(maps, 256)])


def _batches(n: int, batch: int, rng: np.random.Generator) -> list[Tensor]:
    """Return the images of one pass in batches of nearly equal size, at most `batch`."""
    return list(torch.from_numpy(rng.permutation(n)).chunk(-(-n // batch)))
