"""The engine of section `compute`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipeline.config.params import Compute
from pipeline.executor import Engine, Local


@contextmanager
def engine_of(compute: Compute) -> Iterator[Engine]:
    """Yield what runs the blocks of a stage; a cluster is connected with the first blocks."""
    if compute.engine == "local":
        yield Local()
        return
    from pipeline.distributed.dask_engine import Dask  # here: who stays local needs no Dask

    with ExitStack() as stack:
        yield Dask(compute, stack)
