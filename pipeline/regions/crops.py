"""Sub-images: squares around the regions of a mask, and what is cut out of them (section 3.2).

Boxes are (x0, y0, x1, y1) and squares (x0, y0, side), int64 pixels of the original image,
half-open: x0 and y0 are inside, x1, y1, x0 + side and y0 + side are the first pixels outside. A
square may reach outside the image; what lies there is zero, in image and mask alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """The K regions of a mask: `boxes` (K, 4) int64 and `areas` (K,) int64, in mask pixels."""

    boxes: Ints
    areas: Ints


def find_regions(mask: NDArray[np.bool_]) -> Regions:
    """Find the 8-connected regions of a mask.

    Parameters
    ----------
    mask
        (H, W) bool.

    Returns
    -------
    Regions ordered by y0, then x0 of their boxes; none for an empty mask. A component inside the
    hole of another is not separate: it belongs to that region and counts in its area, holes do not.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((8, 8), bool)
    >>> mask[1:3, 1:4] = mask[5, 6] = True
    >>> find_regions(mask).boxes.tolist()
    [[1, 1, 4, 3], [6, 5, 7, 6]]
    """
    _check_mask(mask)
    background = np.pad(~mask, 1, constant_values=True).view(np.uint8)
    # Background that is 4-connected to the margin is outside; all the rest is outlined or filled.
    _, parts = cv2.connectedComponents(background, connectivity=4)
    filled = (parts != parts[0, 0])[1:-1, 1:-1].astype(np.uint8)
    n_labels, labels, stats, _ = cv2.connectedComponentsWithStats(filled, connectivity=8)
    x0, y0, width, height = stats[1:, :4].astype(np.int64).T
    areas = np.bincount(labels[mask], minlength=n_labels)[1:].astype(np.int64)
    boxes = np.stack([x0, y0, x0 + width, y0 + height], axis=1)  # (K, 4)
    order = np.lexsort((x0, y0))
    return Regions(boxes[order], areas[order])


def region_squares(
    mask: NDArray[np.bool_],
    *,
    padding: float,
    smallest_side: float,
    merge_distance: float,
    keep: int | None = None,
) -> Ints:
    """Return the squares to cut around the regions of a mask (AnomalyNCD section 3.2).

    With L the longer side of the image, each region gets the square of side 2r around the centre of
    its box (rounded down), r = min(max(int((1 + padding) / 2 * longer side of the box),
    int(smallest_side / 2 * L)), int(L / 2)) but at least 1, shifted inside (`shift_inside`).
    Rounding down can leave out a pixel row or column at the end of a region with an odd number of
    pixels where `padding` adds less than one and `smallest_side` does not help, or in a region as
    long as the image.

    Parameters
    ----------
    mask
        (H, W) bool.
    padding
        Part of the longer side of a region's box that its square is larger.
    smallest_side
        Smallest side of a square, as part of L.
    merge_distance
        Squares with a smaller gap between their edges, as part of L, are merged in connected
        groups: each group gets the smallest square around all of its squares, shifted inside.
        0 merges nothing; overlapping squares have a gap of 0.
    keep
        So many squares with the largest mask area stay; None: all.

    Returns
    -------
    (K, 3) int64 of x0, y0, side, K >= 1, the largest mask area first; equal ones are ordered by y0,
    then x0. A mask without regions gives one square that holds the whole image (`whole_image`).

    Raises
    ------
    ValueError
        For negative options, a `keep` below 1, and a mask that is not bool (H, W).

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((100, 120), bool)
    >>> mask[10:30, 20:60] = True
    >>> options = {"padding": 0.1, "smallest_side": 0.2, "merge_distance": 0.01}
    >>> region_squares(mask, **options).tolist()
    [[18, 0, 44]]
    >>> region_squares(np.zeros((100, 120), bool), **options).tolist()
    [[0, -10, 120]]
    """
    _check_options(padding, smallest_side, merge_distance, keep)
    regions = find_regions(mask)
    if len(regions.areas) == 0:
        return whole_image(mask.shape)[None]
    squares = _squares_around(regions.boxes, mask.shape, padding, smallest_side)
    limit = merge_distance * max(mask.shape)
    groups = _groups(squares, limit)
    areas = np.bincount(groups, weights=regions.areas).astype(np.int64)
    squares = _merge(squares, groups, mask.shape)
    order = np.lexsort((squares[:, 0], squares[:, 1], -areas))
    return squares[order][:keep]


def whole_image(shape: tuple[int, ...]) -> Ints:
    """Return the square (3,) that holds an image of `shape` (H, W, ...), centred on it."""
    height, width = shape[:2]
    side = max(height, width)
    return np.array([(width - side) // 2, (height - side) // 2, side], np.int64)


def shift_inside(squares: Ints, shape: tuple[int, ...]) -> Ints:
    """Shift squares (K, 3) into an image of `shape` (H, W, ...).

    Each is moved at the left edge or else at the right one, and at the top or else at the bottom,
    so one that is larger than the image still reaches outside.
    """
    height, width = shape[:2]
    x0, y0, side = squares.T
    x0 = np.where(x0 < 0, 0, np.minimum(x0, width - side))
    y0 = np.where(y0 < 0, 0, np.minimum(y0, height - side))
    return np.stack([x0, y0, side], axis=1)


def area_px(mask: NDArray[np.bool_], square: Ints) -> int:
    """Count the mask pixels of an image mask (H, W) inside a square (3,)."""
    return int(mask[_inside(square, mask.shape)].sum())


def cut(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_] | NDArray[np.uint8],
    square: Ints,
    *,
    size: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a square out of an image and its mask, and resize both.

    Parameters
    ----------
    image, mask
        (H, W, 3) uint8 and (H, W) bool, or uint8 weights in place of the mask.
    square
        (3,) int64 of x0, y0, side; what lies outside the image is zero.
    size
        Side of the result in pixels.

    Returns
    -------
    The image uint8 (size, size, 3), averaged over areas when it shrinks and bilinear when it grows,
    and the mask uint8 (size, size) in {0, 1}, or the weights, nearest neighbour.

    Raises
    ------
    ValueError
        If image and mask differ in size, or the square has no side.

    Examples
    --------
    >>> import numpy as np
    >>> image, mask = np.full((10, 12, 3), 7, np.uint8), np.ones((10, 12), bool)
    >>> crop, crop_mask = cut(image, mask, np.array([-2, 0, 8]), size=8)
    >>> crop[0, :4, 0].tolist(), int(crop_mask.sum())
    ([0, 0, 7, 7], 48)
    """
    if image.ndim != 3 or image.shape[:2] != mask.shape:
        raise ValueError(
            f"image {image.shape} and mask {mask.shape} must have the same height, width"
        )
    if square[2] < 1 or size < 1:
        raise ValueError(f"side {square[2]} and size {size} must be at least 1")
    return (
        resize_image(_padded(image, square), size),
        _resize_nearest(_padded(mask.astype(np.uint8), square), (size, size)),
    )


def resize_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize a square image (S, S, 3) to (size, size, 3): area averages down, bilinear up."""
    method = cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)


def resize_mask(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Bring a mask (h, w) to image size (H, W): nearest neighbour between pixel centres."""
    _check_mask(mask)
    return _resize_nearest(mask.astype(np.uint8), shape).view(np.bool_)


def crop_scores(
    amap: NDArray[np.float32],
    squares: Ints,
    shape: tuple[int, int],
    *,
    s_min: float,
    s_max: float,
) -> NDArray[np.float64]:
    """Return the anomaly score (K,) of each of the squares (K, 3), in [0, 1].

    It is the maximum, inside the square, of ``(A - s_min) / (s_max - s_min)``, 0 below s_min, where
    the map `amap` (h, w) float32 is first brought to image size `shape` (H, W), bilinear. All are 0
    if s_max is not above s_min, and where a square lies outside the image.
    """
    if not s_max > s_min:
        return np.zeros(len(squares))
    height, width = shape
    resized = cv2.resize(amap, (width, height), interpolation=cv2.INTER_LINEAR)
    maxima = [resized[_inside(square, shape)].max(initial=0) for square in squares]
    scores = (np.array(maxima, np.float64) - s_min) / (s_max - s_min)
    return cast(NDArray[np.float64], np.clip(scores, 0, 1))


def _squares_around(
    boxes: Ints, shape: tuple[int, ...], padding: float, smallest_side: float
) -> Ints:
    longer = max(shape[:2])
    x0, y0, x1, y1 = boxes.T
    sides = np.maximum(x1 - x0, y1 - y0)
    radii = ((1 + padding) / 2 * sides).astype(np.int64)
    radii = np.maximum(radii, int(smallest_side / 2 * longer))
    radii = np.maximum(np.minimum(radii, longer // 2), 1)
    squares = np.stack([(x0 + x1) // 2 - radii, (y0 + y1) // 2 - radii, 2 * radii], axis=1)
    return shift_inside(squares, shape)


def _groups(squares: Ints, limit: float) -> Ints:
    """Number the connected groups (K,) of squares whose gaps are below `limit`."""
    low, high = squares[:, :2], squares[:, :2] + squares[:, 2:]
    groups = np.full(len(squares), -1, np.int64)
    for seed in range(len(squares)):
        if groups[seed] >= 0:
            continue
        groups[seed] = groups.max() + 1
        frontier = [seed]
        while frontier:
            i = frontier.pop()
            free = np.flatnonzero(groups < 0)
            gaps = np.maximum(np.maximum(low[free] - high[i], low[i] - high[free]), 0)  # (F, 2)
            near = free[np.hypot(gaps[:, 0], gaps[:, 1]) < limit]
            groups[near] = groups[seed]
            frontier += near.tolist()
    return groups


def _merge(squares: Ints, groups: Ints, shape: tuple[int, ...]) -> Ints:
    """Return one square a group: the smallest around its members, shifted inside."""
    n_groups = int(groups.max()) + 1
    low = np.full((n_groups, 2), np.iinfo(np.int64).max)
    high = np.full((n_groups, 2), np.iinfo(np.int64).min)
    np.minimum.at(low, groups, squares[:, :2])
    np.maximum.at(high, groups, squares[:, :2] + squares[:, 2:])
    extent = high - low
    side = extent.max(axis=1)
    corner = low + (extent - side[:, None]) // 2
    merged = shift_inside(np.concatenate([corner, side[:, None]], axis=1), shape)
    # A square alone stays where it is.
    alone = np.bincount(groups)[groups] == 1
    merged[groups[alone]] = squares[alone]
    return merged


def _inside(square: Ints, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of an image of `shape` (H, W, ...) that lie in a square."""
    x0, y0, side = (int(value) for value in square)
    height, width = shape[:2]
    rows = slice(min(max(y0, 0), height), min(max(y0 + side, 0), height))
    return rows, slice(min(max(x0, 0), width), min(max(x0 + side, 0), width))


def _padded(image: NDArray[np.uint8], square: Ints) -> NDArray[np.uint8]:
    """Return the pixels of a square (side, side, ...), zero outside the image."""
    x0, y0, side = (int(value) for value in square)
    rows, columns = _inside(square, image.shape)
    result = np.zeros((side, side, *image.shape[2:]), np.uint8)
    part = image[rows, columns]
    top, left = rows.start - y0, columns.start - x0
    result[top : top + part.shape[0], left : left + part.shape[1]] = part
    return result


def _resize_nearest(mask: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    size = (shape[1], shape[0])
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _check_mask(mask: NDArray[np.bool_]) -> None:
    if mask.ndim != 2 or 0 in mask.shape or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be bool (H, W) with H, W > 0, not {mask.dtype} {mask.shape}")


def _check_options(
    padding: float, smallest_side: float, merge_distance: float, keep: int | None
) -> None:
    options = {"padding": padding, "smallest_side": smallest_side, "merge_distance": merge_distance}
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}: give 0 or more")
    if keep is not None and keep < 1:
        raise ValueError(f"keep is {keep}: keep at least one, or None for all")
