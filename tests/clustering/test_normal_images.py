"""Which sub-images are normal before any classification."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.clustering.normal_images import NormalRule, known_normal


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("scores", [True, True, True, False, True]),
        ("regions", [False, True, False, False, True]),
        ("none", [False] * 5),
    ],
)
def test_sub_images_are_normal_by_rule(rule: NormalRule, expected: list[bool]) -> None:
    """A score at the limit is normal; so is what has no area, whatever its score."""
    found = known_normal(rule, [50, 0, 9, 9, 0], [-1.0, -1.0, 0.3, 0.4, 5.0], 0.3)
    np.testing.assert_array_equal(found, expected)


def test_without_a_limit_no_score_is_normal() -> None:
    found = known_normal("scores", [5, 0], [-100.0, 9.0], -np.inf)
    np.testing.assert_array_equal(found, [False, True])
