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
from pipeline.progress import Progress, silent

_FEWEST_REFERENCES = 8


@dataclass(frozen=True)
class ScoreRange:
    """Between which scores thresholds are sought, in the units of the maps."""

    s_min: float
    s_max: float


@dataclass(frozen=True)
class Binarization:
    """The binarized maps of a set.

    `masks` (N, H, W) bool: ``maps[i] > threshold[i]``, eroded. `threshold` (N,) float64 in the
    units of the maps, NaN where nothing was found (the mask is then empty). `n_regions` (N,) int64:
    8-connected components of the mask; under rule "paper" this is delta*, under "reference" the
    integer threshold can make it differ from delta* (`stable_run` has that). `run_length` (N,)
    int64: how many thresholds the chosen run spans, 0 where nothing was found. `counts` (N, L)
    int32: components at each of the L sampled thresholds, highest first; L is `thresholds` up to
    255 (`sample_levels`).
    """

    masks: NDArray[np.bool_]
    threshold: NDArray[np.float64]
    n_regions: NDArray[np.int64]
    run_length: NDArray[np.int64]
    counts: NDArray[np.int32]
    s_min: float
    s_max: float


def binarize(
    maps: Map,
    *,
    thresholds: int = 64,
    tau: int = 4,
    erode_px: int = 6,
    rule: SelectionRule = "paper",
    floor: float | None = None,
    progress: Progress = silent,
) -> Binarization:
    """Binarize the anomaly maps of a set by MEBin (AnomalyNCD section 3.2).

    `maps` (N, H, W), uint8 or floats in [0, 1], normalised over the set and not per image.
    `thresholds` is the number T of sampled thresholds, `tau` the shortest run that counts as
    stable, `erode_px` the side of the square that erodes (0: none), `rule` the rule of selection
    (`stable_run`), `floor` the s_min to use in place of the lowest image maximum, in the units of
    the maps; a set without a single normal image needs one.

    Rule "reference" takes float maps as ``floor(255 * map)``. Its thresholds are integers v of that
    scale; for floats the reported threshold is the largest float32 t with ``floor(255 * t) <= v``,
    so that ``map > threshold`` is the mask (before erosion) whatever the rule and units.

    A set whose s_min is s_max gets empty masks. Raises ValueError for an empty set, other shapes or
    types, NaN or values outside [0, 1] (naming the map), and impossible options.
    """
    if maps.ndim != 3 or len(maps) == 0:
        raise ValueError(f"maps must have shape (N, H, W) with N > 0, not {maps.shape}")
    n_maps = len(maps)
    checked = [checked_map(amap, f"map {i}") for i, amap in enumerate(maps)]
    scores = np.array([amap.max() for amap in checked])
    scores_range = score_range(scores, rule=rule, floor=floor)
    results = []
    for i in range(n_maps):
        results.append(
            binarize_map(
                checked[i],
                scores_range,
                thresholds=thresholds,
                tau=tau,
                erode_px=erode_px,
                rule=rule,
            )
        )
        progress(i + 1, n_maps)
    return Binarization(
        masks=np.stack([r.mask for r in results]),
        threshold=np.array([r.threshold for r in results], np.float64),
        n_regions=np.array([r.n_regions for r in results], np.int64),
        run_length=np.array([r.run_length for r in results], np.int64),
        counts=np.stack([r.counts for r in results]),
        s_min=scores_range.s_min,
        s_max=scores_range.s_max,
    )


def score_range(
    scores: NDArray[np.uint8] | NDArray[np.floating],
    *,
    rule: SelectionRule = "paper",
    floor: float | None = None,
) -> ScoreRange:
    """Return the range of thresholds of a set from the maxima of its maps (N,), in their units.

    s_min is `floor`, or the lowest score. s_max is the top of the scale under rule "paper" (1, or
    255 for uint8 scores) and the highest score under "reference"; a floor above the highest score
    then gives an s_min above s_max, and empty masks as for equal ones. Raises ValueError for no
    scores, for scores or a floor outside the scale, and for NaN (naming the map).
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
    thresholds: int = 64,
    tau: int = 4,
    erode_px: int = 6,
    rule: SelectionRule = "paper",
) -> MapBinarization:
    """Binarize one map (H, W) of a set whose `score_range` is `scores`; see `binarize`."""
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


def sample_levels(thresholds: int, *, rule: SelectionRule = "paper") -> NDArray[np.float64]:
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
    ends = np.array([scores.s_min, scores.s_max])
    if amap.dtype != np.uint8:
        ends = _to_8_bit(ends.astype(np.float32))
    low, high = (int(end) for end in ends)
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
