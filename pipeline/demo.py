"""Synthetic inspection photographs: the embedded demo data, arrays out.

Two products, `metal` (brushed sheet) and `fabric` (plain weave), each photographed with its own
pose, texture phase, lighting, focus and sensor noise. The background and the defect of an image
draw from separate random streams, so the background's statistics cannot depend on the label: with
equally seeded generators a good and a defective image agree outside the defect. Pixels are
(row, column), lengths are in pixels, angles in radians.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.progress import Progress, silent

SIZE = 256
NORMAL = "good"
PRODUCTS: dict[str, tuple[str, ...]] = {
    "metal": ("good", "scratch", "dent", "stain", "crack"),
    "fabric": ("good", "hole", "missing_thread", "knot", "stain"),
}
"""Labels of each product; the first is the normal one."""

_TWO_REGIONS = 0.3
"""Share of defective images that show the same defect twice."""
_MARGIN_PX = 44
_APART_PX = 92
_FINE = 4
"""Lines are drawn on a grid finer by this factor and averaged down."""

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
_RAY = np.arange(0, _MARGIN_PX, 0.5)
_ROWS, _COLUMNS = (grid.astype(np.float32) for grid in np.mgrid[0:SIZE, 0:SIZE])


@dataclass(frozen=True)
class DemoImage:
    """A photograph, uint8 (256, 256, 3) RGB, and its mask, bool (256, 256), True on the defect."""

    image: NDArray[np.uint8]
    mask: Mask


@dataclass(frozen=True)
class DemoSample:
    """A photograph and its place in the set: `split` is train or test, `name` counts per folder."""

    split: str
    label: str
    name: str
    image: NDArray[np.uint8]
    mask: Mask


@dataclass(frozen=True)
class _Weave:
    """Position of each pixel in thread units along both axes, and the look of the threads."""

    across: tuple[Field, Field]  # warp and weft coordinate, both (H, W)
    shade: tuple[Field, Field]  # brightness of the thread under each pixel
    twist: Field
    pitch_px: float


@dataclass(frozen=True)
class _Scene:
    """What a defect may look at: the direction of the light, of the texture, and the weave."""

    light: tuple[float, float]  # (row, column), unit length, towards the lamp
    angle: float
    weave: _Weave | None = None


_Defect = Callable[[Field, _Scene, np.random.Generator, tuple[float, float], float], Mask]
"""Changes `surface` (H, W, 3) in place around a centre at a relative size; returns its mask."""


def _noise(rng: np.random.Generator, cells: int) -> Field:
    """Return smooth noise (H, W) of unit deviation with about `cells` bumps a side."""
    coarse = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), np.float32)


def _blob(
    rng: np.random.Generator, centre: tuple[float, float], radius: float, rough: float
) -> Field:
    """Return the distance to `centre` relative to an irregular contour: 1 on the contour."""
    row, column = _ROWS - centre[0], _COLUMNS - centre[1]
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.45)
    along = (row * np.sin(turn) + column * np.cos(turn)) / stretch
    beside = (row * np.cos(turn) - column * np.sin(turn)) * stretch
    theta = np.arctan2(beside, along)
    contour = np.ones_like(theta)
    for k in range(2, 8):
        contour += rough * rng.normal() / k * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.hypot(along, beside) / (radius * np.maximum(contour, 0.45)), np.float32)


def _strokes(strokes: list[tuple[NDArray[np.float64], float]]) -> Field:
    """Draw polylines of (row, column) points, each with a width in px, as coverage in [0, 1]."""
    canvas = np.zeros((SIZE * _FINE, SIZE * _FINE), np.uint8)
    for points, width in strokes:
        corners = np.round(points[:, ::-1] * _FINE * 8).astype(np.int32)
        thickness = max(1, round(width * _FINE))
        cv2.polylines(canvas, [corners], False, 255, thickness, cv2.LINE_AA, shift=3)
    small = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def _shift(field: Field, rows: float, columns: float) -> Field:
    matrix = np.array([[1, 0, columns], [0, 1, rows]], np.float32)
    return np.asarray(cv2.warpAffine(field, matrix, (SIZE, SIZE)), np.float32)


def _soft(field: Field, sigma_px: float) -> Field:
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma_px), np.float32)


def _inside(distance: Field, softness: float) -> Field:
    """Return 1 where `distance` < 1, falling to 0 across the contour over about `softness`."""
    return np.asarray(expit((1 - distance) / softness), np.float32)


def _near(field: Field, pixels: int) -> Mask:
    """Return True within `pixels` of where the coverage `field` exceeds a quarter."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(cv2.dilate((field > 0.25).astype(np.uint8), kernel), np.bool_)


# Surfaces


def _metal(rng: np.random.Generator) -> tuple[Field, _Scene]:
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
    surface += 0.015 * _noise(rng, 6)
    return np.asarray(surface, np.float32), _Scene(_light(rng), -angle)


def _fabric(rng: np.random.Generator) -> tuple[Field, _Scene]:
    """Return plain weave (H, W), mean about 1, with uneven threads and a slight drape."""
    angle, pitch = rng.uniform(-0.10, 0.10), rng.uniform(7.4, 8.8)
    row = _ROWS + 1.1 * _noise(rng, 4)
    column = _COLUMNS + 1.1 * _noise(rng, 4)
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
    return _render(weave, (nowhere, nowhere)), _Scene(_light(rng), float(-angle), weave)


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


def _unweave(surface: Field, weave: _Weave, absent: tuple[Mask, Mask]) -> None:
    """Take threads out of an already painted `surface` (H, W, 3), in place."""
    nowhere = np.zeros((SIZE, SIZE), np.bool_)
    ratio = _render(weave, absent) / np.maximum(_render(weave, (nowhere, nowhere)), 0.05)
    surface *= np.where(absent[0] | absent[1], ratio, 1)[..., None].astype(np.float32)


def _light(rng: np.random.Generator) -> tuple[float, float]:
    """Return a direction towards the lamp: above the part, somewhat left or right."""
    turn = rng.uniform(-0.9, 0.9)
    return -float(np.cos(turn)), float(np.sin(turn))


# Defects


def _scratch(
    surface: Field, scene: _Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """One to three nearly parallel grooves across the brushing, bright or dark with a flank."""
    heading = scene.angle + rng.choice([-1, 1]) * rng.uniform(0.45, np.pi / 2)
    length, bend = size * rng.uniform(66, 122), rng.normal(0, 0.06)
    strokes = []
    for k in range(int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))):
        t = np.linspace(-0.5, 0.5, 24) * (length if k == 0 else length * rng.uniform(0.4, 0.8))
        beside = bend * t**2 / length + k * rng.uniform(3, 5) + rng.normal(0, 0.12, 24)
        row = at[0] + t * np.sin(heading) + beside * np.cos(heading)
        column = at[1] + t * np.cos(heading) - beside * np.sin(heading)
        points = np.stack([row, column], axis=1)
        width = rng.uniform(1.2, 2.1) * (1.0 if k == 0 else 0.7)
        strokes += [(points, 0.6 * width), (points[4:-4], width)]
    groove = _strokes(strokes)
    gain = rng.uniform(0.42, 0.7) if rng.random() < 0.85 else -rng.uniform(0.35, 0.5)
    flank = np.clip(_shift(groove, 1.3, 0.8) - groove, 0, 1)
    surface *= (1 + gain * groove - 0.5 * gain * flank)[..., None]
    return _near(groove, 1)


def _crack(
    surface: Field, scene: _Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A jagged dark walk with forks, thinning towards its ends, with a light lip."""
    start = rng.uniform(0, 2 * np.pi)
    reach, broad = size * rng.uniform(34, 56), rng.uniform(2.4, 3.6)
    strokes: list[tuple[NDArray[np.float64], float]] = []
    open_ends = [(np.array(at), start, reach), (np.array(at), start + np.pi, reach)]
    while open_ends:
        point, aim, left = open_ends.pop()
        while left > 0:
            step, heading = rng.uniform(2, 6), aim + rng.normal(0, 0.6)
            last, point = point, point + step * np.array([np.sin(heading), np.cos(heading)])
            width = broad * (left / reach) ** 0.6 * rng.uniform(0.7, 1.2)
            strokes.append((np.stack([last, point]), max(0.5, width)))
            aim, left = aim + rng.normal(0, 0.12), left - step
            if 9 < left < 0.9 * reach and len(open_ends) < 4 and rng.random() < 0.30:
                side = rng.choice([-1, 1]) * rng.uniform(0.6, 1.1)
                open_ends.append((point, aim + side, left * rng.uniform(0.4, 0.75)))
    gap = _strokes(strokes)
    lip = np.clip(_shift(gap, -1.2 * scene.light[0], -1.2 * scene.light[1]) - gap, 0, 1)
    surface *= (1 - rng.uniform(0.70, 0.85) * gap + 0.18 * lip)[..., None]
    return _near(gap, 1)


def _dent(
    surface: Field, scene: _Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A smooth hollow: shaded on the lamp's side, lit on the other, bending the brush lines."""
    radius = size * rng.uniform(20, 31)
    distance = _blob(rng, at, radius, rough=0.10)
    depth = -np.exp(-(distance**2) * 1.6).astype(np.float32)
    slope_row, slope_column = (s * radius for s in np.gradient(_soft(depth, 1.5)))
    # A slope that rises away from the lamp faces it.
    facing = -(slope_row * scene.light[0] + slope_column * scene.light[1])
    bend_px = 0.16 * radius
    bent = cv2.remap(
        surface, _COLUMNS + bend_px * slope_column, _ROWS + bend_px * slope_row,
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    glint = np.exp(-((facing / max(float(facing.max()), 1e-6) - 1) ** 2) / 0.05)
    gain = 1 + rng.uniform(0.34, 0.48) * facing + 0.10 * glint
    surface[:] = bent * np.clip(gain, 0.35, 1.7)[..., None]
    return np.asarray(distance < 1.25, np.bool_)


def _stain(
    surface: Field, scene: _Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A dried liquid: soft irregular edge, cloudy inside, sometimes a rim; it mutes the texture."""
    distance = _blob(rng, at, size * rng.uniform(15, 29), rough=0.38)
    cloud = _noise(rng, 22)
    cover = _inside(distance + 0.10 * cloud, rng.uniform(0.06, 0.11))
    rim = rng.uniform(0, 0.7) * np.exp(-(((distance - 0.88) / 0.12) ** 2))
    strength = cover * np.clip(0.8 + 0.16 * _noise(rng, 14) + rim, 0.2, 1.6)
    muted = np.dstack([_soft(np.ascontiguousarray(surface[..., c]), 1.6) for c in range(3)])
    mute = (0.45 * cover)[..., None]
    tint = np.array([0.27, 0.28, 0.29]) + rng.normal(0, 0.012, 3)
    dark = 1 - strength[..., None] * tint * rng.uniform(0.95, 1.3)
    surface[:] = (surface * (1 - mute) + muted * mute) * dark
    return np.asarray(cover > 0.4, np.bool_)


def _hole(
    surface: Field, scene: _Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A torn opening onto a dark table, its rim pulled up and frayed by loose fibres."""
    weave = scene.weave
    assert weave is not None, "only a weave has threads"
    distance = _blob(rng, at, size * rng.uniform(14, 24), rough=0.22)
    # Each thread breaks off at its own distance from the middle.
    torn = [rng.normal(1, 0.14, 128)[np.clip(w.astype(int), 0, 127)] for w in weave.across]
    frayed = 0.05 * _noise(rng, 60)
    warp, weft = (distance + frayed < np.clip(t, 0.7, 1.3) for t in torn)
    rim = np.exp(-(((distance - 1.15) / 0.2) ** 2))
    surface *= (1 + 0.16 * rim)[..., None]
    _unweave(surface, weave, (warp, weft))
    fibres = []
    for turn in rng.uniform(0, 2 * np.pi, int(rng.integers(8, 16))):
        row, column = at[0] + _RAY * np.sin(turn), at[1] + _RAY * np.cos(turn)
        reach = _RAY[np.argmax(distance[row.astype(int), column.astype(int)] > 1.1)]
        inwards = np.linspace(1, rng.uniform(0.3, 0.8), 8) * reach
        way = turn + np.linspace(0, 1, 8) ** 2 * rng.normal(0, 0.6)
        points = np.stack([at[0] + inwards * np.sin(way), at[1] + inwards * np.cos(way)], axis=1)
        fibres.append((points, rng.uniform(0.5, 1.1)))
    loose = 0.6 * _strokes(fibres)[..., None]
    surface[:] = surface * (1 - loose) + loose * rng.uniform(0.7, 0.95)
    return np.asarray(warp | weft, np.bool_)


def _missing_thread(
    surface: Field, scene: _Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """One warp or weft thread absent for some length: a ladder of floating cross threads."""
    weave = scene.weave
    assert weave is not None, "only a weave has threads"
    axis = int(rng.integers(2))
    across, along = weave.across[axis], weave.across[1 - axis]
    row, column = round(at[0]), round(at[1])
    length = size * rng.uniform(56, 125) / weave.pitch_px
    offset = np.abs(along - along[row, column])
    # The gap is one thread wide and closes towards the two broken ends.
    open_frac = np.clip((length / 2 - offset) / 1.5, 0, 1) * (0.94 + 0.05 * _noise(rng, 40))
    inside = np.abs(across - np.floor(across[row, column]) - 0.5) < 0.5 * open_frac
    # The neighbours give way a little towards the gap, which shades them.
    beside = _soft(inside.astype(np.float32), 2.5) * ~inside
    surface *= (1 - 0.22 * beside)[..., None]
    nowhere = np.zeros_like(inside)
    _unweave(surface, weave, (inside, nowhere) if axis == 0 else (nowhere, inside))
    return np.asarray(inside, np.bool_)


def _knot(
    surface: Field, scene: _Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A lump of wound yarn: lit bump with coiled strands, loose ends and a cast shadow."""
    radius = size * rng.uniform(10, 15.5)
    distance = _blob(rng, at, radius, rough=0.18)
    cover = _inside(distance, 0.07)
    height = np.sqrt(np.clip(1 - (distance / 1.15) ** 2, 0, 1)).astype(np.float32)
    slope_row, slope_column = np.gradient(_soft(height, 1.0))
    facing = -(slope_row * scene.light[0] + slope_column * scene.light[1]) * radius
    turn = rng.uniform(0, np.pi)
    bow = (_ROWS - at[0]) * np.cos(turn) + (_COLUMNS - at[1]) * np.sin(turn)
    coil = np.sin(
        2 * np.pi * (bow / rng.uniform(3.6, 5.0) + 0.6 * distance + 0.2 * _noise(rng, 20))
    )
    ends = []
    for _ in range(int(rng.integers(1, 4))):
        t = np.linspace(0.6, rng.uniform(1.6, 2.5), 8) * radius
        way = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, 8))
        ends.append((np.stack([at[0] + t * np.sin(way), at[1] + t * np.cos(way)], 1), 1.8))
    tails = _strokes(ends)
    raised = np.maximum(cover, tails).astype(np.float32)
    drop = [-0.45 * radius * d for d in scene.light]
    shadow = _soft(_shift(cover.astype(np.float32), *drop), 2.0) * (1 - raised)
    near = _soft(_shift(tails, *(0.2 * d for d in drop)), 0.8) * (1 - raised)
    yarn = 1.12 + 0.30 * np.clip(facing, -1.6, 1.2) + 0.10 * coil
    surface *= (1 - np.clip(0.55 * shadow + 0.3 * near, 0, 0.7))[..., None]
    surface[:] = surface * (1 - raised)[..., None] + (raised * yarn)[..., None]
    return np.asarray((cover > 0.3) | (tails > 0.4), np.bool_)


_DEFECTS: dict[str, _Defect] = {
    "scratch": _scratch,
    "crack": _crack,
    "dent": _dent,
    "stain": _stain,
    "hole": _hole,
    "missing_thread": _missing_thread,
    "knot": _knot,
}
_SURFACES = {"metal": (_metal, (150, 153, 157)), "fabric": (_fabric, (178, 171, 158))}


# The camera


def _photograph(
    surface: Field, tone: tuple[int, int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Light a surface (H, W, 3) unevenly and take its picture: focus, white balance, noise."""
    turn = rng.uniform(0, 2 * np.pi)
    row, column = _ROWS / SIZE - 0.5, _COLUMNS / SIZE - 0.5
    ramp = rng.uniform(0.05, 0.26) * (row * np.sin(turn) + column * np.cos(turn))
    spot = (row - rng.uniform(-0.4, 0.4)) ** 2 + (column - rng.uniform(-0.4, 0.4)) ** 2
    glow = rng.uniform(0.0, 0.14) * np.exp(-spot / rng.uniform(0.10, 0.30))
    fall = rng.uniform(0.05, 0.20) * (row**2 + column**2)
    light = rng.uniform(0.84, 1.10) * (1 + ramp + glow - fall)
    white = np.array(tone) * (1 + rng.normal(0, 0.007, 3))
    picture = surface * light[..., None].astype(np.float32) * white.astype(np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.45, 0.75))
    grain = rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
    picture = picture + rng.uniform(1.2, 2.6) * grain * np.sqrt(np.maximum(picture, 8) / 128)
    return np.asarray(np.clip(np.round(picture), 0, 255), np.uint8)


def _centres(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the centres of one or two regions, well inside the image and apart."""
    first = rng.uniform(_MARGIN_PX, SIZE - _MARGIN_PX, 2)
    centres = [(float(first[0]), float(first[1]))]
    if rng.random() < _TWO_REGIONS:
        # Some corner of the inner square is far enough from any first centre: the loop ends.
        while len(centres) < 2:
            other = rng.uniform(_MARGIN_PX, SIZE - _MARGIN_PX, 2)
            if np.hypot(*(other - first)) >= _APART_PX:
                centres.append((float(other[0]), float(other[1])))
    return centres


def _check(product: str) -> None:
    if product not in PRODUCTS:
        raise ValueError(f"unknown demo product {product!r}; there are {', '.join(PRODUCTS)}")


def product_image(product: str, label: str, rng: np.random.Generator) -> DemoImage:
    """Photograph one part of `product` that shows `label`, drawing from children of `rng`.

    The mask is all False for the label `good`. Raises ValueError for an unknown product or label.
    """
    _check(product)
    if label not in PRODUCTS[product]:
        known = ", ".join(PRODUCTS[product])
        raise ValueError(f"{product} has no label {label!r}; there are {known}")
    part, camera, fault = rng.spawn(3)
    make, tone = _SURFACES[product]
    grey, scene = make(part)
    surface = np.repeat(grey[..., None], 3, axis=2)
    mask = np.zeros((SIZE, SIZE), np.bool_)
    if label != NORMAL:
        centres = _centres(fault)
        for centre in centres:
            size = float(fault.uniform(0.85, 1.15)) * (0.85 if len(centres) == 2 else 1.0)
            mask |= _DEFECTS[label](surface, scene, fault, centre, size)
    return DemoImage(image=_photograph(surface, tone, camera), mask=mask)


def generate(
    product: str,
    *,
    good: int = 20,
    per_defect: int = 20,
    normals: int = 40,
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[DemoSample]:
    """Yield `normals` train images, `good` good test images and `per_defect` of each defect.

    Each image is seeded by (seed, product, split, label, index), so that changing a count adds or
    removes images at the end of a folder and leaves the others as they were. Raises ValueError for
    an unknown product or a negative count.
    """
    _check(product)
    if min(good, per_defect, normals, seed) < 0:
        raise ValueError("good, per_defect, normals and seed of the demo must not be negative")
    folders = [("train", NORMAL, normals), ("test", NORMAL, good)]
    folders += [("test", label, per_defect) for label in PRODUCTS[product] if label != NORMAL]
    total, done = sum(count for *_, count in folders), 0
    for split, label, count in folders:
        folder = zlib.crc32(f"{product}/{split}/{label}".encode())
        for index in range(count):
            drawn = product_image(product, label, np.random.default_rng([seed, folder, index]))
            yield DemoSample(split, label, f"{index:03d}", drawn.image, drawn.mask)
            done += 1
            progress(done, total)
