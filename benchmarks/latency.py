"""Time from a file to its class, one image at a time: python -m benchmarks.latency FOLDER CATEGORY

The run is loaded once, as by `classify --watch`; the first images, which also load libraries, are
not counted. CPU time is that of all threads, and what to compare where a machine does other work.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.config.section import ConfigError
from pipeline.inference import load_classifier
from pipeline.io.images import is_image_name, read_image

_WARM = 3


def main(
    folder: Annotated[Path, typer.Argument(help="Images, not of the run.")],
    category: Annotated[str, typer.Argument(help="A category with a finished run.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the artifacts.")] = Path("data"),
    most: Annotated[int, typer.Option("--most", help="Images at most.")] = 100,
) -> None:
    """Print the median and the 95 % quantile of wall and CPU time."""
    files = sorted(path for path in folder.rglob("*") if is_image_name(path))[: most + _WARM]
    if len(files) <= _WARM:
        raise ConfigError(f"{folder} has {len(files)} images: give more than {_WARM}")
    start = time.perf_counter()
    classifier = load_classifier(data, category)
    loaded = time.perf_counter() - start
    times = []
    for file in files:
        before = time.perf_counter(), time.process_time()
        classifier([read_image(file, classifier.options.bits)])
        times.append((time.perf_counter() - before[0], time.process_time() - before[1]))
    typer.echo(f"{category}: loaded in {loaded:.1f} s; {len(files) - _WARM} images, one at a time")
    for name, column in zip(("wall", "CPU"), np.array(times)[_WARM:].T, strict=True):
        p50, p95 = np.quantile(column, [0.5, 0.95])
        typer.echo(f"{name:>5}: p50 {p50:.2f} s, p95 {p95:.2f} s")


if __name__ == "__main__":
    typer.run(main)
