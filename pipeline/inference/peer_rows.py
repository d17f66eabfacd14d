"""Run the rows of a method over a category: each in a fresh process, one seed after another."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.config.params import Merge
from pipeline.inference.fresh_process import NotComputedError, in_fresh_process, timed
from pipeline.inference.peer_data import load_peer_data
from pipeline.io.paths import ArtifactPaths
from pipeline.io.peer_files import Cost, RowRun, read_description
from pipeline.io.stored import read_object
from pipeline.peers.base import Assignment, Input
from pipeline.peers.order import sort_items, with_settings
from pipeline.peers.rows import rows_of
from pipeline.regions.merging import merge_regions

log = logging.getLogger("anomalyncd")

LIMIT_S = 600.0
"""A row with all its seeds may take ten minutes; one that takes longer is skipped, and says so."""


@dataclass(frozen=True)
class SeedResults:
    """Results of one row for each seed, and the mean seconds of one."""

    results: Sequence[Assignment]
    seconds: float
    threads: int


def compute_row(
    folder: Path,
    method: str,
    key: str,
    given: Input,
    n_classes: int,
    seeds: Sequence[int],
    settings: Mapping[str, object],
) -> SeedResults:
    """Run a row over the features in `folder`: what happens in the fresh process."""
    function = with_settings(rows_of(method)[key].method, settings)
    data = load_peer_data(folder, given)
    done = [timed(sort_items, function, data, n_classes, seed) for seed in seeds]
    seconds = float(np.mean([seconds for _, seconds in done]))
    return SeedResults([result for result, _ in done], seconds, torch.get_num_threads())


def number_of_classes(paths: ArtifactPaths, category: str) -> int:
    """Return the number of novel classes, normal included, as the stage `classes` settled it."""
    path = paths.classes(category) / "classes.json"
    return int(read_object(path, {"n_classes": (int,)})["n_classes"])


@dataclass(frozen=True)
class Bench:
    """What the rows of a category run on.

    `folder` holds the features, `crops` the table of sub-images, whose classes are merged as the
    pipeline's own are. `settings` reach the methods that know them.
    """

    folder: Path
    crops: pd.DataFrame
    merging: Merge
    n_classes: int
    n_seeds: int
    settings: Mapping[str, object]


def run_rows(method: str, inputs: Sequence[Input], bench: Bench) -> list[RowRun]:
    """Run every row of `method` on each of `inputs` that it takes.

    A row that cannot run, or takes too long, says why and has no predictions.
    """
    return [
        _run(method, key, given, row.random, bench)
        for key, row in rows_of(method).items()
        for given in row.inputs
        if given in inputs
    ]


def _run(method: str, key: str, given: Input, random: bool, bench: Bench) -> RowRun:
    seeds = list(range(bench.n_seeds if random else 1))
    work = (bench.folder, method, key, given, bench.n_classes, seeds, bench.settings)
    try:
        measured = in_fresh_process(compute_row, work, limit_s=LIMIT_S)
    except NotComputedError as error:
        log.warning("%s, %s: skipped: %s", key, given, error)
        nothing = np.zeros((0, 0), np.int64)
        return RowRun(key, given, [], [], nothing, None, None, skipped=str(error))
    found = measured.value
    log.info("%s, %s: %.1f s", key, given, found.seconds)
    cost = Cost(
        seconds=round(found.seconds, 3),
        host_mib=measured.host_mib,
        gpu_mib=measured.gpu_mib,
        device="cpu" if measured.gpu_mib is None else "cuda",
        threads=found.threads,
    )
    about = read_description(bench.folder)
    ids = about["crop_ids"] if given == "crop" else about["sample_ids"]
    classes, probabilities = stack_seeds(found.results)
    if given == "crop":
        ids, probabilities = merged(ids, classes, probabilities, bench.crops, bench.merging)
        classes = probabilities.argmax(2).astype(np.int64)
    return RowRun(key, given, ids, seeds, classes, probabilities, cost, _mean_notes(found.results))


def stack_seeds(
    results: Sequence[Assignment],
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """Return classes (S, N) and, if all seeds have them, probabilities (S, N, K)."""
    soft = [result.probabilities for result in results if result.probabilities is not None]
    classes = np.stack([result.labels for result in results])
    return classes, np.stack(soft) if len(soft) == len(results) else None


def merged(
    crop_ids: Sequence[str],
    classes: NDArray[np.int64],
    probabilities: NDArray[np.float32] | None,
    crops: pd.DataFrame,
    merging: Merge,
) -> tuple[list[str], NDArray[np.float32]]:
    """Return sample ids (N) and the probabilities (S, N, K) of images from those of M sub-images.

    Hard classes (S, M) count as probabilities of 1.
    """
    if probabilities is None:
        probabilities = np.eye(int(classes.max()) + 1, dtype=np.float32)[classes]
    table = crops.set_index("crop_id").loc[list(crop_ids)]
    index, sample_ids = pd.factorize(table["sample_id"])
    images = [
        merge_regions(
            one,
            index.astype(np.int64),
            table["area_px"].to_numpy(np.float64),
            table["score"].to_numpy(np.float64),
            rule=merging.weights,
            temperature=merging.temperature,
            n_images=len(sample_ids),
        )
        for one in probabilities
    ]
    return [str(name) for name in sample_ids], np.stack(images).astype(np.float32)


def _mean_notes(results: Sequence[Assignment]) -> dict[str, float]:
    return {
        name: round(float(np.mean([result.notes[name] for result in results])), 4)
        for name in results[0].notes
    }
