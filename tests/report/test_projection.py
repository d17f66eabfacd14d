"""t-SNE: neighbours stay neighbours, and small or degenerate sets do not fail."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.projection import FEWEST, subsample, tsne


def blobs(per: int = 12, kinds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(kinds, 16)) * 10
    kind = np.repeat(np.arange(kinds), per)
    return (centres[kind] + rng.normal(size=(len(kind), 16))).astype(np.float32), kind


def test_neighbours_are_of_the_same_kind() -> None:
    embeddings, kind = blobs()
    points = tsne(embeddings)
    assert points is not None
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (kind[distance.argmin(1)] == kind).all()


def test_the_same_twice() -> None:
    embeddings, _ = blobs()
    np.testing.assert_array_equal(tsne(embeddings, seed=3), tsne(embeddings, seed=3))


@pytest.mark.parametrize("n", [FEWEST, FEWEST + 1])
def test_the_smallest_sets(n: int) -> None:
    points = tsne(blobs()[0][:n])
    assert points is not None
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()
    assert tsne(blobs()[0][: FEWEST - 1]) is None


def test_equal_rows_and_one_column() -> None:
    assert tsne(np.ones((20, 8), np.float32)) is None
    points = tsne(blobs()[0][:, :1])
    assert points is not None
    assert np.isfinite(points).all()
    with pytest.raises(ValueError, match=r"not \(M, D\)"):
        tsne(np.ones(20, np.float32))


def test_subsample_is_seeded_and_without_repetition() -> None:
    assert subsample(4, 4).tolist() == [0, 1, 2, 3]
    drawn = subsample(100, 30, seed=1)
    assert len(set(drawn.tolist())) == 30
    assert (np.diff(drawn) > 0).all()
    assert drawn.tolist() == subsample(100, 30, seed=1).tolist()
    assert drawn.tolist() != subsample(100, 30, seed=2).tolist()
