"""What many images cost: an idle `dvc repro` with and without an inventory, and memory by stage.

    python -m benchmarks.large_sets idle --images 100000
    python -m benchmarks.large_sets stages --images 1000 10000

`idle` writes images of 16 x 16 pixels, puts small files in the place of the artifacts and records
them (`dvc commit`): what is measured is what DVC does about the images, and nothing is computed.
`stages` runs the pipeline on images of 64 x 64 pixels below an inventory, a third of them with a
defect; the maps are their masks, so that no network is needed for them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from dvc.repo import Repo
from ruamel.yaml import YAML

from benchmarks.speed.growth import CATEGORY, make_checkout, run, stage_rows
from benchmarks.speed.harness import Row, seconds
from pipeline.io.inventory import INVENTORY

_SIDE = 16
_IN_FOLDER = 1000
_PROGRAM = ["python", "-m", "pipeline.cli"]


def write_tiny(root: Path, n: int) -> None:
    """Write `n` grey images (16, 16) below `root`, 1000 in a folder."""
    rng = np.random.default_rng(0)
    for i in range(n):
        folder = root / f"{i // _IN_FOLDER:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (_SIDE, _SIDE), np.uint8))


def set_params(folder: Path, **sections: dict[str, object]) -> None:
    """Change params.yaml of a checkout."""
    yaml, path = YAML(), folder / "params.yaml"
    params = yaml.load(path)
    for section, values in sections.items():
        params[section].update(values)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def list_images(folder: Path) -> None:
    """Make inventories of a checkout's images, and let dataset.root be their folder."""
    run([*_PROGRAM, "inventory", "data/raw/synthetic", "--to", "data/raw/listed"], folder)
    set_params(folder, dataset={"root": "data/raw/listed"})


def record(folder: Path) -> None:
    """Put a small file in the place of every artifact that is missing, and record all of them."""
    with Repo(str(folder)) as repo:
        outs = [Path(out.fs_path) for out in repo.index.outs]
    for path in outs:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n")
    run(["dvc", "commit", "--force", "--quiet"], folder)


def idle_s(folder: Path) -> float:
    """Return the seconds of the second of two `dvc repro` with nothing to do."""
    for _ in range(2):
        start = time.perf_counter()
        text = run(["dvc", "repro"], folder)
        taken = time.perf_counter() - start
        assert "up to date" in text, text[-1000:]
    return taken


def idle(n: int, work: Path) -> list[str]:
    """Return the rows of the table: seconds with the folder, with an inventory, after a change."""
    make_checkout(work, 3)
    source = work / "data/raw/synthetic" / CATEGORY
    write_tiny(source / "test", n)
    rows = []
    record(work)
    rows.append(f"| idle `dvc repro`, the folder | {idle_s(work):.2f} |")
    rows.append(f"| `anomalyncd inventory`, first | {seconds(lambda: list_images(work)):.2f} |")
    record(work)
    rows.append(f"| idle `dvc repro`, the inventory | {idle_s(work):.2f} |")
    again = seconds(lambda: run([*_PROGRAM, "inventory"], work))
    rows.append(f"| `anomalyncd inventory`, nothing changed | {again:.2f} |")
    assert "up to date" in run(["dvc", "status"], work)
    os.utime(source / "test/0000/0.png", ns=(1, 1))
    run([*_PROGRAM, "inventory"], work)
    assert "changed deps" in run(["dvc", "status"], work)
    size = (work / "data/raw/listed" / CATEGORY / INVENTORY).stat().st_size
    return [*rows, f"| bytes of the inventory | {size} |"]


def stages(sizes: list[int], work: Path) -> list[Row]:
    """Return seconds and peak memory of every stage for each size."""
    folders = {n: work / str(n) for n in sizes}
    for n, folder in folders.items():
        make_checkout(folder, n)
        list_images(folder)
        set_params(
            folder,
            maps={"method": "ground_truth"},
            classes={"count": 3},
            evaluate={"bootstrap": 0},
        )
        run(["dvc", "repro"], folder)
    return stage_rows(folders)


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks.large_sets")
    parser.add_argument("what", choices=["idle", "stages"])
    parser.add_argument("--images", type=int, nargs="+", default=[1000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "idle":
            print("| what | seconds |\n|---|---|")
            for n in options.images:
                print("\n".join(idle(n, Path(folder, str(n)))), flush=True)
            return
        names = [f"N = {n}" for n in options.images]
        print(f"| what | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for row in stages(options.images, Path(folder)):
            print(f"| {row.what} | {' | '.join(f'{row.metrics[n]:g} {row.unit}' for n in names)} |")


if __name__ == "__main__":
    main()
