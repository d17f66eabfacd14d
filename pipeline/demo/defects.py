"""Defects of the demo."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.demo.surfaces import (
    COLUMNS,
    RAY,
    ROWS,
    Field,
    Mask,
    Scene,
    draw_blob,
    draw_strokes,
    inside_of,
    near_to,
    noise,
    shifted,
    softened,
    unweave,
)

_Defect = Callable[[Field, Scene, np.random.Generator, tuple[float, float], float], Mask]
"""Changes `surface` (H, W, 3) in place around a centre at a relative size; returns its mask."""


# Defects


def _scratch(
    surface: Field, scene: Scene, rng: np.random.Generator, at: tuple[float, float], size: float
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
    groove = draw_strokes(strokes)
    gain = rng.uniform(0.42, 0.7) if rng.random() < 0.85 else -rng.uniform(0.35, 0.5)
    flank = np.clip(shifted(groove, 1.3, 0.8) - groove, 0, 1)
    surface *= (1 + gain * groove - 0.5 * gain * flank)[..., None]
    return near_to(groove, 1)


def _crack(
    surface: Field, scene: Scene, rng: np.random.Generator, at: tuple[float, float], size: float
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
    gap = draw_strokes(strokes)
    lip = np.clip(shifted(gap, -1.2 * scene.light[0], -1.2 * scene.light[1]) - gap, 0, 1)
    surface *= (1 - rng.uniform(0.70, 0.85) * gap + 0.18 * lip)[..., None]
    return near_to(gap, 1)


def _dent(
    surface: Field, scene: Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A smooth hollow: shaded on the lamp's side, lit on the other, bending the brush lines."""
    radius = size * rng.uniform(20, 31)
    distance = draw_blob(rng, at, radius, rough=0.10)
    depth = -np.exp(-(distance**2) * 1.6).astype(np.float32)
    slope_row, slope_column = (s * radius for s in np.gradient(softened(depth, 1.5)))
    # A slope that rises away from the lamp faces it.
    facing = -(slope_row * scene.light[0] + slope_column * scene.light[1])
    bend_px = 0.16 * radius
    bent = cv2.remap(
        surface, COLUMNS + bend_px * slope_column, ROWS + bend_px * slope_row,
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    glint = np.exp(-((facing / max(float(facing.max()), 1e-6) - 1) ** 2) / 0.05)
    gain = 1 + rng.uniform(0.34, 0.48) * facing + 0.10 * glint
    surface[:] = bent * np.clip(gain, 0.35, 1.7)[..., None]
    return np.asarray(distance < 1.25, np.bool_)


def _stain(
    surface: Field, scene: Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A dried liquid: soft irregular edge, cloudy inside, sometimes a rim; it mutes the texture."""
    distance = draw_blob(rng, at, size * rng.uniform(15, 29), rough=0.38)
    cloud = noise(rng, 22)
    cover = inside_of(distance + 0.10 * cloud, rng.uniform(0.06, 0.11))
    rim = rng.uniform(0, 0.7) * np.exp(-(((distance - 0.88) / 0.12) ** 2))
    strength = cover * np.clip(0.8 + 0.16 * noise(rng, 14) + rim, 0.2, 1.6)
    muted = np.dstack([softened(np.ascontiguousarray(surface[..., c]), 1.6) for c in range(3)])
    mute = (0.45 * cover)[..., None]
    tint = np.array([0.27, 0.28, 0.29]) + rng.normal(0, 0.012, 3)
    dark = 1 - strength[..., None] * tint * rng.uniform(0.95, 1.3)
    surface[:] = (surface * (1 - mute) + muted * mute) * dark
    return np.asarray(cover > 0.4, np.bool_)


def _hole(
    surface: Field, scene: Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A torn opening onto a dark table, its rim pulled up and frayed by loose fibres."""
    weave = scene.weave
    assert weave is not None, "only a weave has threads"
    distance = draw_blob(rng, at, size * rng.uniform(14, 24), rough=0.22)
    # Each thread breaks off at its own distance from the middle.
    torn = [rng.normal(1, 0.14, 128)[np.clip(w.astype(int), 0, 127)] for w in weave.across]
    frayed = 0.05 * noise(rng, 60)
    warp, weft = (distance + frayed < np.clip(t, 0.7, 1.3) for t in torn)
    rim = np.exp(-(((distance - 1.15) / 0.2) ** 2))
    surface *= (1 + 0.16 * rim)[..., None]
    unweave(surface, weave, (warp, weft))
    fibres = []
    for turn in rng.uniform(0, 2 * np.pi, int(rng.integers(8, 16))):
        row, column = at[0] + RAY * np.sin(turn), at[1] + RAY * np.cos(turn)
        reach = RAY[np.argmax(distance[row.astype(int), column.astype(int)] > 1.1)]
        inwards = np.linspace(1, rng.uniform(0.3, 0.8), 8) * reach
        way = turn + np.linspace(0, 1, 8) ** 2 * rng.normal(0, 0.6)
        points = np.stack([at[0] + inwards * np.sin(way), at[1] + inwards * np.cos(way)], axis=1)
        fibres.append((points, rng.uniform(0.5, 1.1)))
    loose = 0.6 * draw_strokes(fibres)[..., None]
    surface[:] = surface * (1 - loose) + loose * rng.uniform(0.7, 0.95)
    return np.asarray(warp | weft, np.bool_)


def _missing_thread(
    surface: Field, scene: Scene, rng: np.random.Generator, at: tuple[float, float], size: float
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
    open_frac = np.clip((length / 2 - offset) / 1.5, 0, 1) * (0.94 + 0.05 * noise(rng, 40))
    inside = np.abs(across - np.floor(across[row, column]) - 0.5) < 0.5 * open_frac
    # The neighbours give way a little towards the gap, which shades them.
    beside = softened(inside.astype(np.float32), 2.5) * ~inside
    surface *= (1 - 0.22 * beside)[..., None]
    nowhere = np.zeros_like(inside)
    unweave(surface, weave, (inside, nowhere) if axis == 0 else (nowhere, inside))
    return np.asarray(inside, np.bool_)


def _knot(
    surface: Field, scene: Scene, rng: np.random.Generator, at: tuple[float, float], size: float
) -> Mask:
    """A lump of wound yarn: lit bump with coiled strands, loose ends and a cast shadow."""
    radius = size * rng.uniform(10, 15.5)
    distance = draw_blob(rng, at, radius, rough=0.18)
    cover = inside_of(distance, 0.07)
    height = np.sqrt(np.clip(1 - (distance / 1.15) ** 2, 0, 1)).astype(np.float32)
    slope_row, slope_column = np.gradient(softened(height, 1.0))
    facing = -(slope_row * scene.light[0] + slope_column * scene.light[1]) * radius
    turn = rng.uniform(0, np.pi)
    bow = (ROWS - at[0]) * np.cos(turn) + (COLUMNS - at[1]) * np.sin(turn)
    coil = np.sin(2 * np.pi * (bow / rng.uniform(3.6, 5.0) + 0.6 * distance + 0.2 * noise(rng, 20)))
    ends = []
    for _ in range(int(rng.integers(1, 4))):
        t = np.linspace(0.6, rng.uniform(1.6, 2.5), 8) * radius
        way = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, 8))
        ends.append((np.stack([at[0] + t * np.sin(way), at[1] + t * np.cos(way)], 1), 1.8))
    tails = draw_strokes(ends)
    raised = np.maximum(cover, tails).astype(np.float32)
    drop = [-0.45 * radius * d for d in scene.light]
    shadow = softened(shifted(cover.astype(np.float32), *drop), 2.0) * (1 - raised)
    near = softened(shifted(tails, *(0.2 * d for d in drop)), 0.8) * (1 - raised)
    yarn = 1.12 + 0.30 * np.clip(facing, -1.6, 1.2) + 0.10 * coil
    surface *= (1 - np.clip(0.55 * shadow + 0.3 * near, 0, 0.7))[..., None]
    surface[:] = surface * (1 - raised)[..., None] + (raised * yarn)[..., None]
    return np.asarray((cover > 0.3) | (tails > 0.4), np.bool_)


DEFECTS: dict[str, _Defect] = {
    "scratch": _scratch,
    "crack": _crack,
    "dent": _dent,
    "stain": _stain,
    "hole": _hole,
    "missing_thread": _missing_thread,
    "knot": _knot,
}
