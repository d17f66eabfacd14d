"""Training by several ranks, here threads that exchange tensors: the objective of one process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.checkpoints import Checkpoints
from pipeline.mgvit.network import new_network
from pipeline.mgvit.ranks import Ranks, RanksDifferError, current_ranks
from pipeline.mgvit.training import TokenSource, TrainingResult, TrainingSettings, train
from tests.mgvit.test_training import (
    CPU,
    DIM,
    N_CLASSES,
    PER_CLASS,
    SETTINGS,
    Toy,
    block,
    weights,
)

__all__ = ["block"]


class Board:
    """Where `size` threads lay a tensor each, and take all of them."""

    def __init__(self, size: int) -> None:
        self.barrier, self.parts = threading.Barrier(size, timeout=60), [torch.empty(0)] * size


@dataclass(frozen=True)
class Threads(Ranks):
    board: Board = field(default_factory=lambda: Board(1))

    def _gather(self, own: Tensor) -> list[Tensor]:
        self.board.parts[self.rank] = own.detach().clone()
        self.board.barrier.wait()
        parts = [part.clone() for part in self.board.parts]
        self.board.barrier.wait()
        return parts


def trained(
    block: ClassBlock,
    ranks: Ranks,
    n_base: int,
    settings: TrainingSettings,
    source: TokenSource | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    n_base_classes = 2 if n_base else 0
    return train(
        source or Toy(n_base),
        new_network(block, DIM, n_base_classes + N_CLASSES, heads=2, seed=1),
        base_labels=np.arange(n_base) % 2,
        scores=np.linspace(0, 1, N_CLASSES * PER_CLASS, dtype=np.float32),
        n_base_classes=n_base_classes,
        settings=settings,
        device=CPU,
        checkpoints=checkpoints,
        ranks=ranks,
    )


def together(
    block: ClassBlock, size: int, n_base: int, settings: TrainingSettings
) -> list[TrainingResult]:
    """The results of `size` ranks."""
    board = Board(size)
    with ThreadPoolExecutor(size) as pool:
        jobs = [
            pool.submit(trained, block, Threads(rank, size, board), n_base, settings)
            for rank in range(size)
        ]
        return [job.result() for job in jobs]


@pytest.mark.parametrize(("size", "n_base", "batch"), [(2, 0, 12), (3, 20, 12), (3, 0, 47)])
def test_ranks_train_what_one_process_trains(
    block: ClassBlock, size: int, n_base: int, batch: int
) -> None:
    """Within 1e-5, ranks equal to the last bit, and so a second run.

    Of 48 samples a batch of 47 leaves one, whose two rows the third rank has no share of.
    """
    settings = replace(SETTINGS, batch=batch)
    alone = trained(block, Ranks(), n_base, settings)
    ranks = together(block, size, n_base, settings)
    again = together(block, size, n_base, settings)[0]
    for other in (*ranks[1:], again):
        assert torch.equal(weights(other), weights(ranks[0]))
        assert other.history == ranks[0].history
    change = weights(alone) - weights(ranks[0])
    assert float(change.norm() / weights(alone).norm()) < 1e-5
    for ours, theirs in zip(ranks[0].history, alone.history, strict=True):
        assert ours.total == pytest.approx(theirs.total, rel=1e-5)


@given(n=st.integers(1, 40), size=st.integers(1, 9))
def test_shares_are_all_rows_in_order(n: int, size: int) -> None:
    shares = [Ranks(rank, size).share(n) for rank in range(size)]
    longest = len(shares[0])
    full = [share for rank, share in enumerate(shares) if rank * longest < n]
    np.testing.assert_array_equal(np.concatenate(full), np.arange(n))
    assert all(share.tolist() == [0] for share in shares[len(full) :])


def test_gradients_are_added_in_the_order_of_ranks() -> None:
    """1 + 2^-24 + 2^-24 is 1 in float32 and 2^-24 + 2^-24 + 1 is not."""
    given = [1.0, 2.0**-24, 2.0**-24]
    board, sums = Board(3), [0.0] * 3

    def add(rank: int) -> None:
        module = nn.Linear(1, 1, bias=False)
        module.weight.grad = torch.full((1, 1), given[rank])
        Threads(rank, 3, board).add_gradients(module)
        sums[rank] = float(module.weight.grad)

    for values, expected in ((given, 1.0), (given[::-1], 1 + 2.0**-23)):
        given = values
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(add, range(3)))
        assert sums == [expected] * 3


def test_ranks_of_different_states_stop() -> None:
    board = Board(2)

    def agree(rank: int) -> None:
        Threads(rank, 2, board).agree(bytes([rank]), CPU)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(agree, rank) for rank in range(2)]
        for job in jobs:
            with pytest.raises(RanksDifferError, match=r"the state of rank \d"):
                job.result()


def test_a_process_by_itself_is_the_only_rank() -> None:
    assert current_ranks() == Ranks(0, 1)
    token = torch.ones(2, 3)
    assert Ranks().whole(token, 2) is token
