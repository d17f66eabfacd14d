"""Blocks as tasks of a Dask cluster (`distributed.Client.submit`).

Two blocks a thread are in flight, the next is submitted as one ends. Dask may run a task twice
(when a worker is lost, or steals it): `pipeline.executor.map_shards` says what a block may do.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import Empty, Queue
from typing import TypeVar

from pipeline.config.params import Compute
from pipeline.config.section import ConfigError
from pipeline.distributed.fingerprint import differences, fingerprint
from pipeline.errors import AnomalyNCDError
from pipeline.progress import Progress, silent

try:
    import distributed

    from pipeline.distributed.cluster import address_of, connected, no_workers, patience_s
except ImportError as error:
    raise ConfigError(
        f"compute.engine: dask needs the extra [dask] ({error}): pip install 'anomalyncd[dask]'"
    ) from error

S = TypeVar("S")
R = TypeVar("R")

_IN_FLIGHT = 2
_POLL_S = 1.0


class LostBlockError(AnomalyNCDError):
    """A block took its workers with it, or the scheduler is gone."""


class Dask:
    """Blocks on the workers of a cluster, which is connected with the first of them."""

    def __init__(self, compute: Compute, stack: ExitStack) -> None:
        self._compute, self._stack = compute, stack
        self._client: distributed.Client | None = None

    @property
    def client(self) -> distributed.Client:
        """Return the connection; it lasts until the `ExitStack` closes."""
        if self._client is None:
            self._client = self._stack.enter_context(connected(self._compute))
        return self._client

    def run(
        self,
        function: Callable[[S, Progress], R],
        shards: Sequence[S],
        items: Sequence[range],
        progress: Progress,
    ) -> list[R]:
        """Run the blocks; of several that fail, the first in order raises, as in a loop."""
        flight = _Flight(self.client, address_of(self._compute), function, shards, items)
        try:
            return flight.run(progress)
        finally:
            flight.cancel()


class _Flight:
    """The blocks of one call: which are submitted, done, failed."""

    def __init__(
        self,
        client: distributed.Client,
        address: str | None,
        function: Callable[[S, Progress], R],
        shards: Sequence[S],
        items: Sequence[range],
    ) -> None:
        self._client, self._address = client, address
        self._function, self._shards, self._items = function, shards, items
        name = getattr(function, "__name__", type(function).__name__)
        self._name = f"{name}-{uuid.uuid4().hex}"
        self._pending: dict[int, distributed.Future] = {}
        self._ended: Queue[int] = Queue()
        self._failed: dict[int, BaseException] = {}
        self._alone_since: float | None = None
        self._threads, self._counted = 0, -math.inf

    def run(self, progress: Progress) -> list[R]:
        """Submit, wait, collect."""
        results: dict[int, R] = {}
        total, done, following = sum(map(len, self._items)), 0, 0
        while len(results) < len(self._shards):
            while following < len(self._shards) and not self._failed and self._has_room():
                self._submit(following)
                following += 1
            if self._failed and not any(i < min(self._failed) for i in self._pending):
                raise self._failed[min(self._failed)]
            index = self._next()
            if index is None:
                continue
            error = self._take(index, results)
            if error is not None:
                self._failed[index] = error
                continue
            done += len(self._items[index])
            progress(done, total)
        return [results[i] for i in range(len(self._shards))]

    def cancel(self) -> None:
        """Forget the blocks that are still in flight."""
        if self._pending and self._client.status == "running":
            self._client.cancel(list(self._pending.values()), force=True)
        self._pending.clear()

    def _has_room(self) -> bool:
        if time.monotonic() - self._counted > _POLL_S:  # it takes a message to the scheduler
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            self._threads = sum(int(worker["nthreads"]) for worker in workers)
            self._counted = time.monotonic()
        return len(self._pending) < _IN_FLIGHT * max(1, self._threads)

    def _submit(self, index: int) -> None:
        future = self._client.submit(
            _checked,
            self._function,
            self._shards[index],
            fingerprint(),
            key=f"{self._name}-{index}",
            pure=False,
            priority=-index,
        )
        self._pending[index] = future
        future.add_done_callback(lambda _, index=index: self._ended.put(index))

    def _next(self) -> int | None:
        """Return a block that ended, or None after a while; raise if there is no worker."""
        try:
            return self._ended.get(timeout=_POLL_S)
        except Empty:
            self._check_workers()
            return None

    def _check_workers(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise self._disconnected()
        if self._client.scheduler_info(n_workers=-1)["workers"]:
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since > patience_s():
            raise no_workers(self._address)

    def _take(self, index: int, results: dict[int, R]) -> BaseException | None:
        """Store the result of a block that ended, or return its error."""
        future = self._pending[index]
        if future.status == "error":
            del self._pending[index]
            return self._error(index, future)
        if future.status in ("cancelled", "lost"):
            return self._disconnected()
        try:
            results[index] = future.result(timeout=_POLL_S)
        except TimeoutError:  # its worker died with the result, and it runs again
            self._ended.put(index)
            self._check_workers()
            return None
        del self._pending[index]
        return None

    def _error(self, index: int, future: distributed.Future) -> BaseException:
        error = future.exception()
        if not isinstance(error, distributed.KilledWorker):
            return error if isinstance(error, BaseException) else RuntimeError(str(error))
        block = self._items[index]
        return LostBlockError(
            f"items {block.start} to {block.stop - 1} ended {error.allowed_failures + 1} workers "
            f"one after the other, the last {error.last_worker.address}: give workers more memory, "
            "or look at their log"
        )

    def _disconnected(self) -> LostBlockError:
        where = self._address or "this machine"
        return LostBlockError(f"the Dask scheduler at {where} is gone: start it and run again")


def _checked(function: Callable[[S, Progress], R], shard: S, expected: dict[str, str]) -> R:
    """Run a block on a worker, which may have joined after the others were checked."""
    found = differences(expected, fingerprint())
    if found:
        worker = distributed.get_worker().address
        raise ConfigError(f"compute.address: the worker {worker} differs: {'; '.join(found)}")
    return function(shard, silent)
