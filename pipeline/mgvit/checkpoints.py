"""The state of a training after an epoch: with it an interrupted run goes on to the same bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.mgvit.network import Network

_MOMENTUM = "momentum."


@dataclass(frozen=True)
class EpochLosses:
    """Means over the batches of one epoch."""

    epoch: int
    lr: float
    total: float
    rep: float
    cls_u: float
    reg: float
    rep_l: float
    cls_l: float
    per_head: tuple[float, ...]
    """L_cls_u + mu L_reg of each head."""


@dataclass(frozen=True)
class TrainingState:
    """All that the next epoch depends on, besides its inputs.

    `tensors` are the parameters and buffers of block, projector and heads, and the optimizer's
    momentum by the number of the parameter; `generator` is ``rng.bit_generator.state``; `history`
    has one entry for each epoch that is done.
    """

    tensors: Mapping[str, NDArray[Any]]
    generator: Mapping[str, Any]
    history: tuple[EpochLosses, ...]


class Checkpoints(Protocol):
    """Keeps the latest state of a training."""

    def load(self) -> TrainingState | None:
        """Return the latest state, or None."""
        ...

    def save(self, state: Callable[[], TrainingState]) -> None:
        """Keep ``state()``, which is taken from the device only then."""
        ...


def state_of(
    network: Network,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    history: Sequence[EpochLosses],
) -> TrainingState:
    """Return the state after the epochs of `history`."""
    tensors = {
        f"{prefix}.{name}": tensor
        for prefix, module in _modules(network)
        for name, tensor in module.state_dict().items()
    }
    for number, values in optimizer.state_dict()["state"].items():
        if values.get("momentum_buffer") is not None:
            tensors[f"{_MOMENTUM}{number}"] = values["momentum_buffer"]
    arrays = {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}
    return TrainingState(arrays, rng.bit_generator.state, tuple(history))


def restore(
    state: TrainingState,
    network: Network,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    """Bring network, optimizer and generator to `state`, in place."""
    tensors = {name: torch.from_numpy(array) for name, array in state.tensors.items()}
    for prefix, module in _modules(network):
        start = f"{prefix}."
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        module.load_state_dict(own)
    momentum = {
        int(name.removeprefix(_MOMENTUM)): {"momentum_buffer": tensor}
        for name, tensor in tensors.items()
        if name.startswith(_MOMENTUM)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": momentum, "param_groups": groups})
    rng.bit_generator.state = dict(state.generator)


def _modules(network: Network) -> tuple[tuple[str, nn.Module], ...]:
    return (
        ("block", network.block),
        ("projector", network.projector),
        ("heads", network.heads),
    )
