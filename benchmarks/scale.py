"""Measure what Dask costs: `python -m benchmarks.scale` prints a table of Markdown.

Overhead of a block that does nothing, and efficiency of blocks that sleep (they need no cores, so
more workers than cores can be measured): n * t / (workers * wall time), without the start of the
cluster. Projections to more workers follow from both and are marked as such.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from pipeline.config.params import Compute
from pipeline.distributed.dask_engine import Dask
from pipeline.executor import map_shards, using
from pipeline.progress import Progress

_NOTHING = 400
_PER_WORKER = 12
_BARS = {1.0: 0.95}
"""Efficiency that is expected of blocks of so many seconds."""


def nap(seconds: float, progress: Progress) -> None:
    """Sleep: a block without computation."""
    time.sleep(seconds)


def wall_s(engine: Dask, n: int, seconds: float) -> float:
    """Return the seconds that n blocks of `seconds` take."""
    items = [range(i, i + 1) for i in range(n)]
    start = time.perf_counter()
    with using(engine):
        map_shards(nap, [seconds] * n, items=items)
    return time.perf_counter() - start


def measure(workers: int, lengths: list[float]) -> list[str]:
    """Return the rows of one cluster."""
    with ExitStack() as stack:
        engine = Dask(Compute(engine="dask", workers=workers), stack)
        start = time.perf_counter()
        engine.client.wait_for_workers(workers)
        started = time.perf_counter() - start
        wall_s(engine, 2 * workers, 0.0)  # imports
        overhead = wall_s(engine, _NOTHING, 0.0) / _NOTHING
        rows = []
        for seconds in lengths:
            n = _PER_WORKER * workers
            efficiency = n * seconds / (workers * wall_s(engine, n, seconds))
            below = " (below .95)" if efficiency < _BARS.get(seconds, 0) else ""
            rows.append(
                f"| {workers} | {started:.1f} | {1000 * overhead:.1f} | {seconds:g} | "
                f"{efficiency:.3f}{below} |"
            )
        return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.02, 0.25, 1.0])
    options = parser.parse_args()
    print("| workers | start s | overhead ms a block | block s | efficiency |")
    print("|---|---|---|---|---|")
    for workers in options.workers:
        print("\n".join(measure(workers, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
