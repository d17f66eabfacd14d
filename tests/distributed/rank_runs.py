"""What ranks run in tests: ``python -m tests.distributed.rank_runs WHAT FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from timm.models.vision_transformer import VisionTransformer

from pipeline.config.params import Params, Predict, Train
from pipeline.distributed.ranks import joined
from pipeline.io.checkpoints import EpochCheckpoints
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.ranks import current_ranks
from pipeline.mgvit.training import TrainingResult
from tests.mgvit.test_ranks import trained
from tests.mgvit.test_training import DIM, SETTINGS, Toy


def main(what: str, folder: Path) -> None:
    """Train as a rank of torchrun; with `kill` rank 1 is killed in epoch 2, once."""
    _train(folder, kill=what == "kill")


def toy_block() -> ClassBlock:
    torch.manual_seed(0)
    return ClassBlock(
        VisionTransformer(
            img_size=8, patch_size=4, embed_dim=DIM, depth=1, num_heads=2, num_classes=0
        )
    )


def as_arrays(result: TrainingResult) -> dict[str, np.ndarray]:
    """Parameters and losses of each epoch."""
    state = result.network.block.state_dict() | result.network.heads.state_dict()
    losses = np.array([epoch.total for epoch in result.history])
    return {name: tensor.numpy() for name, tensor in state.items()} | {"losses": losses}


class Deadly(Toy):
    """Views that kill rank 1 in epoch 2, once."""

    def __init__(self, n_base: int, marker: Path) -> None:
        super().__init__(n_base)
        self.marker = marker

    def pairs(
        self, samples: np.ndarray, epoch: int, rng: np.random.Generator, rows: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if current_ranks().rank == 1 and epoch == 1 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pairs(samples, epoch, rng, rows)


def _train(folder: Path, *, kill: bool) -> None:
    """Train, and keep the state of each epoch."""
    size = int(os.environ["WORLD_SIZE"])
    params = Params(train=Train(ranks=size), predict=Predict(classifier="heads"))
    with joined(params) as writes:
        ranks = current_ranks()
        result = trained(
            toy_block(),
            ranks,
            20,
            replace(SETTINGS, epochs=3),
            source=Deadly(20, folder / "killed") if kill else None,
            checkpoints=EpochCheckpoints(folder / "state", {}, every_s=0),
        )
    assert writes == (ranks.rank == 0)
    save_file(as_arrays(result), folder / f"rank{ranks.rank}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
