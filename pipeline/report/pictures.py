"""Small pictures for the report, as data URIs (JPEG; WebP on review pages).

Images are uint8 RGB (H, W, 3), masks (H, W) non-zero inside; x is the column, y the row.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.io.images import encode_image
from pipeline.palette import class_rgb

Image = NDArray[np.uint8]
AnyMask = NDArray[np.uint8] | NDArray[np.bool_]
Colour = tuple[int, int, int]

RED: Colour = (255, 60, 60)
GREEN: Colour = (70, 220, 110)


def data_uri(image: Image, *, quality: int = 85) -> str:
    """Return an image as a JPEG data URI."""
    data = encode_image(image, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, quality))
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def webp_uri(image: Image, *, quality: int = 75) -> str:
    """Return an image as a WebP data URI: half the size of JPEG at the sizes of a review page."""
    data = encode_image(image, ".webp", (cv2.IMWRITE_WEBP_QUALITY, quality))
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def outlined(image: Image, mask: AnyMask, *, thickness: int = 1, colour: Colour = RED) -> Image:
    """Return a copy of image (H, W, 3) with the outline of mask (H, W) drawn."""
    contours, _ = cv2.findContours(
        (mask != 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    drawn = cv2.drawContours(image.copy(), contours, -1, colour, thickness)
    return np.asarray(drawn, np.uint8)


def crop_picture(image: Image, mask: AnyMask, *, side: int = 112) -> Image:
    """Return a crop at `side` pixels with its mask outlined."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return outlined(np.asarray(small, np.uint8), shrunk_mask(mask, (side, side)))


def crop_thumbnail(image: Image, mask: AnyMask, *, side: int = 112) -> str:
    """Return `crop_picture` as a data URI."""
    return data_uri(crop_picture(image, mask, side=side))


def shrunk(image: Image, side: int) -> Image:
    """Return the image with its longer side at `side` pixels, the shorter one at least 1."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def shrunk_mask(mask: AnyMask, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask at `size` (width, height), bool; a region of one pixel does not vanish."""
    grey = (mask != 0).astype(np.float32)
    smaller = size[0] < mask.shape[1] or size[1] < mask.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(grey, size, interpolation=method) > 0, np.bool_)


def tinted(image: Image, mask: AnyMask, *, colour: Colour = RED, opacity: float = 0.45) -> Image:
    """Return a copy of image (H, W, 3) with the inside of mask (H, W) tinted and outlined."""
    inside = mask != 0
    drawn = image.copy()
    mixed = image[inside] * (1 - opacity) + np.array(colour) * opacity
    drawn[inside] = mixed.astype(np.uint8)
    return outlined(drawn, mask, colour=colour)


def heat_colours(heat: NDArray[np.floating]) -> Image:
    """Return a heat map (h, w), clipped to [0, 1], in colours (h, w, 3)."""
    values = (np.clip(heat, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(values, cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_BGR2RGB), np.uint8)


def heat_overlay(image: Image, heat: NDArray[np.floating], *, smooth: bool = True) -> Image:
    """Lay a heat map (h, w), clipped to [0, 1] and stretched over the image, on the image.

    Without `smooth` every value stays a block of its own.
    """
    size = (image.shape[1], image.shape[0])
    values = np.clip(heat, 0, 1).astype(np.float32)
    method = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    values = cv2.resize(values, size, interpolation=method)
    return np.asarray(cv2.addWeighted(image, 0.45, heat_colours(values), 0.55, 0), np.uint8)


def outline_path(mask: AnyMask, size: tuple[int, int]) -> str:
    """Return the outlines of a mask, holes too, as SVG path data; "" for an empty one.

    The mask (h, w) is stretched over a picture of `size` (width, height), whose pixels are the
    units. Corners of less than 0.7 pixels of the mask are cut.
    """
    height, width = mask.shape
    scale = np.array([size[0] / width, size[1] / height])
    contours, _ = cv2.findContours(
        (mask != 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    parts = []
    for contour in contours:
        points = (cv2.approxPolyDP(contour, 0.7, True)[:, 0] + 0.5) * scale
        parts.append("M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in points.tolist()) + "Z")
    return "".join(parts)


def attention_thumbnail(
    image: Image,
    mask: AnyMask,
    attention: NDArray[np.floating],
    plain: NDArray[np.floating] | None = None,
    *,
    side: int = 112,
) -> str:
    """Return a view with its mask outlined and, to its right, attention maps over it.

    `image` (S, S, 3) and `mask` (S, S) as the network sees them, `attention` (h, w) >= 0, and
    behind it `plain` (h, w), if given. The hottest patch of each map has its largest weight.
    """
    small = shrunk(image, side)
    inside = shrunk_mask(mask, (side, side))
    pictures = [outlined(small, inside)]
    for weights in (attention,) if plain is None else (attention, plain):
        heat = weights.astype(np.float32) / max(float(weights.max()), 1e-12)
        pictures.append(outlined(heat_overlay(small, heat, smooth=False), inside))
    return data_uri(np.concatenate(pictures, axis=1))


def boxed(
    image: Image, boxes: Sequence[tuple[int, int, int]], numbers: Sequence[int], *, side: int = 260
) -> str:
    """Return the image with a numbered square for each region, in the colour of its class.

    `boxes` are (x0, y0, side) in pixels of the image and may reach outside; `numbers` their
    classes. `side` is the longer side of the picture.
    """
    small = shrunk(image, side)
    scale = side / max(image.shape[:2])
    height, width = small.shape[:2]
    for (x0, y0, length), number in zip(boxes, numbers, strict=True):
        left, right = (np.clip(round(x * scale), 0, width - 1) for x in (x0, x0 + length - 1))
        top, bottom = (np.clip(round(y * scale), 0, height - 1) for y in (y0, y0 + length - 1))
        colour = class_rgb(number)
        cv2.rectangle(small, (int(left), int(top)), (int(right), int(bottom)), colour, 2)
        tag = (int(left), int(top)), (int(left) + 7 + 8 * len(str(number)), int(top) + 16)
        cv2.rectangle(small, *tag, colour, cv2.FILLED)
        place = (int(left) + 4, int(top) + 13)
        cv2.putText(
            small,
            str(number),
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            0.42,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
    return data_uri(small)


def panels(
    image: Image,
    anomaly_map: NDArray[np.float32],
    masks: Sequence[AnyMask],
    *,
    truth: AnyMask | None = None,
    side: int = 200,
) -> list[str]:
    """Return the image, its heat map and one picture a mask, as data URIs of one size.

    `anomaly_map` (h, w) in [0, 1]; the masks may have any size, as they are stretched over the
    image. The outline of `truth`, where there is one, is drawn in green on the image itself.
    `side` is the longer side of the pictures in pixels.
    """
    small = shrunk(image, side)
    size = (small.shape[1], small.shape[0])
    plain = small
    if truth is not None:
        plain = outlined(small, shrunk_mask(truth, size), colour=GREEN)
    pictures = [plain, heat_overlay(small, anomaly_map)]
    pictures += [tinted(small, shrunk_mask(mask, size)) for mask in masks]
    return [data_uri(picture, quality=80) for picture in pictures]
