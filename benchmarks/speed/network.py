"""Views, the masked network, and training."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.plain import augmentation as plain_augmentation
from benchmarks.plain import network as plain_network
from benchmarks.plain.training import Trainer
from benchmarks.speed.harness import Row, Timing, check, interleaved, peak_mb
from benchmarks.speed.inputs import Inputs
from pipeline.config.params import Train
from pipeline.inference.training_inputs import training_settings
from pipeline.io.devices import Autocast
from pipeline.mgvit.attention import ClassBlock, frozen_tokens, patch_keep, visible_keys
from pipeline.mgvit.augmentation import Augmentations, augmented_view, plain_view, view_rng
from pipeline.mgvit.backbone import normalization
from pipeline.mgvit.network import new_network
from pipeline.mgvit.tokens import (
    CachedViews,
    FrozenBlocks,
    Masking,
    RaggedTokens,
    concatenate,
    iter_augmented,
    iter_plain,
)
from pipeline.mgvit.training import train

CPU = torch.device("cpu")
VIEWS = 6
EPOCHS = 50
BATCH = 32


def _normalised(images: list[NDArray[np.uint8]], mean: Tensor, std: Tensor) -> Tensor:
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return (pixels - mean * 255) / (std * 255)  # (B, 3, S, S)


def augmentation(inputs: Inputs, *, limit: int, repeats: int) -> Row:
    """Time a view of a crop, up to the normalised tensor."""
    images, masks = inputs.crops(limit)
    vit = inputs.vit()
    size = int(vit.patch_embed.img_size[0])
    mean, std = normalization(vit)
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    pairs = list(zip(images, masks, strict=True))

    def plain() -> tuple[Tensor, Tensor]:
        return plain_augmentation.batch(
            [
                plain_augmentation.augmented_view(
                    image, mask, view_rng(0, k, 0), size=size, mean=mean, std=std
                )
                for k, (image, mask) in enumerate(pairs)
            ]
        )

    def ours() -> tuple[Tensor, Tensor]:
        views = [
            augmented_view(image, mask, view_rng(0, k, 0), size=size, augmentations=Augmentations())
            for k, (image, mask) in enumerate(pairs)
        ]
        pixels = _normalised([view for view, _ in views], shift, scale)
        return pixels, torch.from_numpy(np.stack([mask for _, mask in views]))

    (a, mask_a), (b, mask_b) = plain(), ours()
    levels = float(((a - b).abs() * scale * 255).mean())  # posterization makes steps of up to 8
    check(levels < 3, f"augmentation: views differ by {levels:.2f} of 255 levels on average")
    check(float((mask_a - mask_b).abs().max()) < 0.02, "augmentation: masks differ")
    timing = interleaved(plain, ours, repeats=repeats, per=len(pairs))
    return Row(
        f"augmentation, {len(pairs)} crops of {inputs.name}",
        ">= 8x",
        "view",
        timing.ratio,
        timing.plain_s,
        timing.ours_s,
        repeats,
        peak_mb(plain),
        peak_mb(ours),
        f"mean difference {levels:.2f} of 255 levels (rounding of each 8-bit step)",
        ours_cpu_s=timing.ours_cpu_s,
    )


@dataclass(frozen=True)
class Ours:
    """The network as the pipeline runs it."""

    blocks: FrozenBlocks
    last: ClassBlock

    @torch.inference_mode()
    def class_tokens(self, images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> Tensor:
        """Return the class tokens (M, D) of the plain views of crops."""
        parts = []
        for piece in iter_plain(self.blocks, images, masks, batch=BATCH):
            parts.append(self.last(*piece.gather(np.arange(len(piece.offsets) - 1))))
        return torch.cat(parts)


def our_network(inputs: Inputs) -> Ours:
    """Return the network of a category in float32."""
    vit = inputs.vit()
    size = int(vit.patch_embed.img_size[0])
    blocks = FrozenBlocks(
        vit, Masking(image_size=size), device=CPU, autocast=Autocast(CPU, "float32")
    )
    return Ours(blocks, ClassBlock(vit, fold_layerscale=True).eval())


@torch.inference_mode()
def plain_tokens(
    inputs: Inputs, ours: Ours, images: NDArray[np.uint8], masks: NDArray[np.uint8]
) -> Tensor:
    """Return the same by explicit attention."""
    vit, size = ours.blocks.vit, ours.blocks.masking.image_size
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in normalization(vit))
    parts = []
    for start in range(0, len(images), BATCH):
        block = slice(start, start + BATCH)
        views = [
            plain_view(image, mask, size=size)
            for image, mask in zip(images[block], masks[block], strict=True)
        ]
        pixels = _normalised([view for view, _ in views], shift, scale)
        greys = torch.from_numpy(np.stack([grey for _, grey in views]))
        parts.append(plain_network.class_tokens(vit, pixels, greys))
    return torch.cat(parts)


def inference(inputs: Inputs, *, limit: int, repeats: int) -> Row:
    """Time MGViT a sub-image, batches of 32."""
    images, masks = inputs.crops(limit)
    network = our_network(inputs)
    expected = plain_tokens(inputs, network, images, masks)
    found = network.class_tokens(images, masks)
    error = float((expected - found).norm(dim=1).div(expected.norm(dim=1)).max())
    # The pipeline hands tokens over in float16, which alone is 5e-4 of each value.
    exact = _exact_error(network, images, masks)
    check(exact < 1e-4, f"inference: class tokens differ by {exact:.1e}")
    check(error < 5e-3, f"inference: class tokens differ by {error:.1e} through float16")
    timing = interleaved(
        lambda: plain_tokens(inputs, network, images, masks),
        lambda: network.class_tokens(images, masks),
        repeats=repeats,
        per=len(images),
    )
    return Row(
        f"MGViT inference, {len(images)} crops of {inputs.name}",
        ">= 2.5x",
        "sub-image",
        timing.ratio,
        timing.plain_s,
        timing.ours_s,
        repeats,
        peak_mb(lambda: plain_tokens(inputs, network, images, masks)),
        peak_mb(lambda: network.class_tokens(images, masks)),
        f"{exact:.0e} relative in float32 ({error:.0e} through the float16 of the token cache)",
        figures={
            "GFLOP per CPU second of ours": round(_gflop(network) / (timing.ours_cpu_s or 1), 1),
            "of one large float32 product": round(_product_gflops(), 1),
        },
        ours_cpu_s=timing.ours_cpu_s,
    )


@torch.inference_mode()
def _exact_error(network: Ours, images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> float:
    """Return the largest relative difference when nothing is rounded to float16."""
    vit, size = network.blocks.vit, network.blocks.masking.image_size
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in normalization(vit))
    views = [plain_view(i, m, size=size) for i, m in zip(images[:BATCH], masks, strict=False)]
    pixels = _normalised([view for view, _ in views], shift, scale)
    greys = torch.from_numpy(np.stack([grey for _, grey in views]))
    keep = patch_keep(greys, vit.patch_embed.patch_size[0])
    tokens = frozen_tokens(vit, pixels, keep, mask_on="class", mask_layers=9)
    found = network.last(tokens, visible_keys(vit, keep, mask_on="class"))
    expected = plain_network.class_tokens(vit, pixels, greys)
    return float(((expected - found).norm(dim=1) / expected.norm(dim=1)).max())


def _gflop(network: Ours) -> float:
    """Return the operations of our way a sub-image: products of the frozen blocks, in 1e9."""
    vit = network.blocks.vit
    n, d = int(vit.patch_embed.num_patches) + int(vit.num_prefix_tokens), int(vit.embed_dim)
    return (len(vit.blocks) - 1) * (2 * n * 12 * d * d + 4 * n * n * d) / 1e9


def _product_gflops(side: int = 2048, repeats: int = 5) -> float:
    """Return what this machine reaches in one product of matrices, 1e9 operations a CPU second."""
    a = torch.rand(side, side)
    torch.mm(a, a)
    found = []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(a, a)
        found.append(2 * side**3 / (time.process_time() - start) / 1e9)
    return statistics.median(found)


@dataclass(frozen=True)
class TrainingParts:
    """Seconds of the parts of a run: a batch and the cache, measured; the run is their sum."""

    batch: Timing
    fill: float
    """A view of a crop, cached."""
    fill_cpu: float
    n_crops: int

    @property
    def batches(self) -> int:
        """Batches of a run of 50 epochs, an epoch having as many draws as crops."""
        return EPOCHS * -(-self.n_crops // BATCH)

    def plain_s(self, k: int) -> float:
        """Seconds of a run of the plain way, by its k-th repeat."""
        return self.batch.plain[k] * self.batches

    def ours_s(self, k: int, *, filled: bool) -> float:
        """Seconds of a run of ours, with the cache there or not."""
        fill = 0.0 if filled else self.fill * self.n_crops * VIEWS
        return self.batch.ours[k] * self.batches + fill

    def ours_cpu_s(self, *, filled: bool) -> float:
        """Return the same in processor time."""
        fill = 0.0 if filled else self.fill_cpu * self.n_crops * VIEWS
        return (self.batch.ours_cpu_s or 0.0) * self.batches + fill


def measure_training(
    inputs: Inputs, *, limit: int, repeats: int, classes: int = 6
) -> tuple[TrainingParts, float | None, float | None]:
    """Time a batch of both ways and the filling of the cache; also their peak memory."""
    images, masks = inputs.crops(limit)
    scores = np.linspace(0, 1, len(images), dtype=np.float32)
    network = our_network(inputs)
    pieces: list[RaggedTokens] = []

    def fill() -> None:
        pieces[:] = iter_augmented(
            network.blocks, images, masks, n_views=VIEWS, seed=0, augmentations=Augmentations()
        )

    filling = interleaved(lambda: None, fill, repeats=1, per=len(images) * VIEWS)
    cache = CachedViews(concatenate(pieces), VIEWS)
    size = network.blocks.masking.image_size
    trainer = Trainer(network.blocks.vit, classes, size=size)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(images), BATCH)

    def plain() -> None:
        trainer.step(images[rows], masks[rows], scores[rows], rng)

    epochs = 2
    batches = epochs * -(-len(images) // BATCH)
    settings = training_settings(Train(epochs=epochs))

    def ours() -> None:
        train(
            cache,
            new_network(
                network.last, network.last.norm1.normalized_shape[0], classes, heads=4, seed=0
            ),
            base_labels=np.zeros(0, np.int64),
            scores=scores,
            n_base_classes=0,
            settings=settings,
            device=CPU,
        )

    timing = interleaved(plain, ours, repeats=repeats)
    timing = Timing(
        timing.plain,
        tuple(t / batches for t in timing.ours),
        (timing.ours_cpu_s or 0.0) / batches,
    )
    parts = TrainingParts(timing, filling.ours_s, filling.ours_cpu_s or 0.0, len(inputs.table()))
    return parts, peak_mb(plain), peak_mb(ours)


def training(inputs: Inputs, *, limit: int, repeats: int) -> list[Row]:
    """Time runs of 50 epochs: the first, and one more with another seed or loss weight."""
    parts, plain_mb, ours_mb = measure_training(inputs, limit=limit, repeats=repeats)
    rows = []
    for what, reach, filled in (
        ("a training run of 50 epochs, cache filled", ">= 10x", False),
        ("the same with another seed or loss weight", ">= 40x", True),
    ):
        timing = Timing(
            tuple(parts.plain_s(k) for k in range(repeats)),
            tuple(parts.ours_s(k, filled=filled) for k in range(repeats)),
        )
        rows.append(
            Row(
                f"{what}, {parts.n_crops} crops of {inputs.name}",
                reach,
                "run",
                timing.ratio,
                timing.plain_s,
                timing.ours_s,
                repeats,
                plain_mb,
                ours_mb,
                "gradients to 1e-4 (tests); for the metrics see `quality`",
                f"from the times of a batch and of a cached view, {parts.batches} batches",
                {
                    "s a plain batch": round(parts.batch.plain_s, 3),
                    "s a batch of ours": round(parts.batch.ours_s, 4),
                    "s a cached view": round(parts.fill, 4),
                },
                ours_cpu_s=parts.ours_cpu_s(filled=filled),
            )
        )
    return rows
