"""Charts as inline SVG; text takes the colours of the page, so that both colour schemes work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline.palette import Marker, class_colour, class_marker


def line_chart(
    series: Mapping[str, Sequence[float]], *, width: int = 720, height: int = 240
) -> Markup:
    """Return an SVG line chart of curves over epochs that share the vertical axis."""
    left, right, top, bottom = 60, 130, 12, 28
    values = np.array([v for curve in series.values() for v in curve if np.isfinite(v)])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    high = high if high > low else low + 1
    n = max((len(curve) for curve in series.values()), default=0)

    def point(i: int, value: float) -> str:
        x = left + (width - left - right) * i / max(n - 1, 1)
        y = top + (height - top - bottom) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Training losses over {n} epochs" style="max-width:{width}px;width:100%">',
        f'<line class="axis" x1="{left}" y1="{height - bottom}" x2="{width - right}" '
        f'y2="{height - bottom}"/><line class="axis" x1="{left}" y1="{top}" x2="{left}" '
        f'y2="{height - bottom}"/>',
        f'<text x="{left}" y="{height - 8}">epoch 0</text>'
        f'<text x="{width - right}" y="{height - 8}" text-anchor="end">{max(n - 1, 0)}</text>',
    ]
    for value in (low, (low + high) / 2, high):
        y = float(point(0, value).split(",")[1])
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for k, (name, curve) in enumerate(series.items()):
        colour = class_colour(k + 1)
        points = " ".join(point(i, v) for i, v in enumerate(curve) if np.isfinite(v))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
            f'<text x="{width - right + 10}" y="{top + 12 + 16 * k}" style="fill:{colour}">'
            f"{escape(name)}</text>"
        )
    return Markup("".join([*parts, "</svg>"]))


def score_histogram(
    scores: NDArray[np.float64],
    references: NDArray[np.float64],
    limit: float,
    *,
    width: int = 720,
    height: int = 220,
) -> Markup:
    """Return an SVG histogram of image scores (N,), and of references (R,) as a dashed outline.

    Bars up to `limit` have the colour of class 0, the others that of class 1; the limit is a line,
    unless it is infinite. The outline is scaled to the height of the bars. Raises ValueError for no
    scores.
    """
    if len(scores) == 0:
        raise ValueError("a histogram needs scores")
    left, right, top, bottom = 40, 12, 26, 28
    shown = np.concatenate([scores, references])
    low, high = float(shown.min()), float(shown.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)

    def across(score: float) -> float:
        share = (score - float(edges[0])) / float(edges[-1] - edges[0])
        return left + (width - left - right) * share

    sides = [(0, "called normal", scores <= limit), (1, "above the limit", scores > limit)]
    counts = np.array([np.histogram(scores[side], edges)[0] for _, _, side in sides])
    tallest, room = max(int(counts.sum(0).max()), 1), height - top - bottom
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Image scores" '
        f'style="max-width:{width}px;width:100%">',
        f'<line class="axis" x1="{left}" y1="{height - bottom}" x2="{width - right}" '
        f'y2="{height - bottom}"/>',
        f'<text x="{left}" y="{height - 8}">{edges[0]:.3g}</text>'
        f'<text x="{width - right}" y="{height - 8}" text-anchor="end">{edges[-1]:.3g}</text>'
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{tallest}</text>',
    ]
    starts = [across(edge) + 0.5 for edge in edges.tolist()]
    stacks = _stacks(counts / tallest * room, starts, height - bottom)
    for (number, name, side), boxes in zip(sides, stacks, strict=True):
        parts.append(
            f'<path d="{boxes}" fill="{class_colour(number)}"/><text x="{left + 170 * number}" '
            f'y="14" style="fill:{class_colour(number)}">{int(side.sum())} {name}</text>'
        )
    parts.append(_outline(references, edges, across, height - bottom, room))
    if np.isfinite(limit):
        x = across(min(max(limit, edges[0]), edges[-1]))
        parts.append(
            f'<line class="axis" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - bottom}"/>'
            f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">limit {limit:.3g}</text>'
        )
    return Markup("".join([*parts, "</svg>"]))


def class_histogram(
    scores: NDArray[np.float64],
    numbers: Sequence[int],
    names: Mapping[int, str],
    *,
    title: str,
    width: int = 720,
    height: int = 220,
) -> Markup:
    """Return an SVG histogram of scores (N,), stacked in the colours of their `numbers` (N,).

    `names` gives the order and the legend; numbers without a score are left out. `title` names the
    picture. Raises ValueError for no scores.
    """
    if len(scores) == 0:
        raise ValueError("a histogram needs scores")
    values = np.asarray(numbers)
    present = [number for number in names if (values == number).any()]
    left, right, top, bottom = 40, 150, 12, 28
    height = max(height, 28 + 18 * len(present))
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = np.array([np.histogram(scores[values == k], edges)[0] for k in present])
    tallest = max(int(counts.sum(0).max()), 1)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width}px;width:100%"><title>{escape(title)}</title>',
        f'<line class="axis" x1="{left}" y1="{height - bottom}" x2="{width - right}" '
        f'y2="{height - bottom}"/>',
        f'<text x="{left}" y="{height - 8}">{edges[0]:.3g}</text>'
        f'<text x="{width - right}" y="{height - 8}" text-anchor="end">{edges[-1]:.3g}</text>'
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{tallest}</text>',
    ]
    starts = np.linspace(left + 0.5, width - right + 0.5, _BINS + 1).tolist()
    stacks = _stacks(counts / tallest * (height - top - bottom), starts, height - bottom)
    for row, (number, boxes) in enumerate(zip(present, stacks, strict=True)):
        name, y = names[number], 18 + 18 * row
        parts.append(
            f'<path d="{boxes}" fill="{class_colour(number)}"><title>{escape(name)}</title></path>'
            f'<path d="{_marker("square", width - 136, y)}" fill="{class_colour(number)}"/>'
            f'<text x="{width - 126}" y="{y + 4}">{escape(_short(name))}'
            f"<title>{escape(name)}</title></text>"
        )
    return Markup("".join([*parts, "</svg>"]))


def _stacks(heights: NDArray[np.float64], starts: Sequence[float], bottom: int) -> list[str]:
    """Return path data of bars (K, bins), each on top of those before; `starts` has bins + 1."""
    base = np.full(heights.shape[1], float(bottom))
    paths = []
    for own in heights:
        base = base - own
        paths.append(
            "".join(
                f"M{starts[i]:.1f},{base[i]:.1f}H{starts[i + 1] - 1:.1f}v{own[i]:.1f}"
                f"H{starts[i]:.1f}z"
                for i in np.flatnonzero(own).tolist()
            )
        )
    return paths


def _short(name: str) -> str:
    return name if len(name) <= _CUT else name[: _CUT - 1] + "\u2026"


def _outline(
    references: NDArray[np.float64],
    edges: NDArray[np.float64],
    across: Callable[[float], float],
    bottom: int,
    room: int,
) -> str:
    if len(references) == 0:
        return ""
    counts = np.histogram(references, edges)[0]
    steps = "".join(
        f"V{bottom - room * count / counts.max():.1f}H{across(edge):.1f}"
        for count, edge in zip(counts, edges[1:], strict=True)
    )
    return (
        f'<path d="M{across(edges[0]):.1f},{bottom}{steps}V{bottom}" fill="none" '
        f'stroke="currentColor" stroke-dasharray="4 3"/><text x="380" y="14">'
        f"{len(references)} normal references (dashed)</text>"
    )


_BINS = 36
_RADIUS = 4.0
_CUT = 18
"""Longest name in a legend, in characters; the whole is in its tooltip."""


def scatter(
    points: NDArray[np.float64],
    numbers: Sequence[int],
    names: Mapping[int, str],
    *,
    title: str,
    width: int = 540,
    height: int = 360,
) -> Markup:
    """Return an SVG scatter of points (M, 2), coloured and shaped by their `numbers` (M,).

    `names` gives the legend, in its order; numbers that no point has are left out. Both axes have
    one scale. `title` names the picture. Raises ValueError for points other than (M, 2), M > 0.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points are {points.shape}, not (M, 2) with M > 0")
    values = np.asarray(numbers)
    present = [number for number in names if (values == number).any()]
    height = max(height, 28 + 18 * len(present))
    placed = _placed(points, width - 150, height)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width}px;width:100%"><title>{escape(title)}</title>',
        f'<rect class="frame" x="1" y="1" width="{width - 152}" height="{height - 2}" rx="4"/>',
    ]
    for row, number in enumerate(present):
        members = placed[values == number]
        name, colour = names[number], class_colour(number)
        shapes = "".join(_marker(class_marker(number), x, y) for x, y in members.tolist())
        parts.append(
            f'<path d="{shapes}" fill="{colour}" fill-opacity=".8">'
            f"<title>{escape(name)}: {len(members)}</title></path>"
        )
        x, y = width - 136, 18 + 18 * row
        parts.append(
            f'<path d="{_marker(class_marker(number), x, y)}" fill="{colour}"/>'
            f'<text x="{x + 10}" y="{y + 4}">{escape(_short(name))}'
            f"<title>{escape(name)}</title></text>"
        )
    return Markup("".join([*parts, "</svg>"]))


def _placed(points: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Scale points (M, 2) into a box of `width` and `height` with a margin, centred."""
    low, high = points.min(0), points.max(0)
    box = np.array([width, height]) - 4 * _RADIUS
    spans = high - low
    scale = min((box[k] / spans[k] for k in (0, 1) if spans[k] > 0), default=1.0)
    placed: NDArray[np.float64] = (points - (low + high) / 2) * scale
    return placed + np.array([width, height]) / 2


def _marker(shape: Marker, x: float, y: float) -> str:
    """Return path data of a marker centred at (x, y)."""
    r = _RADIUS
    if shape == "circle":
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1,0 {2 * r},0a{r},{r} 0 1,0 {-2 * r},0z"
    if shape == "square":
        s = 0.88 * r
        return f"M{x - s:.1f},{y - s:.1f}h{2 * s:.1f}v{2 * s:.1f}h{-2 * s:.1f}z"
    if shape == "triangle":
        return f"M{x:.1f},{y - 1.2 * r:.1f}l{1.15 * r:.1f},{2 * r:.1f}h{-2.3 * r:.1f}z"
    d = 1.25 * r
    return f"M{x:.1f},{y - d:.1f}l{d:.1f},{d:.1f}l{-d:.1f},{d:.1f}l{-d:.1f},{-d:.1f}z"
