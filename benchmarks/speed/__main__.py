"""Measure the stages beside the plain way: `python -m benchmarks.speed mebin --category mtd`.

Needs a finished `dvc repro crops@<category>` (`growth` makes its own checkouts). Results go to
data/benchmarks/<name>.json; `render` prints all of them as the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.speed import detectors, growth, masks, network
from benchmarks.speed.harness import Row, load, save
from benchmarks.speed.inputs import Inputs
from benchmarks.speed.table import markdown
from pipeline.config.reading import load_params
from pipeline.errors import AnomalyNCDError
from pipeline.io.paths import ArtifactPaths

SIZES = (100, 1000, 10000)
MEASURED: dict[str, Callable[[Inputs], Row | list[Row]]] = {
    "mebin": masks.mebin,
    "crops": masks.crops,
    "merging": masks.merging,
    "augmentation": network.augmentation,
    "inference": network.inference,
    "training": network.training,
    "musc": detectors.musc,
    "coreset": detectors.coreset,
}


def main() -> None:
    """Measure one thing beside the plain way, or print what is known."""
    parser = argparse.ArgumentParser(prog="benchmarks.speed")
    parser.add_argument("name", choices=[*MEASURED, "growth", "render"])
    parser.add_argument("--category", help="default: the first of dataset.categories")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the artifacts")
    options = parser.parse_args()
    folder = options.data / "benchmarks"
    if options.name != "render":
        params = load_params(options.params)
        category = options.category or params.dataset.categories[0]
        if options.name == "growth":
            with tempfile.TemporaryDirectory() as work:
                rows = growth.grown(SIZES, Path(work), repeats=3)
        else:
            found = MEASURED[options.name](Inputs(category, params, ArtifactPaths(options.data)))
            rows = found if isinstance(found, list) else [found]
        save(folder, options.name, category, rows)
    print(markdown([r for r in load(folder) if options.name in ("render", r["name"])]))


if __name__ == "__main__":
    try:
        main()
    except AnomalyNCDError as error:
        sys.exit(f"benchmarks.speed: {error}")
