"""Features of made-up images for tests of peers: blobs on the sphere, and patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.peers.base import Floats, Ints, PeerData

GRID = (4, 4)
PATCHES, WIDTH, PER_BLOB, BLOBS = 16, 12, 12, 3
DEFECT = 5
"""The patch that shows what an image's class is."""


def directions(count: int, seed: int = 0) -> Floats:
    """Return orthonormal directions (count, WIDTH)."""
    matrix = np.random.default_rng(seed).normal(size=(WIDTH, WIDTH))
    return np.asarray(np.linalg.qr(matrix)[0][:count], np.float32)


def cloud(centres: Floats, rng: np.random.Generator, noise: float) -> Floats:
    """Return `centres` (n, WIDTH) with noise, of length 1."""
    points = centres + rng.normal(scale=noise, size=centres.shape)
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def patches(classes: Floats, rng: np.random.Generator) -> Floats:
    """Return patch tokens (n, P, WIDTH): all alike but patch DEFECT, which shows the class."""
    common = rng.normal(size=(PATCHES, WIDTH))
    tokens = common + rng.normal(scale=0.02, size=(len(classes), PATCHES, WIDTH))
    tokens[:, DEFECT] = 6 * classes
    return np.asarray(tokens, np.float32)


def blobs(n_blobs: int = BLOBS, *, base: bool = False, seed: int = 0) -> tuple[PeerData, Ints]:
    """Return features of `n_blobs` classes of images, with normal references, and the classes."""
    rng = np.random.default_rng(seed)
    axes = directions(n_blobs + 2)
    true = np.repeat(np.arange(n_blobs), PER_BLOB)
    centres, views = axes[true], 3
    tokens = patches(centres, rng)
    normal = np.delete(tokens, DEFECT, 1).mean(0)
    normal = np.insert(normal, DEFECT, normal[0], 0) + np.zeros((6, 1, 1), np.float32)
    attention = np.ones((len(true), PATCHES), np.float32)
    masks: NDArray[np.float32] = np.zeros((len(true), PATCHES), np.float32)
    masks[:, DEFECT] = 1
    base_true = np.repeat([0, 1], PER_BLOB)
    data = PeerData(
        class_tokens=cloud(centres, rng, 0.03),
        view_tokens=np.stack([cloud(centres, rng, 0.04) for _ in range(views)]),
        patch_tokens=[tokens],
        grid=GRID,
        pooled=cloud(centres, rng, 0.03),
        scores=masks,
        normals=[normal],
        base_tokens=cloud(axes[n_blobs + base_true], rng, 0.03) if base else None,
        base_view_tokens=np.stack(
            [cloud(axes[n_blobs + base_true], rng, 0.04) for _ in range(views)]
        )
        if base
        else None,
        base_labels=base_true if base else None,
        sample_ids=[f"image-{i:03d}" for i in range(len(true))],
        masks=masks,
        means=[tokens, tokens],
        normal_means=[normal, normal],
        attention=attention,
        normal_attention=attention[:6],
    )
    return data, true


def one_blob(n: int = 12) -> PeerData:
    """Return features of `n` images that are the same to the last digit."""
    data, _ = blobs(1)

    def same(array: Floats) -> Floats:
        return np.repeat(array[:1], n, 0)

    assert data.view_tokens is not None
    assert data.patch_tokens is not None
    tokens = same(np.asarray(data.patch_tokens[0], np.float32))
    ones = np.ones((n, PATCHES), np.float32)
    return PeerData(
        class_tokens=same(data.class_tokens),
        view_tokens=np.repeat(data.view_tokens[:1, :1], n, 1).repeat(3, 0),
        patch_tokens=[tokens],
        grid=GRID,
        pooled=same(data.class_tokens),
        scores=ones,
        normals=data.normals,
        sample_ids=[f"image-{i:03d}" for i in range(n)],
        masks=ones,
        means=[tokens, tokens],
        normal_means=data.normal_means,
        attention=ones,
        normal_attention=data.normal_attention,
    )
