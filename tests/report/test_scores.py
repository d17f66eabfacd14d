"""The notes on what the limit of the image scores rests on."""

from __future__ import annotations

import pytest

from pipeline.report.scores import _note


@pytest.mark.parametrize(
    ("basis", "rate", "separation", "said"),
    [
        ("references", 0.05, 2.0, "at most 5.0% of good images"),
        ("modes", None, 4.25, "the lower of two modes (Ashman's D 4.2)"),
        ("lowest", None, 1.5, "those with the lowest scores, is called normal"),
        ("nothing", None, 1.5, "No image is called normal by its score"),
        ("nothing", None, None, "fall into two modes. Add normal references"),
    ],
)
def test_notes(basis: str, rate: float | None, separation: float | None, said: str) -> None:
    assert said in _note(basis, rate, separation)
