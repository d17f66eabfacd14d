"""Change what the heads of the paper read: python -m benchmarks.network_variants bottle

reads params.yaml and what `dvc repro crops@<category>` wrote. Each row trains the network of the
section `train`, without a base set, on `views.count` cached views, and sorts the images by its
heads under the default's rule for normal ones; a `train.seed` a run. More steps are more
`train.epochs`, and 784 tokens `views.image_size: 392` with `crops.size: 448`. Rows:

- plain: as published;
- centred: the mean class token of the set, at the start, is taken from the frozen final norm;
- block b: the ViT ends after the 0-based block b (the masked blocks before it stay masked);
- stacked: the class token passes two trainable blocks, over patch tokens that are frozen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.case import Case, load_case
from benchmarks.classifiers import VOTE, agreement, classes_of_images, metrics, row
from pipeline.inference.region_classes import Seen
from pipeline.inference.training_inputs import training_settings
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.networks import augmentations, crop_arrays, load_vit, masking
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.network import new_network
from pipeline.mgvit.tokens import (
    CachedViews,
    FrozenBlocks,
    RaggedTokens,
    concatenate,
    iter_augmented,
    iter_plain,
)
from pipeline.mgvit.training import train
from pipeline.regions.merging import class_probabilities


class Stack(nn.Module):
    """Two class blocks over frozen patch tokens: tokens (B, N, 2 D) hold those of both blocks."""

    def __init__(self, lower: ClassBlock, upper: ClassBlock) -> None:
        super().__init__()
        lower.norm = nn.Identity()
        self.lower, self.upper = lower, upper

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return normed class tokens (B, D)."""
        below, above = tokens.chunk(2, -1)
        first = self.lower(below, visible)[:, None]  # (B, 1, D)
        token: Tensor = self.upper(torch.cat([first, above[:, 1:]], 1), visible)
        return token


@dataclass(frozen=True)
class Variant:
    """The ViT cut after each of `ends` (counted from the last block), and whether to centre."""

    ends: tuple[int, ...] = (0,)
    centred: bool = False


def variants(n_blocks: int) -> dict[str, Variant]:
    """Return the variants of a ViT of `n_blocks` blocks by name."""
    return {
        "plain": Variant(),
        "centred": Variant(centred=True),
        "block 9": Variant((n_blocks - 10,)),
        "block 7": Variant((n_blocks - 8,)),
        "block 7, centred": Variant((n_blocks - 8,), centred=True),
        "stacked": Variant((1, 0)),
    }


def shortened(case: Case, by: int) -> VisionTransformer:
    """Return the backbone without its last `by` blocks."""
    vit = load_vit(case.paths, image_size=case.params.views.image_size)
    vit.blocks = nn.Sequential(*list(vit.blocks)[: len(vit.blocks) - by])
    return vit


@dataclass(frozen=True)
class Inputs:
    """Tokens of the plain views, and of `views.count` augmented views of each crop."""

    plain: RaggedTokens
    views: RaggedTokens


def inputs(case: Case, by: int) -> Inputs:
    """Return what enters the last block of the shortened ViT."""
    views = case.params.views
    device = choose_device(case.params.compute.device)
    own = replace(masking(views), mask_layers=max(1, views.mask_layers - by))
    blocks = FrozenBlocks(
        shortened(case, by),
        own,
        device=device,
        autocast=Autocast(device, case.params.compute.dtype),
    )
    crops = crop_arrays(case.paths.crops(case.category))
    drawn = iter_augmented(
        blocks, *crops, n_views=views.count, seed=views.seed, augmentations=augmentations(views)
    )
    return Inputs(concatenate(list(iter_plain(blocks, *crops))), concatenate(list(drawn)))


def side_by_side(parts: list[RaggedTokens]) -> RaggedTokens:
    """Return tokens (T, k D) of k sets with the same rows."""
    return replace(parts[0], flat=np.concatenate([part.flat for part in parts], 1))


def trained_classes(
    case: Case, variant: Variant, seen: dict[int, Inputs], seed: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the class of each image by heads trained with `train.seed` as given."""
    options = case.params.train.model_copy(update={"seed": seed})
    blocks = [
        ClassBlock(shortened(case, by), fold_layerscale=options.fold_layerscale)
        for by in variant.ends
    ]
    block = blocks[0] if len(blocks) == 1 else Stack(*blocks)
    plain = side_by_side([seen[by].plain for by in variant.ends])
    views = side_by_side([seen[by].views for by in variant.ends])
    if variant.centred:
        bias = blocks[-1].get_parameter("norm.bias")
        bias.data -= class_tokens(block, plain).mean(0)
    dim = blocks[-1].get_parameter("norm.weight").shape[0]
    network = new_network(block, dim, case.n_classes, heads=options.heads, seed=seed)
    result = train(
        CachedViews(views, case.params.views.count),
        network,
        base_labels=np.zeros(0, np.int64),
        scores=case.crops["score"].to_numpy(np.float32),
        n_base_classes=0,
        settings=training_settings(options),
        device=torch.device("cpu"),
    )
    token = class_tokens(result.network.block, plain)
    logits = result.network.heads(token)[result.best_head].detach().numpy()
    found = Seen(
        probabilities=class_probabilities(logits, 0, temperature=options.student_temperature),
        embeddings=nn.functional.normalize(token, dim=-1).numpy(),
    )
    predict = case.params.predict.model_copy(
        update={"normal": VOTE.normal, "classifier": "heads", "seed": seed}
    )
    return classes_of_images(case, found, predict, case.n_classes)


@torch.no_grad()
def class_tokens(block: nn.Module, tokens: RaggedTokens, batch: int = 32) -> Tensor:
    """Return the block's class tokens (M, D)."""
    rows = np.arange(len(tokens.offsets) - 1)
    pieces = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    return torch.cat([block(*tokens.gather(piece)) for piece in pieces])


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Names of rows; default: all.")] = None,
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Compare variants of the paper's network on the crops of a category."""
    case = load_case(category, params, data)
    vit = load_vit(case.paths, image_size=case.params.views.image_size)
    every = variants(len(vit.blocks))
    chosen = {name: every[name] for name in only or every}
    seen = {by: inputs(case, by) for by in sorted({by for v in chosen.values() for by in v.ends})}
    typer.echo("| variant | NMI/ARI/F1 | agreement | s a seed |\n|---|---|---|---|")
    for name, variant in chosen.items():
        begin = time.process_time()
        found = [trained_classes(case, variant, seen, seed) for seed in range(seeds)]
        seconds = (time.process_time() - begin) / seeds
        scores = [metrics(case.image_labels, classes) for classes in found]
        typer.echo(f"{row(name, scores, agreement(found))} {seconds:.0f} |")


if __name__ == "__main__":
    typer.run(main)
