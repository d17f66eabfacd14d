"""The processes of `train.ranks`: started by torchrun's own launcher, and joined into one group."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.config.params import Params
from pipeline.config.section import ConfigError
from pipeline.terminal import say

log = logging.getLogger("anomalyncd")

_ATTEMPTS = 4
_LOST = 75
"""Exit status of a rank that lost the others (EX_TEMPFAIL): those that are left start again."""
_PATIENCE_S = 20.0
"""How long such a rank waits to be ended, so that the one that failed is seen first."""
_LOCAL_LAUNCH = "ANOMALYNCD_LAUNCHER"


def processes(params: Params) -> int:
    """Return how many processes train: one where nothing is trained."""
    return params.train.ranks if params.predict.classifier == "heads" else 1


def started() -> bool:
    """Tell whether this process is a rank of torchrun."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def gpu_problem(params: Params) -> str | None:
    """Return what keeps the ranks of one machine from its GPUs, if anything."""
    import torch

    name, ranks = params.compute.device, processes(params)
    if ranks == 1 or name == "cpu" or not torch.cuda.is_available():
        return None
    if name.startswith("cuda:"):
        return f"compute.device: {name} is one GPU and train.ranks {ranks}: use cuda"
    if torch.cuda.device_count() < ranks:
        return (
            f"train.ranks: {ranks}, but there are {torch.cuda.device_count()} GPUs here: use so "
            "many, or set compute.device to cpu"
        )
    return None


def launch(params: Params, command: Sequence[str]) -> None:
    """Run ``python *command`` as `train.ranks` processes here, as ``torchrun --standalone`` does.

    Rank 0 has the terminal. Where a rank is killed all start again, up to three times: the training
    goes on after its last kept epoch. Raises `ConfigError` where there are too few GPUs, and
    SystemExit with the status of a rank that failed, whose last words are printed.
    """
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # parts of the launcher take theirs from it
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    problem, ranks = gpu_problem(params), processes(params)
    if problem is not None:
        raise ConfigError(problem)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ[_LOCAL_LAUNCH] = str(os.getpid())
    for attempt in range(_ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="anomalyncd-") as logs:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=ranks,
                run_id=f"anomalyncd-{os.getpid()}-{attempt}",
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                local_addr="localhost",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(
                    log_dir=logs, redirects=dict.fromkeys(range(1, ranks), Std.ALL)
                ),
            )
            try:
                elastic_launch(config, sys.executable)(*command)
                return
            except SignalException as stopped:
                raise SystemExit(128 + stopped.sigval) from None
            except ChildFailedError as error:
                rank, failure = error.get_first_failure()
                if failure.exitcode > 0 and failure.exitcode != _LOST:
                    _last_words(Path(logs), rank)
                    raise SystemExit(failure.exitcode) from None
                reason = f"rank {rank} ended with status {failure.exitcode}"
        if attempt + 1 < _ATTEMPTS:
            log.warning("%s: starting again after the last epoch that was kept", reason)
    raise ConfigError(
        f"train.ranks: {reason}, {_ATTEMPTS} times: give them more memory, or use fewer ranks"
    )


def _last_words(logs: Path, rank: int) -> None:
    """Print what a rank wrote to its log; rank 0 wrote to the terminal."""
    for file in sorted(logs.rglob("stderr.log")):
        if file.parent.name == str(rank):
            say(file.read_text(encoding="utf-8", errors="replace").strip(), err=True)


@contextmanager
def joined(params: Params) -> Iterator[bool]:
    """Join the other ranks of torchrun, if there are any; yield whether this one writes.

    Raises `ConfigError` where torchrun started other than `train.ranks` processes, and SystemExit
    with status 75 where another rank is lost.
    """
    if not started():
        yield True
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank > 0:
        logging.getLogger("anomalyncd").setLevel(logging.ERROR)
    if size != processes(params):
        raise ConfigError(
            f"train.ranks: torchrun started {size} processes, and {processes(params)} is what "
            "train.ranks and predict.classifier ask for"
        )
    if size == 1:
        yield True
        return
    with _group(params):
        from pipeline.mgvit.ranks import LostRankError

        try:
            yield rank == 0
        except LostRankError as error:
            log.info("%s", error)
            time.sleep(_PATIENCE_S)
            raise SystemExit(_LOST) from error


@contextmanager
def _group(params: Params) -> Iterator[None]:
    import torch
    from torch import distributed

    if os.environ.get(_LOCAL_LAUNCH):
        _end_with(int(os.environ[_LOCAL_LAUNCH]))
    on_gpu = params.compute.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.use_deterministic_algorithms(True, warn_only=True)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _end_with(launcher: int) -> None:
    """End this process when its launcher is gone: nobody would wait for what it writes."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os._exit(_LOST)

    threading.Thread(target=watch, daemon=True).start()
