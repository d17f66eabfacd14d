"""Charts as inline SVG; text takes the colours of the page, so that both colour schemes work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

_COLOURS = ("#0b6bcb", "#d1495b", "#2a9d55", "#b07aa1", "#e08e0b", "#4c7a89")


def line_chart(
    series: Mapping[str, Sequence[float]], *, width: int = 720, height: int = 240
) -> Markup:
    """Return an SVG line chart of curves over epochs that share the vertical axis."""
    left, right, top, bottom = 48, 130, 12, 28
    values = np.array([v for curve in series.values() for v in curve if np.isfinite(v)])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    high = high if high > low else low + 1
    n = max(len(curve) for curve in series.values())

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
        f'<text x="{width - right}" y="{height - 8}" text-anchor="end">{n - 1}</text>',
    ]
    for value in (low, (low + high) / 2, high):
        y = float(point(0, value).split(",")[1])
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for k, (name, curve) in enumerate(series.items()):
        colour = _COLOURS[k % len(_COLOURS)]
        points = " ".join(point(i, v) for i, v in enumerate(curve) if np.isfinite(v))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
            f'<text x="{width - right + 10}" y="{top + 12 + 16 * k}" style="fill:{colour}">'
            f"{escape(name)}</text>"
        )
    return Markup("".join([*parts, "</svg>"]))
