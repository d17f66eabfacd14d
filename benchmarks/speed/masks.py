"""From maps to sub-images and from classes of sub-images to those of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.plain import crops as plain_crops
from benchmarks.plain import mebin as plain_mebin
from benchmarks.plain.merging import merge_images
from benchmarks.speed.harness import Row, check, interleaved, peak_mb
from benchmarks.speed.inputs import Inputs
from pipeline.binarization.mebin import ScoreRange, binarize_map
from pipeline.io.images import read_image
from pipeline.regions.crops import area_px, crop_scores, cut, region_squares, resize_mask
from pipeline.regions.merging import merge_regions


def mebin(inputs: Inputs, *, limit: int, repeats: int) -> Row:
    """Time MEBin a map."""
    maps, ends = inputs.maps(limit)
    for amap in maps:
        mask, count = plain_mebin.binarize_map(amap, ends.s_min, ends.s_max)
        found = binarize_map(amap, ends)
        check(np.array_equal(mask, found.mask), "MEBin: the masks differ")
        check(count == found.n_regions, "MEBin: the numbers of regions differ")

    def plain() -> None:
        for amap in maps:
            plain_mebin.binarize_map(amap, ends.s_min, ends.s_max)

    def ours() -> None:
        for amap in maps:
            binarize_map(amap, ends)

    timing = interleaved(plain, ours, repeats=repeats, per=len(maps))
    return Row(
        f"MEBin, {len(maps)} maps {maps[0].shape[0]} x {maps[0].shape[1]} of {inputs.name}",
        ">= 40x, at most 3 ms",
        "map",
        timing.ratio,
        timing.plain_s,
        timing.ours_s,
        repeats,
        peak_mb(plain),
        peak_mb(ours),
        "exactly",
        ours_cpu_s=timing.ours_cpu_s,
    )


def our_crops(
    path: Path, amap: np.ndarray, ends: ScoreRange, size: int = 256
) -> list[plain_crops.Crop]:
    """Do what the stages `mebin` and `crops` do with one image, but for writing."""
    found = binarize_map(amap, ends)
    pixels = read_image(path)
    shape = (pixels.shape[0], pixels.shape[1])
    mask = resize_mask(found.mask, shape)
    squares = region_squares(mask, keep=found.n_regions + 1)
    scores = crop_scores(amap, squares, shape, s_min=ends.s_min, s_max=ends.s_max)
    crops = []
    for square, score in zip(squares, scores, strict=True):
        image, inside = cut(pixels, mask, square, size=size)
        x0, y0, side = (int(value) for value in square)
        crops.append(
            plain_crops.Crop((x0, y0, side), image, inside, area_px(mask, square), float(score))
        )
    return crops


def crops(inputs: Inputs, *, limit: int, repeats: int) -> Row:
    """Time binarizing and cropping an image, decoding included, writing not."""
    maps, ends = inputs.maps(limit)
    jobs = list(zip(inputs.images(limit), maps, strict=True))
    number = 0
    for path, amap in jobs:
        pairs = zip(
            plain_crops.image_crops(path, amap, ends.s_min, ends.s_max),
            our_crops(path, amap, ends),
            strict=True,
        )
        for a, b in pairs:
            same = a.square == b.square and a.area_px == b.area_px and abs(a.score - b.score) < 1e-6
            same &= np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)
            check(same, f"crops: {path.name}: a square, score, or its pixels differ")
            number += 1

    def plain() -> None:
        for path, amap in jobs:
            plain_crops.image_crops(path, amap, ends.s_min, ends.s_max)

    def ours() -> None:
        for path, amap in jobs:
            our_crops(path, amap, ends)

    timing = interleaved(plain, ours, repeats=repeats, per=len(jobs))
    return Row(
        f"binarize + crop, decode included, {len(jobs)} images of {inputs.name}",
        ">= 10x",
        "image",
        timing.ratio,
        timing.plain_s,
        timing.ours_s,
        repeats,
        peak_mb(plain),
        peak_mb(ours),
        f"exactly ({number} crops)",
        ours_cpu_s=timing.ours_cpu_s,
    )


def merging(inputs: Inputs, *, repeats: int, classes: int = 6) -> Row:
    """Time merging the regions of a whole set."""
    table = inputs.table()
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(classes), len(table))
    ids, areas = table["sample_id"].tolist(), table["area_px"].to_numpy(np.float64)

    def ours() -> np.ndarray:
        index, names = pd.factorize(table["sample_id"])
        return merge_regions(
            probabilities, index.astype(np.int64), areas, table["score"], n_images=len(names)
        )

    expected = np.stack(list(merge_images(probabilities, ids, areas).values()))
    found = ours()
    check(np.array_equal(expected.argmax(1), found.argmax(1)), "merging: classes differ")
    check(np.abs(expected - found).max() < 1e-12, "merging: probabilities differ")
    timing = interleaved(
        lambda: merge_images(probabilities, ids, areas), ours, repeats=repeats, per=len(found)
    )
    return Row(
        f"merging, {len(found)} images of {inputs.name}",
        "-",
        "image",
        timing.ratio,
        timing.plain_s,
        timing.ours_s,
        repeats,
        equal="classes exactly",
        ours_cpu_s=timing.ours_cpu_s,
    )
