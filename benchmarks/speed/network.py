"""Views, the masked network, and training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks.plain import augmentation as plain_augmentation
from benchmarks.plain import network as plain_network
from benchmarks.plain.training import Trainer
from benchmarks.speed.harness import Row, Timing, check, compare, interleaved, peak_mb
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
CROPS, VIEWS, EPOCHS, BATCH, CLASSES = 32, 6, 50, 32, 6
Views = Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]


def _tensors(vit: VisionTransformer, views: Views) -> tuple[Tensor, Tensor]:
    """Return normalised pixels (B, 3, S, S) and masks (B, S, S)."""
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in normalization(vit))
    pixels = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2).float()
    return (pixels - shift) / scale, torch.from_numpy(np.stack([mask for _, mask in views]))


def augmentation(inputs: Inputs) -> Row:
    """Time a view of a crop, up to the normalised tensor."""
    pairs = list(zip(*inputs.crops(CROPS), strict=True))
    vit = inputs.vit()
    size = int(vit.patch_embed.img_size[0])
    mean, std = normalization(vit)

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
            augmented_view(*pair, view_rng(0, k, 0), size=size, augmentations=Augmentations())
            for k, pair in enumerate(pairs)
        ]
        return _tensors(vit, views)

    (a, mask_a), (b, mask_b) = plain(), ours()
    scale = torch.tensor(std).view(1, 3, 1, 1) * 255
    levels = float(((a - b).abs() * scale).mean())  # posterization makes steps of up to 8
    check(levels < 3, f"augmentation: views differ by {levels:.2f} of 255 levels on average")
    check(float((mask_a - mask_b).abs().max()) < 0.02, "augmentation: masks differ")
    return compare(
        f"augmentation, {len(pairs)} crops of {inputs.category}",
        ">= 8x",
        "view",
        plain,
        ours,
        repeats=5,
        per=len(pairs),
        equal=f"mean difference {levels:.2f} of 255 levels (rounding of each 8-bit step)",
    )


def _blocks(inputs: Inputs) -> tuple[FrozenBlocks, ClassBlock]:
    """Return the network of a category in float32, as the pipeline runs it."""
    vit = inputs.vit()
    masking = Masking(image_size=int(vit.patch_embed.img_size[0]))
    blocks = FrozenBlocks(vit, masking, device=CPU, autocast=Autocast(CPU, "float32"))
    return blocks, ClassBlock(vit, fold_layerscale=True).eval()


@torch.inference_mode()
def inference(inputs: Inputs) -> Row:
    """Time MGViT per crop, in batches of 32."""
    images, masks = inputs.crops(CROPS)
    blocks, last = _blocks(inputs)
    vit, size = blocks.vit, blocks.masking.image_size

    def views() -> tuple[Tensor, Tensor]:
        pairs = zip(images, masks, strict=True)
        return _tensors(vit, [plain_view(*pair, size=size) for pair in pairs])

    def plain() -> Tensor:
        return plain_network.class_tokens(vit, *views())

    def ours() -> Tensor:
        pieces = iter_plain(blocks, images, masks, batch=BATCH)
        return torch.cat([last(*p.gather(np.arange(len(p.offsets) - 1))) for p in pieces])

    expected = plain()
    pixels, greys = views()  # in float32; the token cache rounds to float16
    keep = patch_keep(greys, vit.patch_embed.patch_size[0])
    tokens = frozen_tokens(vit, pixels, keep, mask_on="class", mask_layers=9)
    exact = _difference(expected, last(tokens, visible_keys(vit, keep, mask_on="class")))
    rounded = _difference(expected, ours())
    check(exact < 1e-4, f"inference: class tokens differ by {exact:.1e}")
    check(rounded < 5e-3, f"inference: class tokens differ by {rounded:.1e} through float16")
    return compare(
        f"MGViT inference, {len(images)} crops of {inputs.category}",
        ">= 2.5x",
        "crop",
        plain,
        ours,
        repeats=5,
        per=len(images),
        equal=f"{exact:.0e} relative ({rounded:.0e} through the float16 of the token cache)",
    )


def _difference(expected: Tensor, found: Tensor) -> float:
    return float(((expected - found).norm(dim=1) / expected.norm(dim=1)).max())


def training(inputs: Inputs) -> list[Row]:
    """Time runs of 50 epochs: the first, and one more with another seed or loss weight.

    A run is the sum of its batches and, the first time, of the cached views; those are measured.
    """
    images, masks = inputs.crops(CROPS)
    blocks, last = _blocks(inputs)
    n_crops, repeats, epochs = len(inputs.table()), 3, 2
    pieces: list[RaggedTokens] = []

    def fill() -> None:
        pieces[:] = iter_augmented(
            blocks, images, masks, n_views=VIEWS, seed=0, augmentations=Augmentations()
        )

    view_s = interleaved(lambda: None, fill, repeats=1, per=len(images) * VIEWS).ours[0]
    cache = CachedViews(concatenate(pieces), VIEWS)
    trainer = Trainer(blocks.vit, CLASSES, size=blocks.masking.image_size)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(images), BATCH)
    scores = np.linspace(0, 1, len(images), dtype=np.float32)

    def plain() -> None:
        trainer.step(images[rows], masks[rows], scores[rows], rng)

    def ours() -> None:
        width = last.norm1.normalized_shape[0]
        train(
            cache,
            new_network(last, width, CLASSES, heads=4, seed=0),
            base_labels=np.zeros(0, np.int64),
            scores=scores,
            n_base_classes=0,
            settings=training_settings(Train(epochs=epochs)),
            device=CPU,
        )

    timing = interleaved(plain, ours, repeats=repeats)
    batches = EPOCHS * -(-n_crops // BATCH)
    part = batches / (epochs * -(-len(images) // BATCH))
    plain_s = tuple(seconds * batches for seconds in timing.plain)
    memory = {"plain_mb": peak_mb(plain), "ours_mb": peak_mb(ours)}
    made = []
    for what, target, filling in (
        ("training, 50 epochs, cache filled", ">= 10x", view_s * n_crops * VIEWS),
        ("the same, another seed or loss weight", ">= 40x", 0.0),
    ):
        run = Timing(plain_s, tuple(seconds * part + filling for seconds in timing.ours))
        made.append(
            run.row(
                f"{what}, {n_crops} crops of {inputs.category}",
                target,
                "run",
                equal="gradients to 1e-4 (tests)",
                notes=[f"from the times of a batch and of a cached view, {batches} batches"],
                **memory,
            )
        )
    return made
