"""Kill the stages at random moments and compare what a rerun gives with an unbroken run.

    python -m benchmarks.kills --kills 200 --seed 0

A tiny set is run once without a break. Then every attempt runs the stages in a child process and
kills it (SIGKILL), in turn by the clock and at a file operation below `data/` (opening, renaming,
removing, making a folder), which hits the short moments between renames. After each kill, what a
stage has written must be absent or whole, byte by byte; the next attempt goes on with the stage
that was killed, as `dvc repro` does. Every other run begins with the artifacts of a run with
another seed, which must survive until they are replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.config.signature import arguments
from pipeline.demo.generate import generate
from pipeline.io.paths import ArtifactPaths

CATEGORY = "metal"
STAGES = (
    "backbone", "base", "manifest", "maps", "mebin", "crops", "classes",
    "views", "train", "predict", "shape", "merge", "evaluate", "report",
)  # fmt: skip
_WHOLE = {"backbone", "base", "report"}
_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}

Tree = Mapping[str, str]


@dataclass
class Outcome:
    """What happened: kills by stage, complete runs, and everything that was not as it should be."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    faults: list[str] = field(default_factory=list)


def write_set(root: Path) -> None:
    """Write 6 queries and 2 references of the demo's metal, 48 x 64 pixels, with their masks."""
    for sample in generate(CATEGORY, good=2, per_defect=1, normals=2, seed=0):
        folder = root / CATEGORY / sample.split / sample.label
        folder.mkdir(parents=True, exist_ok=True)
        image = cv2.resize(sample.image, (64, 48), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{sample.name}.png"), image)
        if sample.mask.any():
            masks = root / CATEGORY / "ground_truth" / sample.label
            masks.mkdir(parents=True, exist_ok=True)
            mask = cv2.resize(sample.mask.astype(np.uint8) * 255, (64, 48))
            cv2.imwrite(str(masks / f"{sample.name}_mask.png"), mask)


def settings(root: Path, *, seed: int) -> Params:
    """Return parameters of a run in which heads are trained, so that every stage has work."""
    (root / "none").mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "dataset": {"root": str(root / "images"), "categories": [CATEGORY]},
        "backbone": {"source": "random", "name": "test_vit.r160_in1k"},
        "manifest": {"normal_root": str(root / "none")},
        "maps": {
            "method": "nearest",
            "runs": [[3, 1]],
            "resolution": 64,
            "aspect": 1.0,
            "map_size": 64,
            "seed": seed,
        },
        "mebin": {"erode_px": 1, "tau": 3},
        "base": {"root": str(root / "none")},
        "views": {"image_size": 64, "count": 2, "mask_layers": 2, "seed": seed},
        "train": {"epochs": 2, "batch": 4, "teacher_steps": 2, "teacher_hold": 1, "seed": seed},
        "predict": {"classifier": "heads", "layers": [3], "seed": seed},
        "evaluate": {"bootstrap": 20},
        "report": {"gallery": 1, "examples": 1},
        "compute": {"device": "cpu"},
    }
    return parse_params(content)


def run_stage(stage: str, params: Params, paths: ArtifactPaths) -> None:
    """Run one stage, as the command line does."""
    run = importlib.import_module(f"stages.{stage}").run
    given = {} if stage in _WHOLE else {"category": CATEGORY}
    run(paths=paths, **given, **arguments(run, params))


def written(data: Path, stage: str) -> Tree:
    """Return the SHA-256 of every file of a stage, temporaries left out; the report by its size.

    (The report names the time of day and the commit.)
    """
    folder = data / stage
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            text = path.read_bytes()
            if stage == "report":
                text = b"whole" if text.rstrip().endswith(b"</html>") else text
            found[name] = hashlib.sha256(text).hexdigest()
    return found


def leftovers(data: Path) -> list[str]:
    """Return temporaries that nobody has removed."""
    found = [path for kind in ("*.tmp", "*.old") for path in data.rglob(f".{kind}")]
    return sorted(path.relative_to(data).as_posix() for path in found)


def _child(
    start: int, params: Params, data: Path, progress: int, at_event: int | None
) -> None:  # pragma: no cover - ends by a signal
    """Run the stages from `start`; tell their numbers; kill this process at a file operation."""
    if at_event is not None:
        sys.addaudithook(_killer(str(data), at_event))
    for k in range(start, len(STAGES)):
        os.write(progress, bytes([k]))
        run_stage(STAGES[k], params, ArtifactPaths(data))
    os.write(progress, bytes([len(STAGES)]))


def _killer(below: str, at_event: int) -> Callable[[str, tuple[Any, ...]], None]:
    seen = 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _FILE_EVENTS and given and str(given[0]).startswith(below):
            seen += 1
            if seen == at_event:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def attempt(
    start: int, params: Params, data: Path, *, seconds: float | None, at_event: int | None = None
) -> tuple[int, bool]:
    """Run the stages from number `start` in a child, killed after `seconds` or at a file operation.

    Returns
    -------
    The number of the stage that was reached (that of all stages at the end), and whether the child
    was killed. Raises RuntimeError where a stage fails by itself.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        status = 1
        try:
            os.close(read)
            _child(start, params, data, write, at_event)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    end = time.monotonic() + (3600 if seconds is None else seconds)
    status = 0
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    else:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as stream:
        told = stream.read()
    reached = told[-1] if told else start
    killed = os.WIFSIGNALED(status)
    if not killed and os.WEXITSTATUS(status):
        raise RuntimeError(f"the stage {STAGES[reached]} failed by itself")
    return reached, killed


@contextmanager
def prepared(work: Path) -> Iterator[tuple[Params, list[Tree], list[Tree], float]]:
    """Yield parameters, what two unbroken runs (of other seeds) write by stage, and the seconds."""
    write_set(work / "images")
    for stage in STAGES:  # here, and not in every child
        importlib.import_module(f"stages.{stage}")
    trees = []
    for seed in (1, 0):
        started = time.monotonic()
        data = work / f"unbroken{seed}"
        attempt(0, settings(work, seed=seed), data, seconds=None)
        trees.append([written(data, stage) for stage in STAGES])
    yield settings(work, seed=0), trees[1], trees[0], time.monotonic() - started


def check(data: Path, allowed: list[list[Tree]], when: str, outcome: Outcome) -> None:
    """Note every stage whose files are neither absent nor those of an unbroken run."""
    for stage, trees in zip(STAGES, allowed, strict=True):
        found = written(data, stage)
        if stage in {"manifest", "classes", "evaluate", "backbone", "report", "mebin", "base"}:
            known = {pair for tree in trees for pair in tree.items()}  # file by file
            whole = set(found.items()) <= known
        else:
            whole = not found or found in trees
        if not whole:
            outcome.faults.append(f"{when}: {stage} holds what no unbroken run has")


def kill_runs(work: Path, kills: int, seed: int) -> Outcome:
    """Kill `kills` times and return what was found."""
    rng, outcome = random.Random(seed), Outcome()
    with prepared(work) as (params, new, old, length):
        allowed = [[a, b] for a, b in zip(new, old, strict=True)]
        data, start = work / "data", 0
        while sum(outcome.kills.values()) < kills or start:
            wanted = sum(outcome.kills.values()) < kills
            by_clock = rng.random() < 0.5
            reached, killed = attempt(
                start,
                params,
                data,
                seconds=rng.uniform(0, length) if wanted and by_clock else None,
                at_event=rng.randrange(1, 300) if wanted and not by_clock else None,
            )
            if killed:
                outcome.kills[STAGES[min(reached, len(STAGES) - 1)]] += 1
                check(data, allowed, f"kill {sum(outcome.kills.values())}", outcome)
                start = min(reached, len(STAGES) - 1)
                continue
            outcome.runs += 1
            check(data, [[tree] for tree in new], f"run {outcome.runs}", outcome)
            if [written(data, stage) for stage in STAGES] != new:
                outcome.faults.append(f"run {outcome.runs}: not the unbroken run")
            outcome.faults += [f"run {outcome.runs}: left {name}" for name in leftovers(data)]
            start = 0
            shutil.rmtree(data)
            if outcome.runs % 2:
                shutil.copytree(work / "unbroken1", data)
        outcome.faults += together(work, params, new)
    return outcome


def together(work: Path, params: Params, new: list[Tree]) -> list[str]:
    """Run two processes in one workspace and then a third alone; return what is wrong then.

    Each of the two may fail where the other has just replaced what it reads.
    """
    data = work / "shared"
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(_tried, params, data) for _ in range(2)]:
            future.result()
    attempt(0, params, data, seconds=None)
    wrong = [s for s, tree in zip(STAGES, new, strict=True) if written(data, s) != tree]
    return [*(f"two at once: {stage} differs" for stage in wrong), *leftovers(data)]


def _tried(params: Params, data: Path) -> None:
    with suppress(RuntimeError):
        attempt(0, params, data, seconds=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        outcome = kill_runs(Path(work), given.kills, given.seed)
    total = sum(outcome.kills.values())
    by_stage = ", ".join(f"{stage} {outcome.kills[stage]}" for stage in STAGES)
    print(f"{total} kills ({by_stage}), {outcome.runs} complete runs, {len(outcome.faults)} faults")
    for fault in outcome.faults:
        print(f"  {fault}")
    if outcome.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
