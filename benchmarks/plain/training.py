"""One step of training (section 3.3) with fresh views: every block runs over every view."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.plain.augmentation import augmented_view, batch
from benchmarks.plain.network import frozen_blocks, last_block
from pipeline.mgvit.backbone import normalization
from pipeline.mgvit.heads import MultiHead, Projector, parameter_groups
from pipeline.mgvit.losses import UNLABELLED, total_loss


class Trainer:
    """The network with its optimizer: the last block, projector and heads learn."""

    def __init__(self, vit: VisionTransformer, n_classes: int, *, size: int, seed: int = 0) -> None:
        self.vit = copy.deepcopy(vit)
        self.size = size
        for parameter in self.vit.blocks[-1].parameters():
            parameter.requires_grad_(True)
        generator = torch.Generator().manual_seed(seed)
        dim = int(vit.embed_dim)
        self.projector = Projector(dim, generator=generator)
        self.heads = MultiHead(dim, n_classes, generator=generator)
        modules: list[nn.Module] = [self.vit.blocks[-1], self.projector, self.heads]
        groups = parameter_groups(modules, weight_decay=5e-5)
        self.optimizer = torch.optim.SGD(groups, lr=0.003, momentum=0.9)
        self._mean, self._std = normalization(vit)

    def views(
        self, images: NDArray[np.uint8], masks: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw two views of each crop: (2B, 3, S, S) normalised and masks (2B, S, S)."""
        pairs = [*zip(images, masks, strict=True)] * 2
        return batch(
            [
                augmented_view(image, mask, rng, size=self.size, mean=self._mean, std=self._std)
                for image, mask in pairs
            ]
        )

    def step(
        self,
        images: NDArray[np.uint8],
        masks: NDArray[np.uint8],
        scores: NDArray[np.float32],
        rng: np.random.Generator,
    ) -> float:
        """Learn from one batch of unlabelled crops (B, H, W, 3); return its loss."""
        pixels, greys = self.views(images, masks, rng)
        token = last_block(self.vit, frozen_blocks(self.vit, pixels, greys), greys)
        loss = total_loss(
            self.heads(token),
            self.projector(token),
            torch.from_numpy(scores),
            torch.full((len(scores),), UNLABELLED),
            n_base=0,
            teacher_temperature=0.07,
            student_temperature=0.1,
            contrast_temperature=1.0,
            contrast_temperature_labelled=0.07,
            lambda_=0.3,
            mu=4.0,
            plc_threshold=0.5,
        ).total
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())
