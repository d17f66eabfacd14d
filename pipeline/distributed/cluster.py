"""Connections to Dask: a scheduler that runs somewhere, or a cluster on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import distributed

from pipeline.config.params import Compute
from pipeline.config.section import ConfigError
from pipeline.distributed.fingerprint import differences, fingerprint

_HERE = {
    "distributed.worker.memory.target": False,  # blocks return little: nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}
_PATIENCE = "300s"
"""How long a stage waits for a worker, unless Dask's own `no-workers-timeout` says otherwise."""


def address_of(compute: Compute) -> str | None:
    """Return the scheduler's address or file; None: there is none, use this machine."""
    given = compute.address or dask.config.get("scheduler-address", None)
    return None if given is None else str(given)


def patience_s() -> float:
    """Return how many seconds a stage may be without workers."""
    given = dask.config.get("distributed.scheduler.no-workers-timeout", None)
    return float(dask.utils.parse_timedelta(given or _PATIENCE))


@contextmanager
def connected(compute: Compute) -> Iterator[distributed.Client]:
    """Yield a client with at least one worker, all of this machine's kind.

    Raises `ConfigError` where no scheduler answers, no worker comes, or a worker differs.
    """
    address = address_of(compute)
    with _cluster(compute) if address is None else _scheduler(address) as client:
        try:
            client.wait_for_workers(1, timeout=patience_s())
        except TimeoutError as error:
            raise no_workers(address) from error
        check_workers(client, fingerprint())
        client.forward_logging("anomalyncd", logging.INFO)
        yield client


def no_workers(address: str | None) -> ConfigError:
    """Return the error of a cluster without workers."""
    return ConfigError(
        f"compute.address: no worker at {address or 'this machine'} for {patience_s():g} s: start "
        "some (dask worker ADDRESS), or set compute.engine to local"
    )


def check_workers(client: distributed.Client, own: dict[str, str]) -> None:
    """Raise `ConfigError` if a worker has another `fingerprint` than `own`."""
    for worker, other in sorted(client.run(fingerprint).items()):
        found = differences(own, other)
        if found:
            raise ConfigError(
                f"compute.address: the worker {worker} is not like this machine "
                f"({'; '.join(sorted(found))}): bits would differ; use workers of one kind"
            )


@contextmanager
def _cluster(compute: Compute) -> Iterator[distributed.Client]:
    workers = compute.workers or _cores()
    with (
        dask.config.set(_HERE),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextmanager
def _scheduler(address: str) -> Iterator[distributed.Client]:
    try:
        if address.endswith(".json"):
            client = distributed.Client(scheduler_file=address)
        else:
            client = distributed.Client(address)
    except (OSError, ValueError) as error:  # a timeout is an OSError; ValueError: not an address
        raise ConfigError(
            f"compute.address: no Dask scheduler answers at {address} ({error}): start one (dask "
            "scheduler), or set compute.engine to local"
        ) from error
    with client:
        yield client


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
