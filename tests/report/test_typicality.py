"""Typicality against the cosine written out, and its corner cases."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.typicality import typicality


def test_it_is_the_cosine_to_the_mean_of_the_class() -> None:
    x = np.random.default_rng(0).normal(size=(9, 4))
    classes = [0, "stain", 2, 2, 0, 2, "stain", 0, 2]
    found = typicality(x.astype(np.float32), classes)
    for i, own in enumerate(classes):
        members = [v / np.sqrt((v * v).sum()) for v, k in zip(x, classes, strict=True) if k == own]
        mean = sum(members) / len(members)
        cosine = (x[i] * mean).sum() / np.sqrt((x[i] ** 2).sum() * (mean**2).sum())
        assert found[i] == pytest.approx(cosine, abs=1e-6)


def test_alone_opposed_and_zero() -> None:
    x = np.array([[3.0, 4.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(typicality(x, [0, 1, 1, 2]), [1, 0, 0, 0], atol=1e-12)
    assert typicality(np.zeros((0, 4)), []).shape == (0,)
    with pytest.raises(ValueError, match="2 classes"):
        typicality(x, [0, 1])
