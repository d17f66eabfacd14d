"""What else a region could be described by: python -m benchmarks.descriptors bottle

reads params.yaml and the artifacts that `benchmarks.classifiers` reads, and prints NMI/ARI/F1 over
images of the vote with other descriptors: patch tokens scaled to length 1, averaged under a dilated
mask, a ring, the whole sub-image, or the class token beside them. Labels are used for the figures
alone. docs/results.md has what came out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.classifiers import LAYERS, VOTE, figures, voted
from pipeline.clustering.descriptors import patch_weights, region_descriptors
from pipeline.config.params import load_params
from pipeline.inference.region_features import normal_of_set
from pipeline.io.networks import crop_arrays, load_vit
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import CROPS, LABELS
from pipeline.io.scores import scores_of_images, scores_of_references
from pipeline.io.tables import read_parquet
from pipeline.mgvit.augmentation import plain_view
from pipeline.mgvit.backbone import embed, normalization
from pipeline.mgvit.tokens import stack

Floats = NDArray[np.float32]

_BATCH = 32
BESIDE = ("ring", "whole", "class token")
"""Descriptors that are appended to those of the region."""


@torch.inference_mode()
def pooled(paths: ArtifactPaths, category: str, size: int) -> dict[str, Floats]:
    """Return (M, L, D) by kind of description: averages of patch tokens, or the class token."""
    vit = load_vit(paths, image_size=size).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in normalization(vit))
    images, masks = crop_arrays(paths.crops(category))
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, images.shape[0], _BATCH):
        block = slice(start, start + _BATCH)
        pairs = zip(images[block], masks[block], strict=True)
        pixels, shown = stack([plain_view(*pair, size=size) for pair in pairs])
        tokens = embed(vit, (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - mean) / std)
        found = []
        for layer, module in enumerate(vit.blocks[: max(LAYERS) + 1]):
            tokens = module(tokens)
            if layer in LAYERS:
                found.append(_descriptions(tokens, vit.num_prefix_tokens, _weights(vit, shown)))
        for kind in found[0]:
            parts.setdefault(kind, []).append(torch.stack([of[kind] for of in found], 1))
    return {kind: torch.cat(blocks).numpy() for kind, blocks in parts.items()}


def _weights(vit: torch.nn.Module, masks: Floats) -> dict[str, Tensor]:
    """Return the weights (B, P) of patches: under the mask, it dilated by a patch, and a ring."""
    patch = int(vit.patch_embed.patch_size[0])  # type: ignore[union-attr, index]
    cover = F.avg_pool2d(torch.from_numpy(masks)[:, None], patch)  # (B, 1, h, w)
    wide = F.max_pool2d(cover, 3, stride=1, padding=1)
    kinds = {"dilated": wide, "ring": wide - cover, "whole": torch.ones_like(cover)}
    mask = patch_weights(torch.from_numpy(masks), patch)
    return {"mask": mask} | {kind: patch_weights(w[:, 0], 1) for kind, w in kinds.items()}


def _descriptions(tokens: Tensor, prefix: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return (B, D) by kind, from the tokens (B, N, D) of one layer."""
    patches = tokens[:, prefix:]
    found = {kind: torch.einsum("bp,bpd->bd", w, patches) for kind, w in weights.items()}
    unit = F.normalize(patches, dim=-1)
    return {
        **found,
        "unit tokens": torch.einsum("bp,bpd->bd", weights["mask"], unit),
        "class token": tokens[:, 0],
    }


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 2,
    params_path: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option("--data")] = Path("data"),
) -> None:
    """Compare descriptors of regions on the crops of a category."""
    params, paths = load_params(params_path), ArtifactPaths(data)
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    true = labels.set_index("sample_id")["label"].reindex(pd.unique(crops["sample_id"])).tolist()
    spaces = pooled(paths, category, params.views.image_size)
    scores = scores_of_images(paths, category, crops)
    known = scores_of_references(paths, category)
    normal, _ = normal_of_set(VOTE.normal, crops, scores, known)
    typer.echo("| description | NMI/ARI/F1 |\n|---|---|")
    for kind, space in spaces.items():
        chosen = [spaces["mask"], space] if kind in BESIDE else [space]
        described = np.concatenate([region_descriptors(of[~normal]) for of in chosen], 2)
        runs = []
        for seed in range(seeds):
            found = voted(params, category, crops, normal, described, VOTE, seed)
            runs.append(figures(true, found, np.ones(len(true), np.bool_)))
        text = "/".join(f"{value:.3f}" for value in np.mean(runs, axis=0))
        name = f"mask and {kind}" if kind in BESIDE else kind
        typer.echo(f"| {name} | {text} ± {np.std(runs, axis=0)[0]:.3f} |")


if __name__ == "__main__":
    typer.run(main)
