"""Surfaces of the demo: brushed metal and woven fabric."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

SIZE = 256
MARGIN_PX = 44
_FINE = 4
"""Lines are drawn on a grid finer by this factor and averaged down."""

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
RAY = np.arange(0, MARGIN_PX, 0.5)
ROWS, COLUMNS = (grid.astype(np.float32) for grid in np.mgrid[0:SIZE, 0:SIZE])


@dataclass(frozen=True)
class _Weave:
    """Position of each pixel in thread units along both axes, and the look of the threads."""

    across: tuple[Field, Field]  # warp and weft coordinate, both (H, W)
    shade: tuple[Field, Field]  # brightness of the thread under each pixel
    twist: Field
    pitch_px: float


@dataclass(frozen=True)
class Scene:
    """What a defect may look at: the direction of the light, of the texture, and the weave."""

    light: tuple[float, float]  # (row, column), unit length, towards the lamp
    angle: float
    weave: _Weave | None = None


def noise(rng: np.random.Generator, cells: int) -> Field:
    """Return smooth noise (H, W) of unit deviation with about `cells` bumps a side."""
    coarse = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), np.float32)


def draw_blob(
    rng: np.random.Generator, centre: tuple[float, float], radius: float, rough: float
) -> Field:
    """Return the distance to `centre` relative to an irregular contour: 1 on the contour."""
    row, column = ROWS - centre[0], COLUMNS - centre[1]
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.45)
    along = (row * np.sin(turn) + column * np.cos(turn)) / stretch
    beside = (row * np.cos(turn) - column * np.sin(turn)) * stretch
    theta = np.arctan2(beside, along)
    contour = np.ones_like(theta)
    for k in range(2, 8):
        contour += rough * rng.normal() / k * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.hypot(along, beside) / (radius * np.maximum(contour, 0.45)), np.float32)


def draw_strokes(strokes: list[tuple[NDArray[np.float64], float]]) -> Field:
    """Draw polylines of (row, column) points, each with a width in px, as coverage in [0, 1]."""
    canvas = np.zeros((SIZE * _FINE, SIZE * _FINE), np.uint8)
    for points, width in strokes:
        corners = np.round(points[:, ::-1] * _FINE * 8).astype(np.int32)
        thickness = max(1, round(width * _FINE))
        cv2.polylines(canvas, [corners], False, 255, thickness, cv2.LINE_AA, shift=3)
    small = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def shifted(field: Field, rows: float, columns: float) -> Field:
    matrix = np.array([[1, 0, columns], [0, 1, rows]], np.float32)
    return np.asarray(cv2.warpAffine(field, matrix, (SIZE, SIZE)), np.float32)


def softened(field: Field, sigma_px: float) -> Field:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma_px), np.float32)


def inside_of(distance: Field, softness: float) -> Field:
    """Return 1 where `distance` < 1, falling to 0 across the contour over about `softness`."""
    return np.asarray(expit((1 - distance) / softness), np.float32)


def near_to(field: Field, pixels: int) -> Mask:
    """Return True within `pixels` of where the coverage `field` exceeds a quarter."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(cv2.dilate((field > 0.25).astype(np.uint8), kernel), np.bool_)


# Surfaces


def _metal(rng: np.random.Generator) -> tuple[Field, Scene]:
    """Return brushed sheet metal (H, W), mean about 1: streaks of three lengths, one direction."""
    side = SIZE * 3 // 2
    sheet = np.zeros((side, side), np.float32)
    for length, width, weight in ((61, 0.5, 0.07), (17, 0.5, 0.04), (151, 2.0, 0.03)):
        streaks = cv2.blur(rng.standard_normal((side, side), dtype=np.float32), (length, 1))
        streaks = cv2.GaussianBlur(streaks, (1, 0), sigmaX=0.1, sigmaY=width)
        sheet += weight * streaks / streaks.std()
    angle = float(rng.uniform(-0.14, 0.14))
    zoom = rng.uniform(0.92, 1.15)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), float(np.degrees(angle)), zoom)
    matrix[:, 2] -= (side - SIZE) / 2
    surface = 1 + cv2.warpAffine(sheet, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
    surface += 0.015 * noise(rng, 6)
    return np.asarray(surface, np.float32), Scene(_light(rng), -angle)


def _fabric(rng: np.random.Generator) -> tuple[Field, Scene]:
    """Return plain weave (H, W), mean about 1, with uneven threads and a slight drape."""
    angle, pitch = rng.uniform(-0.10, 0.10), rng.uniform(7.4, 8.8)
    row = ROWS + 1.1 * noise(rng, 4)
    column = COLUMNS + 1.1 * noise(rng, 4)
    u = (np.cos(angle) * column + np.sin(angle) * row) / pitch + rng.uniform(60, 62)
    v = (np.cos(angle) * row - np.sin(angle) * column) / pitch + rng.uniform(60, 62)
    shades = []
    for across, along, tone in ((u, v, 1.04), (v, u, 0.96)):
        thread = rng.normal(tone, 0.035, 128)[np.clip(across.astype(int), 0, 127)]
        slubs = rng.standard_normal((32, 128))[
            np.clip(along / 4, 0, 31).astype(int), np.clip(across.astype(int), 0, 127)
        ]
        shades.append(np.asarray(thread + 0.02 * slubs, np.float32))
    weave = _Weave(
        across=(u.astype(np.float32), v.astype(np.float32)),
        shade=(shades[0], shades[1]),
        twist=rng.normal(0, 0.05, (SIZE, SIZE)).astype(np.float32),
        pitch_px=float(pitch),
    )
    nowhere = np.zeros((SIZE, SIZE), np.bool_)
    return _render(weave, (nowhere, nowhere)), Scene(_light(rng), float(-angle), weave)


def _render(weave: _Weave, absent: tuple[Mask, Mask]) -> Field:
    """Shade a weave; `absent` marks where the warp and the weft thread are missing."""
    u, v = weave.across
    round_u, round_v = np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1))
    # +1 where the warp thread crosses over, -1 where it dives under, 0 between the crossings.
    rise = np.where((u.astype(int) + v.astype(int)) % 2 == 0, 1, -1) * round_u * round_v
    lie = 0.04 * np.sin(2 * np.pi * (1.5 * v + u))
    warp = (0.42 + 0.54 * round_u**0.8 + lie) * (1 + 0.22 * rise) * weave.shade[0]
    weft = (0.42 + 0.54 * round_v**0.8 - lie) * (1 - 0.22 * rise) * weave.shade[1]
    surface = np.where(round_u + 0.75 * rise > round_v, warp, weft)
    surface = np.where(absent[0], 0.18 + 0.56 * round_v * weave.shade[1], surface)
    surface = np.where(absent[1], 0.18 + 0.56 * round_u * weave.shade[0], surface)
    surface = np.where(absent[0] & absent[1], 0.12, surface)
    return np.asarray(surface * (1 + weave.twist), np.float32)


def unweave(surface: Field, weave: _Weave, absent: tuple[Mask, Mask]) -> None:
    """Take threads out of an already painted `surface` (H, W, 3), in place."""
    nowhere = np.zeros((SIZE, SIZE), np.bool_)
    ratio = _render(weave, absent) / np.maximum(_render(weave, (nowhere, nowhere)), 0.05)
    surface *= np.where(absent[0] | absent[1], ratio, 1)[..., None].astype(np.float32)


def _light(rng: np.random.Generator) -> tuple[float, float]:
    """Return a direction towards the lamp: above the part, somewhat left or right."""
    turn = rng.uniform(-0.9, 0.9)
    return -float(np.cos(turn)), float(np.sin(turn))


SURFACES = {"metal": (_metal, (150, 153, 157)), "fabric": (_fabric, (178, 171, 158))}
