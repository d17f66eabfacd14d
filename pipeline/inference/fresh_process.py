"""Run a function in a process of its own, and measure what it takes."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.errors import AnomalyNCDError

T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """A value with the peak memory of the process that computed it; MiB."""

    value: T
    host_mib: float
    gpu_mib: float | None


class NotComputedError(AnomalyNCDError):
    """The process took too long, was killed, or refused; the message says which."""


def in_fresh_process(
    function: Callable[..., T], arguments: tuple[Any, ...], *, limit_s: float
) -> Measured[T]:
    """Return what a module-level function gives, called in a process of its own.

    The process is forked from a server that has only imported the function's module, which took
    longer than many of the functions do, and has computed nothing.

    Raises NotComputedError after `limit_s` seconds, for a process that dies, and with its message
    for a ValueError of the function or an error that a user can mend. Others are raised as they
    are.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            raise NotComputedError(f"took more than {limit_s / 60:.0f} minutes")
        outcome = receiver.recv()
    except EOFError:
        process.join()
        raise NotComputedError(f"its process ended with status {process.exitcode}") from None
    finally:
        process.terminate()
        process.join()
        receiver.close()
    if isinstance(outcome, ValueError | AnomalyNCDError):
        raise NotComputedError(str(outcome))
    if isinstance(outcome, BaseException):
        raise outcome
    result: Measured[T] = outcome
    return result


def _serve(sender: Connection, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    try:
        value = function(*arguments)
        sender.send(Measured(value, _host_mib(), _gpu_mib()))
    except Exception as error:
        sender.send(error)
    sender.close()


def _host_mib() -> float:
    """Return the peak resident memory of this process.

    Of /proc where there is one: on Linux `ru_maxrss` starts at that of the parent.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return round(kib / 1024, 1)
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak * (1 if sys.platform == "darwin" else 1024) / 2**20, 1)


def _gpu_mib() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return round(float(torch.cuda.max_memory_allocated()) / 2**20, 1)


def timed(function: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """Return what a function gives, and the seconds it took."""
    start = time.perf_counter()
    value = function(*arguments)
    return value, time.perf_counter() - start
