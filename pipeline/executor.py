"""Blocks of a stage's items, and what runs them: this process, or an engine that `using` names.

Blocks follow from the data alone, never from the number of workers, and every engine runs the same
function over the same blocks: so artifacts are the same bytes wherever they are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from pipeline.progress import Progress, silent

S = TypeVar("S")
R = TypeVar("R")

_MOST_BLOCKS = 512
_LARGEST = 16


class Engine(Protocol):
    """Runs a function over the blocks of a stage."""

    def run(
        self,
        function: Callable[[S, Progress], R],
        shards: Sequence[S],
        items: Sequence[range],
        progress: Progress,
    ) -> list[R]:
        """Return ``function(shard, progress)`` of each shard, in order; see `map_shards`."""
        ...


class Local:
    """Blocks one after the other, in this process."""

    def run(
        self,
        function: Callable[[S, Progress], R],
        shards: Sequence[S],
        items: Sequence[range],
        progress: Progress,
    ) -> list[R]:
        """Run the blocks in a loop; progress counts the items of all blocks."""
        total, done = sum(map(len, items)), 0
        results = []
        for shard, block in zip(shards, items, strict=True):
            results.append(function(shard, _from(progress, done, total)))
            done += len(block)
            progress(done, total)
        return results


_engine: ContextVar[Engine] = ContextVar("engine", default=Local())  # noqa: B039


@contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Let `map_shards` run on `engine` inside the context."""
    token = _engine.set(engine)
    try:
        yield
    finally:
        _engine.reset(token)


def distributed() -> bool:
    """Tell whether blocks may run in other processes."""
    return not isinstance(_engine.get(), Local)


def blocks(total: int, *, shard: int, batch: int = 1) -> list[range]:
    """Cut 0 to `total` at multiples of `shard` and `batch`, by the total alone.

    A block holds whole shards of an array, which one task writes, and whole batches of a network.
    It has one to 16 times their least common multiple, so that there are about 512 blocks or fewer
    until blocks are at their largest.

    Examples
    --------
    >>> blocks(10, shard=4)
    [range(0, 4), range(4, 8), range(8, 10)]
    """
    unit = math.lcm(shard, batch)
    size = unit * min(_LARGEST, max(1, -(-total // (unit * _MOST_BLOCKS))))
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def map_shards(
    function: Callable[[S, Progress], R],
    shards: Sequence[S],
    *,
    items: Sequence[range],
    progress: Progress = silent,
) -> list[R]:
    """Apply a function to every shard of a stage's work, wherever `using` says.

    Parameters
    ----------
    function
        A function of a module. It may run twice or in another process, so it depends on its shard
        alone, writes whole shards of arrays, the same bytes each time, and returns little. Its
        second argument reports items done within the block.
    shards
        What each block needs: frozen dataclasses that can be pickled, with absolute paths.
    items
        The items of each block.
    progress
        Called with the items done of all.

    Returns
    -------
    Results in the order of `shards`. Raises what the first block that failed raised.
    """
    if len(shards) != len(items):
        raise ValueError(f"{len(shards)} shards and {len(items)} blocks of items")
    engine = _engine.get() if len(shards) > 1 else Local()  # one block is worth no cluster
    return engine.run(function, shards, items, progress)


def _from(progress: Progress, done: int, total: int) -> Progress:
    """Return a `Progress` of a block that begins after `done` of `total` items."""
    return lambda n, _: progress(done + n, total)
