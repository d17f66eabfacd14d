"""The palette: distinct, and legible on both backgrounds of the page."""

from __future__ import annotations

import re

import pytest

from pipeline.palette import COLOURS, class_colour, class_marker, class_rgb
from tests.graph import ROOT


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_light_and_dark_cards(colour: str) -> None:
    style = (ROOT / "pipeline" / "report" / "templates" / "report.html.j2").read_text(
        encoding="utf-8"
    )
    cards = re.findall(r"--card:(#[0-9a-f]{3,6})", style)
    assert len(cards) == 2
    for card in cards:
        full = card if len(card) == 7 else "#" + "".join(c * 2 for c in card[1:])
        low, high = sorted((luminance(full), luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 3


def test_forty_eight_classes_differ_in_colour_or_marker() -> None:
    assert len({(class_colour(k), class_marker(k)) for k in range(48)}) == 48
    assert all(class_marker(k) != class_marker(k + 1) for k in range(10))
    assert all(class_colour(k) != class_colour(k + 1) for k in range(48))


def test_rgb_is_the_colour() -> None:
    assert class_rgb(0) == (0x7B, 0x85, 0x8F)
    assert class_rgb(13) == class_rgb(1) == (0x2F, 0x7F, 0xE0)
