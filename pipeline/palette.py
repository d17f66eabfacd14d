"""Colours and marker shapes of classes: the same class looks the same all over the report.

Every colour has a contrast of 3:1 or more with the light and with the dark background of the page.
"""

from __future__ import annotations

from typing import Literal

Marker = Literal["circle", "square", "triangle", "diamond"]

COLOURS = (
    "#7b858f",  # 0, normal
    "#2f7fe0",
    "#dd6b10",
    "#2a9d55",
    "#d6455f",
    "#9a63d2",
    "#12929f",
    "#b57a12",
    "#d255a5",
    "#76901c",
    "#a8705a",
    "#6470e2",
)
MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond")


def class_colour(number: int) -> str:
    """Return the colour ``#rrggbb`` of class `number` >= 0; it comes again after 12 classes."""
    return COLOURS[number % len(COLOURS)]


def class_rgb(number: int) -> tuple[int, int, int]:
    """Return `class_colour` as red, green and blue from 0 to 255."""
    colour = class_colour(number)
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def class_marker(number: int) -> Marker:
    """Return the marker of class `number`; neighbours differ, and 48 classes differ in the pair."""
    return MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]
