"""Blocks that come late or kill their worker, and engines that make blocks so: for workers, which
unpickle what is in a module."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.executor import Engine
from pipeline.progress import Progress

Block = Callable[[Any, Progress], Any]


@dataclass(frozen=True)
class Late:
    """A block that waits up to `most_s` first, by a hash of its shard and `seed`."""

    function: Block
    seed: int
    most_s: float

    def __call__(self, shard: object, progress: Progress) -> object:
        digest = hashlib.sha256(pickle.dumps((self.seed, shard))).digest()
        time.sleep(self.most_s * digest[0] / 255)
        return self.function(shard, progress)


@dataclass(frozen=True)
class Killed:
    """A block that kills its worker `before`, `in` or `after` the writing of a shard.

    Once, for the first block that finds no `marker`; without one, every time.
    """

    function: Block
    moment: str
    marker: Path | None = None

    def __call__(self, shard: object, progress: Progress) -> object:
        if not self._first():
            return self.function(shard, progress)
        if self.moment == "before":
            _die()
        if self.moment == "in":  # zarr renames a shard's `.partial` last
            Path.replace = lambda self, target: _die()  # type: ignore[method-assign]
        self.function(shard, progress)
        _die()
        raise AssertionError

    def _first(self) -> bool:
        if self.marker is None:
            return True
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class Through:
    """An engine whose blocks are wrapped by `change`; it counts the calls in `calls`."""

    engine: Engine
    change: Callable[[Block], Block]
    calls: list[str]

    def run(
        self, function: Block, shards: Sequence[Any], items: Sequence[range], progress: Progress
    ) -> list[Any]:
        self.calls.append(function.__name__)
        return self.engine.run(self.change(function), shards, items, progress)


def twice(number: int, progress: Progress) -> int:
    """Return 2 * `number`; 3, 5 and 6 are refused."""
    from pipeline.io.images import ImageError

    if number in (3, 5, 6):
        time.sleep(0.2 if number == 3 else 0)  # 5 and 6 fail first
        raise ImageError(Path(f"{number}.png"), "no image")
    return 2 * number


def own_pid(number: int, progress: Progress) -> int:
    return os.getpid()


def slow(number: int, progress: Progress) -> int:
    time.sleep(30)
    return number


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
