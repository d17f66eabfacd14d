"""Time and memory of every stage and the time of an idle `dvc repro` as the number of images grows.

A synthetic checkout is made: the code, small random images, parameters that keep every stage cheap
(a small random network, MuSc against a fixed number of images).
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ruamel.yaml import YAML

from benchmarks.speed.harness import Row, seconds
from pipeline.io.tables import read_json

ROOT = Path(__file__).resolve().parent.parent.parent
CATEGORY = "many"
STAGES = (
    "manifest", "maps", "mebin", "crops", "classes",
    "views", "train", "predict", "merge", "evaluate", "report",
)  # fmt: skip
_SIDE = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "dataset": {"root": "data/raw/synthetic", "categories": [CATEGORY]},
    "demo": {"good": 1, "per_defect": 1, "normals": 1},
    "backbone": {"source": "random", "name": "vit_tiny_patch16_224"},
    "maps": {"resolution": _SIDE, "map_size": 128, "references": 50},
    "classes": {"count": "auto"},
    "views": {"image_size": _SIDE, "count": 2},
    "train": {"epochs": 2},
}


class CommandError(RuntimeError):
    """A command failed; the message is the end of what it wrote."""


def make_checkout(folder: Path, n: int) -> None:
    """Make a checkout with `n` query images, every third with a defect and its mask."""
    for name in ("pipeline", "stages", "data/choices", "data/corrections", "data/identity"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", "names.yaml"):
        shutil.copy(ROOT / name, folder)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, values in SETTINGS.items():
        params[section].update(values)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    for name in ("base", "normal", "maps", "weights"):
        (folder / "data" / "raw" / name).mkdir(parents=True)
    write_images(folder / "data" / "raw" / "synthetic" / CATEGORY, n)
    run(["dvc", "init", "--no-scm", "--quiet"], folder)
    run(["dvc", "config", "core.analytics", "false"], folder)


def write_images(root: Path, n: int) -> None:
    """Write images (64, 64) in the layout of MVTec AD."""
    folders = [root / "test" / name for name in ("good", "spot")]
    truth = root / "ground_truth" / "spot"
    for folder in (*folders, truth):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        image = rng.integers(90, 110, (_SIDE, _SIDE, 3), np.uint8)
        if i % 3:
            cv2.imwrite(str(folders[0] / f"{i}.png"), image)
            continue
        mask = np.zeros((_SIDE, _SIDE), np.uint8)
        x, y = (int(v) for v in rng.integers(12, _SIDE - 12, 2))
        cv2.circle(mask, (x, y), int(rng.integers(4, 9)), 255, cv2.FILLED)
        image[mask > 0] = 250
        cv2.imwrite(str(folders[1] / f"{i}.png"), image)
        cv2.imwrite(str(truth / f"{i}_mask.png"), mask)


def run(command: list[str], folder: Path) -> str:
    """Run a command of this environment in a checkout; return what it wrote."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    text = done.stdout + done.stderr
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {text[-2000:]}")
    return text


def repro_s(folder: Path, n: int, *, repeats: int) -> float:
    """Run everything on `n` images; return the median seconds of `dvc repro` with nothing to do."""
    make_checkout(folder, n)
    run(["dvc", "repro"], folder)
    texts: list[str] = []
    times = [seconds(lambda: texts.append(run(["dvc", "repro"], folder))) for _ in range(repeats)]
    if "up to date" not in texts[-1]:
        raise CommandError(f"dvc repro did something: {texts[-1][-2000:]}")
    return statistics.median(times)


def grown(sizes: Sequence[int], work: Path, *, repeats: int) -> list[Row]:
    """Return what checkouts of several sizes take, in folders of `work`."""
    folders = {size: work / str(size) for size in sizes}
    times = {size: repro_s(folder, size, repeats=repeats) for size, folder in folders.items()}
    idle = {f"N = {size}": round(time, 2) for size, time in times.items()}
    return [Row("idle `dvc repro`", "< 5 s", "s", metrics=idle), *stage_rows(folders)]


def stage_rows(sizes: Mapping[int, Path]) -> list[Row]:
    """Return the time and the peak memory of each stage, from finished checkouts."""
    times, peaks = [], []
    for stage in STAGES:
        name = "all" if stage == "report" else CATEGORY
        runs: dict[str, dict[str, Any]] = {
            f"N = {n}": read_json(folder / "data" / "runs" / stage / f"{name}.json")
            for n, folder in sizes.items()
        }
        wall_s = {n: round(float(record["wall_s"]), 1) for n, record in runs.items()}
        mib = {n: float(round(record["peak_memory_mib"])) for n, record in runs.items()}
        times.append(Row(f"time of `{stage}`", "", "s", metrics=wall_s))
        peaks.append(Row(f"peak memory of `{stage}`", "flat from 1000 on", "MiB", metrics=mib))
    return [*times, *peaks]
