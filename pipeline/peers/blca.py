"""BLCA (Ardelean, Weyrich, CVPR workshops 2024): blind clustering of anomalies in textures.

With our anomaly maps and frozen patch tokens; the authors' maps come from a network of their own.

Shapes: N images, P patches on a grid, D width of a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.cluster import AgglomerativeClustering, KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.peers.base import Assignment, Floats, Ints, PeerData
from pipeline.peers.layers import linear
from pipeline.peers.training import Budget, Kind, PeerError, Stepper, chosen, generators

BUDGET = Budget("adamw", 5e-4, 1, 10, weight_decay=0.01)
"""10 epochs, one image and its partners a step, as the authors have it."""


@dataclass(frozen=True)
class Settings:
    """Constants of descriptor and training."""

    tau: float = 0.05
    """Temperature of the weights in units of the maps' spread; the authors' 0.002 is of theirs."""
    blur: float = 2.0
    """Deviation of the Gaussian blur, in patches of a 64-patch grid."""
    hidden: int = 256
    margin: float = 0.5
    near: int = 3
    far: int = 5
    pixels: int = 32
    """Patches drawn of each set in a step."""


def blurred(tokens: Floats, sigma: float) -> Floats:
    """Return blur(F)(u) minus its mean over u, of tokens (N, h, w, D)."""
    smooth = gaussian_filter(tokens, (0, sigma, sigma, 0), mode="nearest")
    return np.asarray(smooth - smooth.mean((1, 2), keepdims=True), np.float32)


def weights(scores: Floats, tau: float) -> Floats:
    """Return softmax_u(A_i(u) / (tau s)) of scores (N, P); s is the spread of all maps.

    The spread is the largest score minus the median, so that tau has no unit.
    """
    spread = max(float(scores.max() - np.median(scores)), 1e-12)
    scaled = scores.astype(np.float64) / (tau * spread)
    exp = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(exp / exp.sum(1, keepdims=True), np.float32)


def descriptors(tokens: Floats, alpha: Floats, sigma: float) -> Floats:
    """Return D_i = sum_u alpha_i(u) (blur(F_i)(u) - mean) of tokens (N, h, w, D), (N, D)."""
    centred = blurred(tokens, sigma).reshape(len(tokens), -1, tokens.shape[-1])
    return np.asarray(np.einsum("np,npd->nd", alpha, centred), np.float32)


def threshold(found: Floats, scores: Floats, n_classes: int, seed: int) -> float:
    """Return the score above which a patch is anomalous.

    Of k-means' clusters of the descriptors (N, D) that with the lowest mean of max A is normal; its
    share of the images is the quantile of max A.
    """
    peaks = scores.max(1)
    labels = KMeans(min(n_classes, len(found)), n_init=10, random_state=seed).fit_predict(found)
    means = [peaks[labels == k].mean() for k in np.unique(labels)]
    share = float((labels == np.unique(labels)[int(np.argmin(means))]).mean())
    return float(np.quantile(peaks, share))


def pair_loss(
    abnormal: Tensor,
    abnormal_near: Tensor,
    normal: Tensor,
    normal_near: Tensor,
    far: Tensor,
    margin: float,
) -> Tensor:
    """Return mean {||P-P'||^2, ||Q-Q'||^2} + mean {relu(m - ||P-Q'||^2), relu(m - ||P'-P''||^2)}.

    Parameters
    ----------
    abnormal, abnormal_near, normal, normal_near, far
        P, P', Q, Q' and P'': (n, E) unit vectors, paired row by row. A pair of which one side has
        no patch is left out.
    """
    together = [_gap(abnormal, abnormal_near), _gap(normal, normal_near)]
    apart = [_gap(abnormal, normal_near), _gap(abnormal_near, far)]
    pulled = [gap.mean() for gap in together if len(gap)]
    pushed = [F.relu(margin - gap).mean() for gap in apart if len(gap)]
    zero = abnormal.sum() * 0.0
    pull = torch.stack(pulled).mean() if pulled else zero
    push = torch.stack(pushed).mean() if pushed else zero
    return pull + push


def _gap(a: Tensor, b: Tensor) -> Tensor:
    """Return squared distances of the rows that both have."""
    n = min(len(a), len(b))
    return (a[:n] - b[:n]).square().sum(1)


class TokenNet(nn.Module):
    """D-hidden-D with ReLU on each token; its output has length 1."""

    def __init__(self, dim: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            linear(dim, hidden, generator), nn.ReLU(), linear(hidden, dim, generator)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., D) unit vectors of tokens (..., D)."""
        return F.normalize(self.layers(tokens), dim=-1)


@dataclass(frozen=True)
class BLCA:
    """BLCA on frozen patch tokens, with or without training of its token net."""

    settings: Settings = Settings()
    budget: Kind | Budget = "equal"
    train: bool = True

    def __call__(self, data: PeerData, n_classes: int, seed: int) -> Assignment:
        """Return Ward's clusters of the descriptors.

        Raises
        ------
        PeerError
            Without patch tokens, their grid or anomaly scores.
        """
        if data.patch_tokens is None or data.grid is None or data.scores is None:
            raise PeerError("BLCA needs patch tokens, their grid and anomaly scores: input `patch`")
        rows, columns = data.grid
        tokens = np.asarray(data.patch_tokens[-1], np.float32)
        tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True).clip(1e-12)
        maps = tokens.reshape(len(tokens), rows, columns, -1)
        alpha = weights(data.scores, self.settings.tau)
        sigma = self.settings.blur * rows / 64
        found = descriptors(maps, alpha, sigma)
        if self.train:
            limit = threshold(found, data.scores, n_classes, seed)
            trained = self._train(tokens, data.scores > limit, found, seed)
            found = descriptors(trained.reshape(maps.shape), alpha, sigma)
        labels = AgglomerativeClustering(min(n_classes, len(found))).fit_predict(found)
        return Assignment(np.asarray(labels, np.int64))

    def _train(self, tokens: Floats, abnormal: np.ndarray, found: Floats, seed: int) -> Floats:
        """Return tokens (N, P, D) of the trained net; `abnormal` (N, P) are above the threshold."""
        generator, rng = generators(seed)
        net = TokenNet(tokens.shape[-1], self.settings.hidden, generator)
        budget = chosen(self.budget, equal=BUDGET, official=BUDGET)
        step = Stepper([net], budget)
        order = np.argsort(((found[:, None] - found[None]) ** 2).sum(-1), axis=1, kind="stable")
        x = torch.from_numpy(tokens)
        n = len(tokens)
        for epoch in range(budget.n_epochs(n)):
            for i in rng.permutation(n):
                near = order[i][order[i] != i][: self.settings.near]
                far = rng.choice(order[i][(n + 1) // 2 :], self.settings.far)
                drawn = [
                    self._draw(abnormal, np.array([i]), rng),
                    self._draw(abnormal, np.append(near, i), rng),
                    self._draw(~abnormal, np.array([i]), rng),
                    self._draw(~abnormal, np.append(near, i), rng),
                    self._draw(abnormal, far, rng),
                ]
                p, p_near, q, q_near, p_far = (net(x[image, patch]) for image, patch in drawn)
                loss = pair_loss(p, p_near, q, q_near, p_far, self.settings.margin)
                step(loss, epoch / budget.epochs)
        with torch.no_grad():
            return np.asarray(net(x), np.float32)

    def _draw(
        self, chosen_patches: np.ndarray, images: Ints, rng: np.random.Generator
    ) -> tuple[Ints, Ints]:
        """Return image and patch numbers of some chosen patches of some images, none if none is."""
        image, patch = np.nonzero(chosen_patches[images])
        if len(image) == 0:
            return image, patch
        rows = rng.integers(0, len(image), self.settings.pixels)
        return images[image[rows]], patch[rows]
