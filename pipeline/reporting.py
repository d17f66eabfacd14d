"""The HTML page: thumbnails, tables and curves as one self-contained file (an edge: it renders)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline.metrics import contingency, match_clusters

Image = NDArray[np.uint8]

FIGURES = {
    "nmi": "NMI",
    "ari": "ARI",
    "f1": "F1",
    "image_auroc": "image AUROC",
    "aupro": "AUPRO",
    "normal_precision": "normal precision",
    "normal_recall": "normal recall",
    "region_fpr": "region FPR",
    "region_fnr": "region FNR",
    "n_query": "images",
    "n_regions": "sub-images",
}
_OUTLINE = (255, 60, 60)


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI with what is written below it."""

    uri: str
    caption: str
    confidence: str = ""


@dataclass(frozen=True)
class ClassGallery:
    """One discovered class."""

    number: int
    n_regions: int
    n_images: int
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True)
class Confusion:
    """True labels (rows) against discovered classes; a cell is (count, whether it is matched)."""

    clusters: Sequence[int]
    rows: Sequence[tuple[str, Sequence[tuple[int, bool]]]]


@dataclass(frozen=True)
class CategoryReport:
    """The section of one category; `losses` is SVG."""

    name: str
    classes: Sequence[ClassGallery]
    examples: Sequence[Thumbnail]
    confusion: Confusion | None
    losses: Markup


@dataclass(frozen=True)
class ReportPage:
    """All that the page shows."""

    categories: Sequence[CategoryReport]
    figures: Sequence[tuple[str, Sequence[str | None]]]
    environment: Mapping[str, Any]
    params: str
    figure_names: Sequence[str] = tuple(FIGURES.values())


def render(page: ReportPage) -> str:
    """Return the page; everything that comes from disk is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."), autoescape=True, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(report=page)


def figure_row(metrics: Mapping[str, float | None]) -> list[str | None]:
    """Format the figures of one category in the order of `FIGURES`; None stays None."""
    row: list[str | None] = []
    for name in FIGURES:
        value = metrics.get(name)
        if value is None:
            row.append(None)
        else:
            row.append(f"{value:.0f}" if name.startswith("n_") else f"{value:.3f}")
    return row


def data_uri(image: Image, *, quality: int = 85) -> str:
    """Encode an RGB image (H, W, 3) uint8 as a JPEG data URI."""
    done, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise ValueError("the image could not be encoded as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def outlined(image: Image, mask: NDArray[np.uint8], *, thickness: int = 1) -> Image:
    """Return a copy of image (H, W, 3) with the outline of mask (H, W), non-zero inside, drawn."""
    contours, _ = cv2.findContours(
        (mask != 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    drawn = cv2.drawContours(image.copy(), contours, -1, _OUTLINE, thickness)
    return np.asarray(drawn, np.uint8)


def crop_thumbnail(image: Image, mask: NDArray[np.uint8], *, side: int = 112) -> str:
    """Return a sub-image at `side` pixels with its mask outlined, as a data URI."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    mask_small = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
    return data_uri(outlined(np.asarray(small, np.uint8), np.asarray(mask_small, np.uint8)))


def panels(
    image: Image, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_], *, height: int = 160
) -> str:
    """Return image, heat map and mask outline side by side; map and mask have one size."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    size = (min(width, 4 * height), height)
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    heat = cv2.resize(np.clip(anomaly_map, 0, 1), size, interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    overlay = cv2.addWeighted(small, 0.45, cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), 0.55, 0)
    binary = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return data_uri(
        np.concatenate(
            [small, np.asarray(overlay, np.uint8), outlined(small, np.asarray(binary, np.uint8))], 1
        )
    )


def confusion(true: Sequence[str], predicted: Sequence[int]) -> Confusion:
    """Count labels against classes and mark the matched cells."""
    table = contingency(true, predicted)
    matched = match_clusters(true, predicted)
    clusters = [int(k) for k in table.clusters]
    rows = [
        (
            str(label),
            [
                (int(n), matched.get(k) == label)
                for k, n in zip(clusters, table.counts[i], strict=True)
            ],
        )
        for i, label in enumerate(table.classes.tolist())
    ]
    return Confusion(clusters, rows)


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
