"""From maps to crops, and from the classes of crops to those of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.plain import crops as plain_crops
from benchmarks.plain import mebin as plain_mebin
from benchmarks.plain.merging import merge_images
from benchmarks.speed.harness import Row, check, compare
from benchmarks.speed.inputs import Inputs
from pipeline.binarization.mebin import ScoreRange, binarize_map
from pipeline.binarization.thresholds import MapBinarization
from pipeline.config.detection import Mebin
from pipeline.config.params import Crops, Merge
from pipeline.io.images import read_image
from pipeline.regions.crops import area_px, crop_scores, cut, region_squares, resize_mask
from pipeline.regions.merging import merge_regions

CLASSES = 6


def _binarized(amap: np.ndarray, ends: ScoreRange) -> MapBinarization:
    options = Mebin()
    return binarize_map(
        amap,
        ends,
        thresholds=options.n_thresholds,
        tau=options.tau,
        erode_px=options.erode_px,
        rule=options.rule,
    )


def mebin(inputs: Inputs) -> Row:
    """Time MEBin per map."""
    maps, ends = inputs.maps(40)
    for amap in maps:
        mask, count = plain_mebin.binarize_map(amap, ends.s_min, ends.s_max)
        found = _binarized(amap, ends)
        check(np.array_equal(mask, found.mask), "MEBin: the masks differ")
        check(count == found.n_regions, "MEBin: the numbers of regions differ")
    height, width = maps[0].shape
    return compare(
        f"MEBin, {len(maps)} maps {height} x {width} of {inputs.category}",
        ">= 40x, at most 3 ms",
        "map",
        lambda: [plain_mebin.binarize_map(amap, ends.s_min, ends.s_max) for amap in maps],
        lambda: [_binarized(amap, ends) for amap in maps],
        repeats=5,
        per=len(maps),
        equal="exactly",
    )


def our_crops(
    path: Path, amap: np.ndarray, ends: ScoreRange, size: int = 256
) -> list[plain_crops.Crop]:
    """Do what the stages `mebin` and `crops` do with one image, but for writing."""
    found = _binarized(amap, ends)
    pixels = read_image(path)
    shape = (pixels.shape[0], pixels.shape[1])
    mask = resize_mask(found.mask, shape)
    options = Crops()
    squares = region_squares(
        mask,
        padding=options.padding,
        smallest_side=options.smallest_side,
        merge_distance=options.merge_distance,
        keep=found.n_regions + 1,
    )
    scores = crop_scores(amap, squares, shape, s_min=ends.s_min, s_max=ends.s_max)
    crops = []
    for square, score in zip(squares, scores, strict=True):
        image, inside = cut(pixels, mask, square, size=size)
        x0, y0, side = (int(value) for value in square)
        crops.append(
            plain_crops.Crop((x0, y0, side), image, inside, area_px(mask, square), float(score))
        )
    return crops


def crops(inputs: Inputs) -> Row:
    """Time binarizing and cropping per image, decoding included, writing not."""
    maps, ends = inputs.maps(60)
    jobs = list(zip(inputs.images(60), maps, strict=True))
    number = 0
    for path, amap in jobs:
        plain = plain_crops.image_crops(path, amap, ends.s_min, ends.s_max)
        for a, b in zip(plain, our_crops(path, amap, ends), strict=True):
            same = a.square == b.square and a.area_px == b.area_px and abs(a.score - b.score) < 1e-6
            same &= np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)
            check(same, f"crops: {path.name}: a square, score, or its pixels differ")
            number += 1
    return compare(
        f"binarize and crop, decode included, {len(jobs)} images of {inputs.category}",
        ">= 10x",
        "image",
        lambda: [plain_crops.image_crops(*job, ends.s_min, ends.s_max) for job in jobs],
        lambda: [our_crops(*job, ends) for job in jobs],
        repeats=5,
        per=len(jobs),
        equal=f"exactly ({number} crops)",
    )


def merging(inputs: Inputs) -> Row:
    """Time merging the regions of a whole set."""
    table = inputs.table()
    probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), len(table))
    ids, areas = table["sample_id"].tolist(), table["area_px"].to_numpy(np.float64)

    options = Merge()

    def ours() -> np.ndarray:
        index, names = pd.factorize(table["sample_id"])
        return merge_regions(
            probabilities,
            index.astype(np.int64),
            areas,
            table["score"],
            rule=options.weights,
            temperature=options.temperature,
            n_images=len(names),
        )

    expected = np.stack(list(merge_images(probabilities, ids, areas).values()))
    found = ours()
    check(np.array_equal(expected.argmax(1), found.argmax(1)), "merging: classes differ")
    check(np.abs(expected - found).max() < 1e-12, "merging: probabilities differ")
    return compare(
        f"merging, {len(found)} images of {inputs.category}",
        "-",
        "image",
        lambda: merge_images(probabilities, ids, areas),
        ours,
        repeats=20,
        per=len(found),
        equal="classes exactly",
    )
