"""Two epochs of `train` against plain SGD written out by hand, step by step.

The source notes which samples were drawn; each has its own tokens, label and score. The loss is
`total_loss`, which has its own oracles; everything around it is repeated here.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.config.params import Train
from pipeline.inference.training_inputs import training_settings
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.losses import UNLABELLED, total_loss
from pipeline.mgvit.network import Network, new_network
from pipeline.mgvit.training import train

DIM, N_BASE, N_NOVEL, CLASSES = 24, 6, 9, 4
LABELS = np.array([0, 1, 1, 0, 1, 0])
SCORES = np.linspace(0.05, 0.95, N_NOVEL, dtype=np.float32) ** 2
SETTINGS = replace(
    training_settings(Train()),
    **{"epochs": 2, "batch": 8, "heads": 2, "seed": 5, "lr": 0.05, "lr_end_factor": 0.1},
    **{"weight_decay": 0.01, "teacher_steps": 2, "teacher_hold": 1, "plc_threshold": 0.6},
)


class Recorder:
    """Two views of each sample: tokens of its own; `drawn` are the samples in order."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.tokens = torch.randn(2, N_BASE + N_NOVEL, 3, DIM, generator=generator)
        self.drawn: list[tuple[int, np.ndarray]] = []

    def pairs(
        self, samples: np.ndarray, epoch: int, rng: np.random.Generator, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        del rng
        self.drawn.append((epoch, samples.copy()))
        assert rows.tolist() == list(range(2 * len(samples)))
        return views_of(self.tokens, samples)


def views_of(tokens: Tensor, samples: np.ndarray) -> tuple[Tensor, Tensor]:
    pair = torch.cat([tokens[0, samples], tokens[1, samples]])
    return pair, torch.ones(pair.shape[:2], dtype=torch.bool)


def start() -> Network:
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=DIM, depth=1, num_heads=2, num_classes=0
    )
    return new_network(ClassBlock(vit), DIM, CLASSES, heads=SETTINGS.heads, seed=7)


def trainable(network: Network) -> dict[str, Tensor]:
    """The parameters that learn: all but the final norm of the block."""
    parts = {"block": network.block, "projector": network.projector, "heads": network.heads}
    return {
        f"{part}.{name}": parameter
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
        if not (part == "block" and name.startswith("norm."))
    }


def by_hand(network: Network, tokens: Tensor, drawn: list[tuple[int, np.ndarray]]) -> None:
    """Train in place on the samples that were drawn, with the numbers of `SETTINGS`."""
    lr = [0.05, 0.005 + 0.045 * (1 + math.cos(math.pi / 2)) / 2]
    teacher = [0.07, 0.04]
    parameters = trainable(network)
    velocity: dict[str, Tensor] = {}
    for epoch, samples in drawn:
        token = network.block(*views_of(tokens, samples))
        novel = samples - N_BASE
        labels = [LABELS[s] if s < N_BASE else UNLABELLED for s in samples]
        scores = [SCORES[n] if n >= 0 else 1.0 for n in novel]
        loss = total_loss(
            network.heads(token),
            network.projector(token),
            torch.tensor(scores, dtype=torch.float32),
            torch.tensor(labels),
            n_base=2,
            teacher_temperature=teacher[epoch],
            student_temperature=0.1,
            contrast_temperature=1.0,
            contrast_temperature_labelled=0.07,
            lambda_=0.3,
            mu=4.0,
            plc_threshold=0.6,
        ).total
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                decayed = parameter.ndim > 1 and not name.endswith("bias")
                step = gradient + (0.01 * parameter if decayed else 0)
                velocity[name] = 0.9 * velocity[name] + step if name in velocity else step
                parameter -= lr[epoch] * velocity[name]


def test_two_epochs_are_plain_sgd() -> None:
    source, network = Recorder(), start()
    expected = copy.deepcopy(network)
    result = train(
        source,
        network,
        base_labels=LABELS,
        scores=SCORES,
        n_base_classes=2,
        settings=SETTINGS,
        device=torch.device("cpu"),
    )
    epochs = [epoch for epoch, _ in source.drawn]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1}
    assert len(epochs) >= 3
    assert [row.lr for row in result.history] == pytest.approx([0.05, 0.0275])
    by_hand(expected, source.tokens, source.drawn)
    before = trainable(start())
    for name, parameter in trainable(result.network).items():
        assert not torch.equal(parameter, before[name]) or name == "block.attn.qkv.bias", name
        torch.testing.assert_close(parameter, trainable(expected)[name], rtol=1e-4, atol=1e-6)
