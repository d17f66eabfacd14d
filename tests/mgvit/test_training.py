"""The training loop: batches, schedule, and that every constant does something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.config.params import Train
from pipeline.inference.training_inputs import training_settings
from pipeline.io.checkpoints import EpochCheckpoints
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.checkpoints import Checkpoints, TrainingState
from pipeline.mgvit.network import new_network
from pipeline.mgvit.prediction import predict
from pipeline.mgvit.tokens import RaggedTokens
from pipeline.mgvit.training import (
    TrainingResult,
    TrainingSettings,
    draw_batches,
    learning_rate,
    train,
)

DIM, N_CLASSES, PER_CLASS = 24, 3, 16
CPU = torch.device("cpu")
SETTINGS = training_settings(Train(epochs=2, batch=12, heads=2, seed=1))


class Toy:
    """Samples of three kinds: four tokens around a direction of their kind, noisy views."""

    def __init__(self, n_base: int = 0) -> None:
        rng = np.random.default_rng(0)
        self.kind = np.repeat(np.arange(N_CLASSES), PER_CLASS)
        if n_base:
            self.kind = np.r_[np.arange(n_base) % 2, self.kind]
        self.centres = rng.normal(size=(N_CLASSES, 4, DIM))

    def pairs(
        self, samples: np.ndarray, epoch: int, rng: np.random.Generator, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        kinds = self.kind[np.r_[samples, samples]]
        tokens = self.centres[kinds] + 0.3 * rng.normal(size=(len(kinds), 4, DIM))
        visible = torch.ones(len(rows), 4, dtype=torch.bool)
        return torch.from_numpy(tokens[rows]).float(), visible


@pytest.fixture(scope="module")
def block() -> ClassBlock:
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=DIM, depth=1, num_heads=2, num_classes=0
    )
    return ClassBlock(vit)


def run(
    block: ClassBlock,
    settings: TrainingSettings,
    *,
    n_base: int = 0,
    start: int | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Train with `n_base` base samples from the first weights of the seed `start`, or settings'."""
    n_base_classes = 2 if n_base else 0
    network = new_network(
        block,
        DIM,
        n_base_classes + N_CLASSES,
        heads=settings.heads,
        seed=settings.seed if start is None else start,
    )
    return train(
        Toy(n_base),
        network,
        base_labels=np.arange(n_base) % 2,
        scores=np.linspace(0, 1, N_CLASSES * PER_CLASS, dtype=np.float32),
        n_base_classes=n_base_classes,
        settings=settings,
        device=CPU,
        checkpoints=checkpoints,
    )


def weights(result: TrainingResult) -> Tensor:
    parts = (result.network.block, result.network.projector, result.network.heads)
    return torch.cat([p.detach().flatten() for part in parts for p in part.parameters()])


def test_an_epoch_without_base_draws_every_novel_sample_equally_likely() -> None:
    rng = np.random.default_rng(0)
    batches = draw_batches(0, 10, 4, rng)
    assert [len(b) for b in batches] == [4, 4, 2]
    drawn = np.concatenate([np.concatenate(draw_batches(0, 10, 4, rng)) for _ in range(500)])
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10
    assert abs(counts - 500).max() < 100


def test_base_and_novel_are_equally_likely_and_never_alone() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        for batch in draw_batches(3, 40, 8, rng):
            assert (batch < 3).any()
            assert (batch >= 3).any()
            drawn.append(batch)
    share = float((np.concatenate(drawn) < 3).mean())
    assert 0.47 < share < 0.53
    assert draw_batches(1, 1, 2, rng)


def test_learning_rate_is_a_cosine_from_lr_towards_its_end() -> None:
    settings = replace(SETTINGS, epochs=10, lr=1.0, lr_end_factor=0.1)
    assert learning_rate(0, settings) == 1.0
    assert learning_rate(5, settings) == pytest.approx(0.55)
    assert learning_rate(10, settings) == pytest.approx(0.1)


def test_training_finds_the_kinds_of_a_separable_set(block: ClassBlock) -> None:
    result = run(block, replace(SETTINGS, epochs=60, plc_threshold=None, lr=0.02))
    assert result.history[-1].total < result.history[0].total
    toy = Toy()
    tokens = toy.centres[toy.kind].astype(np.float32).reshape(-1, DIM)
    ragged = RaggedTokens(tokens.astype(np.float16), np.arange(len(toy.kind) + 1) * 4)
    out = predict(
        [ragged], result.network.block, result.network.heads, head=result.best_head, device=CPU
    )
    assert normalized_mutual_info_score(toy.kind, out.logits.argmax(1)) > 0.7
    assert out.attention is None  # these tokens do not say where they were
    np.testing.assert_allclose(np.linalg.norm(out.embeddings, axis=1), 1, rtol=1e-5)


def test_the_best_head_has_the_smallest_last_loss(block: ClassBlock) -> None:
    result = run(block, SETTINGS)
    assert result.best_head == int(np.argmin(result.history[-1].per_head))
    assert len(result.history[0].per_head) == 2


def test_a_seed_decides_everything_and_the_block_is_copied(block: ClassBlock) -> None:
    before = [p.detach().clone() for p in block.parameters()]
    first, again = weights(run(block, SETTINGS)), weights(run(block, SETTINGS))
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(run(block, SETTINGS, start=2)))
    assert not torch.equal(first, weights(run(block, replace(SETTINGS, seed=2), start=1)))
    assert all(torch.equal(a, b) for a, b in zip(before, block.parameters(), strict=True))


def test_the_final_norm_stays_frozen_and_the_block_learns(block: ClassBlock) -> None:
    result = run(block, SETTINGS)
    trained, start = result.network.block.state_dict(), block.state_dict()
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    assert "norm.weight" in start
    assert not {name for name in changed if name.startswith("norm.")}
    assert "attn.qkv.weight" in changed


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch": 16},
        {"mu": 1.0},
        {"views_summed": True},
        {"lambda_": 0.5},
        {"plc_threshold": None},
        {"plc_threshold": 0.9},
        {"student_temperature": 0.2},
        {"teacher_temperature_start": 0.09},
        {"contrast_temperature": 0.5},
        {"lr": 0.01},
        {"lr_end_factor": 0.9},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"teacher_temperature_end": 0.01, "teacher_hold": 1, "teacher_steps": 2},
        {"teacher_hold": 1},
        {"teacher_hold": 1, "teacher_steps": 3},
    ],
    ids=str,
)
def test_every_constant_changes_the_result(block: ClassBlock, change: dict[str, float]) -> None:
    base = SETTINGS
    if "teacher_steps" in change:
        base = replace(base, teacher_hold=1)
    assert not torch.equal(weights(run(block, base)), weights(run(block, replace(base, **change))))


def test_the_labelled_temperature_matters_with_a_base_set(block: ClassBlock) -> None:
    first = run(block, SETTINGS, n_base=8)
    other = run(block, replace(SETTINGS, contrast_temperature_labelled=0.5), n_base=8)
    assert first.history[0].rep_l > 0
    assert first.history[0].cls_l > 0
    assert not torch.equal(weights(first), weights(other))


def test_without_sub_images_there_is_an_error(block: ClassBlock) -> None:
    with pytest.raises(ValueError, match="no sub-image"):
        train(
            Toy(),
            new_network(block, DIM, 2, heads=1, seed=0),
            base_labels=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
            n_base_classes=0,
            settings=SETTINGS,
            device=CPU,
        )


@pytest.mark.parametrize("n_base", [0, 20])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    block: ClassBlock, tmp_path: Path, n_base: int
) -> None:
    """Killed in epoch 3 of 4: losses and parameters are those of an unbroken run."""
    settings = replace(SETTINGS, epochs=4)
    unbroken = run(block, settings, n_base=n_base)

    class Kept(EpochCheckpoints):
        def __init__(self) -> None:
            super().__init__(tmp_path, {"inputs": n_base}, every_s=0)

        def save(self, state: Callable[[], TrainingState]) -> None:
            super().save(state)
            if len(state().history) == 2 and not (tmp_path / "broken").exists():
                (tmp_path / "broken").touch()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(block, settings, n_base=n_base, checkpoints=Kept())
    state = Kept().load()
    assert state is not None
    assert len(state.history) == 2
    resumed = run(block, settings, n_base=n_base, checkpoints=Kept())
    assert resumed.history == unbroken.history
    assert torch.equal(weights(resumed), weights(unbroken))
    assert EpochCheckpoints(tmp_path, {"inputs": "others"}).load() is None


def test_a_damaged_state_is_no_state(block: ClassBlock, tmp_path: Path) -> None:
    kept = EpochCheckpoints(tmp_path, {}, every_s=0)
    run(block, SETTINGS, checkpoints=kept)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert kept.load() is None
    kept.remove()
    assert not tmp_path.exists()
