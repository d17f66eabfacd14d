"""Progress of long computations: what compute modules report to, and how edges show it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.terminal import printable

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)``; both count the same unit."""

log = logging.getLogger("anomalyncd")


def silent(done: int, total: int) -> None:
    """Report nothing: the default of every compute function."""


@contextmanager
def track(label: str, *, every_s: float = 10.0) -> Iterator[Progress]:
    """Yield a `Progress`: a bar on a terminal, elsewhere a log line every `every_s` seconds."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bars

        with Bars(console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(printable(label), total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
        return

    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            log.info("%s: %d of %d", label, done, total)

    yield report
