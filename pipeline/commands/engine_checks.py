"""Checks of `compute.engine` (a cluster answers, is of one kind and not open) and `train.ranks`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from pipeline.commands.checks import Line
from pipeline.config.params import Params
from pipeline.config.section import ConfigError
from pipeline.distributed.ranks import gpu_problem, processes
from pipeline.errors import AnomalyNCDError

_LOOPBACK = ("tcp://127.", "tcp://localhost", "tcp://[::1]", "inproc://")


def check_engine(params: Params) -> Iterator[Line]:
    """Say where stages run; nothing is connected unless a cluster is named."""
    compute = params.compute
    if compute.engine == "local":
        return
    if find_spec("distributed") is None:
        yield Line("error", "engine", "dask is not installed", "pip install 'anomalyncd[dask]'")
        return
    from pipeline.distributed.cluster import address_of, connected

    address = address_of(compute)
    if address is None:
        workers = compute.workers or "one a core"
        yield Line("ok", "engine", f"dask on this machine, workers: {workers}")
        return
    try:
        with connected(compute) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
            threads = sum(worker["nthreads"] for worker in workers)
            where = str(client.scheduler.address)
            alike = "versions, code and processors as here"
            yield Line("ok", "engine", f"dask at {where}, {threads} threads of workers, {alike}")
    except (ConfigError, AnomalyNCDError) as error:
        yield Line("error", "engine", str(error))
        return
    if is_open(where):
        yield Line(
            "warning",
            "engine",
            f"{where} is not encrypted, and whoever reaches it runs code on the workers",
            "use a tls:// address, or a network of your own",
        )


def check_ranks(params: Params) -> Iterator[Line]:
    """Say by how many processes `train` trains, if by several."""
    ranks = params.train.ranks
    if ranks == 1:
        return
    if processes(params) == 1:
        finding = (
            f"{ranks} ranks, but predict.classifier {params.predict.classifier} trains nothing"
        )
        yield Line("warning", "ranks", finding, "set train.ranks to 1")
        return
    problem = gpu_problem(params)
    if problem is not None:
        yield Line("error", "ranks", problem)
        return
    cores = os.cpu_count() or 1
    if ranks > cores:
        finding = f"{ranks} ranks on {cores} cores"
        yield Line("warning", "ranks", finding, f"set train.ranks to {cores} or less")
        return
    yield Line("ok", "ranks", f"{ranks} processes share each batch of the training")


def is_open(address: str) -> bool:
    """Tell whether others could reach a scheduler at this address, without a certificate."""
    return not address.startswith(("tls://", *_LOOPBACK))
