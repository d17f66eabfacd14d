"""Gaussian blobs on the sphere as inputs of the peer methods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.peers.base import Floats, Ints, PeerData


def on_sphere(x: np.ndarray) -> Floats:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), np.float32)


def around(
    centres: np.ndarray, labels: np.ndarray, noise: float, rng: np.random.Generator
) -> Floats:
    return on_sphere(centres[labels] + noise * rng.standard_normal((len(labels), centres.shape[1])))


def copies(x: Floats, noise: float, rng: np.random.Generator, n_views: int = 2) -> Floats:
    """Return views (V, N, D): the tokens with some more noise."""
    return on_sphere(x + noise * rng.standard_normal((n_views, *x.shape)))


def blobs(
    n_classes: int = 4,
    n: int = 80,
    *,
    n_base_classes: int = 2,
    dim: int = 16,
    noise: float = 0.05,
    seed: int = 0,
    grid: int = 3,
) -> tuple[PeerData, Ints]:
    """Return N images in blobs of equal size, base blobs elsewhere, and the true blobs.

    Centres are orthogonal. Patch tokens are those of the image but for background patches: the
    patch in the middle shows the blob and has the highest anomaly score, except in blob 0, which is
    normal.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    labels = rng.permutation(np.arange(n) % n_classes)
    tokens = around(axes, labels, noise, rng)
    base_labels = np.arange(10 * n_base_classes) % max(n_base_classes, 1)
    base = around(axes[n_classes:], base_labels, noise, rng)
    patches = on_sphere(axes[-1] + 0.02 * rng.standard_normal((n, grid**2, dim)))
    middle = grid**2 // 2
    patches[:, middle] = tokens
    scores = rng.uniform(0, 0.1, (n, grid**2)).astype(np.float32)
    scores[labels > 0, middle] = 1
    data = PeerData(
        class_tokens=tokens,
        view_tokens=copies(tokens, 0.03, rng),
        patch_tokens=[patches.astype(np.float16)],
        grid=(grid, grid),
        pooled=tokens,
        scores=scores,
        normals=None,
        base_tokens=base if n_base_classes else None,
        base_view_tokens=copies(base, 0.03, rng) if n_base_classes else None,
        base_labels=base_labels if n_base_classes else None,
        sample_ids=[f"image{i:03d}" for i in range(n)],
    )
    return data, labels


def permuted(data: PeerData, order: Ints) -> PeerData:
    """Return the same images in another order."""

    def moved(array: Floats | None) -> Floats | None:
        return None if array is None else array[order]

    assert data.view_tokens is not None
    assert data.patch_tokens is not None
    return replace(
        data,
        class_tokens=data.class_tokens[order],
        view_tokens=data.view_tokens[:, order],
        patch_tokens=[x[order] for x in data.patch_tokens],
        means=None if data.means is None else [x[order] for x in data.means],
        pooled=moved(data.pooled),
        scores=moved(data.scores),
        masks=moved(data.masks),
        attention=moved(data.attention),
        sample_ids=[data.sample_ids[i] for i in order],
    )
