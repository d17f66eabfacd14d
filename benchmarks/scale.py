"""Measure what Dask costs: `python -m benchmarks.scale` prints tables of Markdown.

Overhead of a block that does nothing, and efficiency of blocks that sleep (they need no cores, so
more workers than cores can be measured): n * t / (workers * wall time), without the start of the
cluster. A model, T = n * overhead + ceil(n / workers) * t, is fitted to at most 4 workers, compared
with what more took, and printed for numbers that were not measured. `--cpu` counts the CPU seconds
of blocks that compute (MEBin on maps), in one process and on two workers.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from pipeline.binarization.mebin import ScoreRange, binarize_map
from pipeline.config.params import Compute
from pipeline.distributed.dask_engine import Dask
from pipeline.executor import Engine, Local, map_shards, using
from pipeline.progress import Progress

_NOTHING = 400
_PER_WORKER = 12
_BARS = {1.0: 0.95}
"""Efficiency that is expected of blocks of so many seconds."""
_FITTED = 4
_PROJECTED = (16, 64, 256)
_MAPS, _BLOCKS = 256, 8


@dataclass(frozen=True)
class Run:
    """n blocks of t seconds on some workers took `wall` seconds."""

    workers: int
    n: int
    t: float
    wall: float

    @property
    def efficiency(self) -> float:
        """Return the share of the workers' time that blocks took."""
        return self.n * self.t / (self.workers * self.wall)


def nap(seconds: float, progress: Progress) -> None:
    """Sleep: a block without computation."""
    time.sleep(seconds)


def binarize(seed: int, progress: Progress) -> int:
    """Binarize maps of smooth noise: a block that computes. Returns the pixels above."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(_MAPS):
        rough = rng.random((16, 16), dtype=np.float32)
        amap = np.kron(rough, np.ones((32, 32), np.float32))
        mask = binarize_map(
            amap, ScoreRange(0.2, 1.0), thresholds=64, tau=4, erode_px=6, rule="paper"
        ).mask
        found += int(mask.sum())
    return found


def wall_s(engine: Dask, n: int, seconds: float) -> float:
    """Return the seconds that n blocks of `seconds` take."""
    items = [range(i, i + 1) for i in range(n)]
    start = time.perf_counter()
    with using(engine):
        map_shards(nap, [seconds] * n, items=items)
    return time.perf_counter() - start


def measure(workers: int, lengths: list[float]) -> tuple[list[Run], str]:
    """Return the runs on one cluster, and the start of its rows."""
    with ExitStack() as stack:
        engine = Dask(Compute(engine="dask", workers=workers), stack)
        start = time.perf_counter()
        engine.client.wait_for_workers(workers)
        started = time.perf_counter() - start
        wall_s(engine, 2 * workers, 0.0)  # imports
        overhead = wall_s(engine, _NOTHING, 0.0) / _NOTHING
        n = _PER_WORKER * workers
        runs = [Run(workers, n, seconds, wall_s(engine, n, seconds)) for seconds in lengths]
    return runs, f"| {workers} | {started:.1f} | {1000 * overhead:.1f} |"


def overhead_s(runs: list[Run]) -> float:
    """Return the seconds of overhead a block that fit runs on few workers best."""
    few = [run for run in runs if run.workers <= _FITTED]
    return float(np.median([(r.wall - math.ceil(r.n / r.workers) * r.t) / r.n for r in few]))


def model_s(overhead: float, n: int, workers: int, seconds: float) -> float:
    """Return the seconds that n blocks of `seconds` take by the model."""
    return n * overhead + math.ceil(n / workers) * seconds


def print_model(runs: list[Run]) -> None:
    """Print the model beside what was measured, and for more workers."""
    overhead = overhead_s(runs)
    print(f"\nFitted to {_FITTED} workers or fewer: {1000 * overhead:.1f} ms a block\n")
    print("| workers | block s | measured s | model s | off by |\n|---|---|---|---|---|")
    for run in runs:
        if run.workers > _FITTED:
            found = model_s(overhead, run.n, run.workers, run.t)
            print(
                f"| {run.workers} | {run.t:g} | {run.wall:.2f} | {found:.2f} | "
                f"{100 * (found / run.wall - 1):+.0f} % |"
            )
    print("\n| workers | block s | efficiency (projected, not measured) |\n|---|---|---|")
    for workers in _PROJECTED:
        for seconds in sorted({run.t for run in runs} | {5.0}):
            n = _PER_WORKER * workers
            found = n * seconds / (workers * model_s(overhead, n, workers, seconds))
            print(f"| {workers} | {seconds:g} | {found:.2f} |")


def cpu_s(use: Callable[[ExitStack], Engine], blocks: int) -> float:
    """Return the CPU seconds of blocks on an engine, those of its processes included."""
    before = _used()
    with ExitStack() as stack, using(use(stack)):
        map_shards(binarize, range(blocks), items=[range(i, i + 1) for i in range(blocks)])
    return _used() - before


def _used() -> float:
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def print_cpu() -> None:
    """Print milliseconds of CPU a map: what more blocks cost, so that starts cancel out."""
    os.environ["OMP_NUM_THREADS"] = "1"
    ways: dict[str, Callable[[ExitStack], Engine]] = {
        "local": lambda stack: Local(),
        "dask, 2 workers": lambda stack: Dask(Compute(engine="dask", workers=2), stack),
    }
    print("| engine | CPU ms a map | with the start |\n|---|---|---|")
    for name, use in ways.items():
        few, many = cpu_s(use, _BLOCKS), cpu_s(use, 5 * _BLOCKS)
        maps = 4 * _BLOCKS * _MAPS
        print(f"| {name} | {1000 * (many - few) / maps:.3f} | {few:.1f} s for {_BLOCKS} blocks |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.02, 0.25, 1.0])
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if options.cpu:
        print_cpu()
        return
    print("| workers | start s | overhead ms a block | block s | efficiency |")
    print("|---|---|---|---|---|")
    every: list[Run] = []
    for workers in options.workers:
        runs, row = measure(workers, options.seconds)
        every += runs
        for run in runs:
            below = " (below .95)" if run.efficiency < _BARS.get(run.t, 0) else ""
            print(f"{row} {run.t:g} | {run.efficiency:.3f}{below} |", flush=True)
    print_model(every)


if __name__ == "__main__":
    main()
