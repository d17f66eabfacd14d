"""MEBin: main element binarization (AnomalyNCD section 3.2).

Every threshold between the lowest image score of a set and the top is tried, the connected
components of the eroded mask are counted, and the image is cut where that number stays the same the
longest. An image whose count is never stable has no anomaly and gets an empty mask.

Erosion commutes with thresholding, so a map is eroded once, as a grey image, and one union-find
pass gives the counts at all thresholds (`pipeline.binarization.betti`).

Two rules of selection: "paper" as the text describes it, on the maps as they are, and "reference"
as the published implementation does it, on 8-bit maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.binarization.betti import betti_curve, first_exceeded
from pipeline.binarization.stable_run import SelectionRule, stable_run
from pipeline.binarization.thresholds import Map, MapBinarization, checked_map, count_regions, erode

_FEWEST_REFERENCES = 8


@dataclass(frozen=True)
class ScoreRange:
    """Between which scores thresholds are sought, in the units of the maps."""

    s_min: float
    s_max: float


def score_range(
    scores: NDArray[np.uint8] | NDArray[np.floating],
    *,
    rule: SelectionRule,
    floor: float | None,
) -> ScoreRange:
    """Return the range in which the thresholds of a set are sampled (AnomalyNCD section 3.2).

    Parameters
    ----------
    scores
        (N,) maxima of the maps, in their units: uint8, or floats in [0, 1].
    rule
        Under "paper" s_max is the top of the scale (1, or 255 for uint8 scores), under "reference"
        the highest score.
    floor
        The s_min to use in place of the lowest score (None: none); a set without a single normal
        image needs one. Above the highest score all masks of rule "reference" are empty.

    Raises
    ------
    ValueError
        For no scores, for NaN, and for a score (naming the map) or a floor outside the scale.

    Examples
    --------
    >>> import numpy as np
    >>> score_range(np.array([0.2, 0.9]), rule="paper", floor=None)
    ScoreRange(s_min=0.2, s_max=1.0)
    >>> score_range(np.array([0.2, 0.9]), rule="reference", floor=None)
    ScoreRange(s_min=0.2, s_max=0.9)
    """
    _check_rule(rule)
    top = 255.0 if scores.dtype == np.uint8 else 1.0
    if len(scores) == 0:
        raise ValueError("no maps: MEBin needs at least one anomaly map")
    bad = ~((scores >= 0) & (scores <= top))
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise ValueError(f"the score of map {index} is {scores[index]}, not within [0, {top:g}]")
    if floor is not None and not 0 <= floor <= top:
        raise ValueError(
            f"floor is {floor}, above or below the scale of the maps: give a score in [0, {top:g}]"
        )
    s_min = float(scores.min()) if floor is None else float(floor)
    s_max = float(scores.max()) if rule == "reference" else top
    return ScoreRange(s_min, s_max)


def reference_floor(scores: NDArray[np.floating], references: NDArray[np.floating]) -> float | None:
    """Return the s_min of a set without a normal image, from normal references' scores (R,).

    s_min is the lowest score because that is a normal image's (section 3.2). Where all `scores`
    (N,) lie above those of all references, 8 or more (fewer do not say where normal scores end),
    no image is normal, and the lowest score of a reference stands in. None where that is not so.
    """
    if len(references) < _FEWEST_REFERENCES or len(scores) == 0:
        return None
    return float(references.min()) if scores.min() > references.max() else None


def binarize_map(
    amap: Map,
    scores: ScoreRange,
    *,
    thresholds: int,
    tau: int,
    erode_px: int,
    rule: SelectionRule,
) -> MapBinarization:
    """Binarize one anomaly map by MEBin (AnomalyNCD section 3.2).

    Parameters
    ----------
    amap
        (H, W) uint8, or floats in [0, 1], normalised over the set and not per image.
    scores
        The `score_range` of the set, in the units of the maps.
    thresholds
        Number of sampled thresholds, T (`sample_levels`).
    tau
        Shortest run of thresholds that counts as stable.
    erode_px
        Side of the square that erodes, in pixels of the map (0: none).
    rule
        How the run is selected (`stable_run`). "reference" takes floats as ``floor(255 * amap)``.

    Returns
    -------
    The mask ``amap > threshold``, eroded, with the threshold in the units of the map and the counts
    (L,) int32 at the sampled thresholds, highest first. Without a stable run the mask is empty and
    the threshold NaN. `n_regions` is delta* under rule "paper"; under "reference" the integer
    threshold can make it differ. For floats under "reference" the threshold is the largest float32
    t with ``floor(255 * t) <= v``, v being the integer threshold of that scale.

    Raises
    ------
    ValueError
        For another shape or type, NaN or values outside [0, 1], and impossible options.

    Examples
    --------
    >>> import numpy as np
    >>> amap = np.full((16, 16), 0.1, np.float32)
    >>> amap[4:12, 4:12] = 0.8
    >>> ends = ScoreRange(0.2, 1.0)
    >>> binarized = binarize_map(amap, ends, thresholds=64, tau=4, erode_px=2, rule="paper")
    >>> binarized.n_regions, int(binarized.mask.sum())
    (1, 49)
    """
    amap = checked_map(amap)
    levels = sample_levels(thresholds, rule=rule)
    search = _search_reference if rule == "reference" else _search_paper
    bins, cuts, eroded = search(amap, scores, levels, erode_px)
    counts = betti_curve(bins, len(levels))
    run = stable_run(counts, tau=tau, rule=rule)
    if run.length == 0:
        empty = np.zeros(amap.shape, np.bool_)
        return MapBinarization(empty, float("nan"), 0, 0, counts)
    mask = eroded > cuts[run.index]
    threshold = cuts[run.index]
    if rule == "reference" and amap.dtype != np.uint8:
        threshold = _largest_below(int(threshold) + 1)
    # On the sampled grid itself the mask has the count of its threshold.
    n_regions = run.count if rule == "paper" else count_regions(mask)
    return MapBinarization(mask, float(threshold), n_regions, run.length, counts)


def sample_levels(thresholds: int, *, rule: SelectionRule) -> NDArray[np.float64]:
    """Return the sampled levels 255, 255 - 256/T, ... > 0; s_min counts as 0 there, s_max as 255.

    T = `thresholds` of them (T = 64: 255, 251, ..., 3), or all that are above 0 if T is 256 or
    more. Raises ValueError if T is below 1 or, under rule "reference", not a power of two up to
    256.
    """
    _check_rule(rule)
    if thresholds < 1:
        raise ValueError(f"thresholds is {thresholds}: sample at least one")
    if rule == "reference" and (thresholds & (thresholds - 1) or thresholds > 256):
        raise ValueError(
            f"thresholds is {thresholds}: rule 'reference' needs a power of two up to 256"
        )
    levels = 255.0 - np.arange(thresholds) * 256.0 / thresholds
    return levels[levels > 0]


_Search = tuple[NDArray[np.int32], NDArray[np.float64], Map]
"""The first threshold exceeded per pixel, every threshold, and the eroded map they apply to."""


def _search_paper(
    amap: Map, scores: ScoreRange, levels: NDArray[np.float64], erode_px: int
) -> _Search:
    """Thresholds uniform between s_min and s_max, on the map as it is."""
    eroded = erode(amap, erode_px)
    cuts = scores.s_min + levels * (scores.s_max - scores.s_min) / 255
    if eroded.dtype == np.uint8:
        return _first_exceeded_8_bit(np.arange(256.0), cuts)[eroded], cuts, eroded
    # In the precision of the map, so that a comparison in float32 and one in float64 agree.
    cuts = cuts.astype(np.float32).astype(np.float64)
    return first_exceeded(eroded.astype(np.float32, copy=False), cuts), cuts, eroded


def _search_reference(
    amap: Map, scores: ScoreRange, levels: NDArray[np.float64], erode_px: int
) -> _Search:
    """The published sweep on an 8-bit map, with its arithmetic in float64."""
    eroded = erode(_to_8_bit(amap), erode_px)
    limits = np.array([scores.s_min, scores.s_max])
    if amap.dtype != np.uint8:
        limits = _to_8_bit(limits.astype(np.float32))
    low, high = (int(limit) for limit in limits)
    if low >= high:
        nothing = np.full(eroded.shape, len(levels), np.int32)
        return nothing, np.full(len(levels), 255.0), eroded
    values = np.arange(256)
    rescaled = np.where(values < low, 0.0, (values - low) / (high - low) * 255)
    bins = _first_exceeded_8_bit(rescaled, levels)[eroded]
    cuts = [float(int(level * (high - low) / 255 + low)) for level in levels.tolist()]
    return bins, np.array(cuts), eroded


def _first_exceeded_8_bit(
    values: NDArray[np.float64], falling: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Tabulate `first_exceeded` for the values (256,) of the 256 grey levels."""
    return (len(falling) - np.searchsorted(falling[::-1], values, side="left")).astype(np.int32)


def _to_8_bit(amap: Map) -> NDArray[np.uint8]:
    if amap.dtype == np.uint8:
        return amap.astype(np.uint8, copy=False)
    levels: NDArray[np.uint8] = np.floor(amap * np.float32(255)).astype(np.uint8)
    return levels


def _largest_below(v: int) -> float:
    """Return the largest float32 t with floor(255 t) < v, for v in 1..256."""
    t = np.float32(v) / np.float32(255)
    down, up = np.float32(-np.inf), np.float32(np.inf)
    while t * np.float32(255) >= v:
        t = np.nextafter(t, down)
    while np.nextafter(t, up) * np.float32(255) < v:
        t = np.nextafter(t, up)
    return float(t)


def _check_rule(rule: str) -> None:
    if rule not in ("paper", "reference"):
        raise ValueError(f"rule is {rule!r}: choose 'paper' or 'reference'")
