"""Anomaly Clustering beside a third party's figures: python -m benchmarks.anomaly_clustering bottle

reads the manifest and the backbone of a run. Rows of the comparison see 256 patches of 224 px and
average tokens over 3 x 3 patches; `--size 392` has 784 patches, as many as ViT-B/8 at 224 px, and
`--pooling bins` flattens the tokens of 3 x 3 patches and averages them in 2048 bins a layer, as
that code and PatchCore's do. Prints NMI/ARI/F1 and the effective number of patches. Labels are used
for the metrics alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from pipeline.config.reading import load_params
from pipeline.detectors.base import Images
from pipeline.detectors.patchcore import patch_vectors
from pipeline.evaluation.clustering import clustering_scores
from pipeline.inference.peer_features import Encoder, batches, whole_view
from pipeline.inference.peer_sets import images_of
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import LABELS
from pipeline.io.tables import read_parquet
from pipeline.peers.anomaly_clustering import (
    distances_to_bank,
    effective_patches,
    mutual_distances,
    softmax_weights,
    weighted_means,
)
from pipeline.peers.partitions import ward_labels

Pooling = Literal["mean", "bins"]
BINS = 2048


def binned(layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Return (N, P, 2048 L): the flattened tokens (N, P, D) of 3 x 3 patches, averaged in bins.

    Channels change slowest, as in the code of PatchCore; zeros lie beyond the border.
    """
    pooled = []
    for layer in layers:
        n, _, width = layer.shape
        maps = layer.float().transpose(1, 2).reshape(n, width, *grid)
        flat = F.unfold(maps, 3, padding=1).transpose(1, 2)  # (N, P, 9 D)
        pooled.append(F.adaptive_avg_pool1d(flat, BINS))
    return torch.cat(pooled, -1)


def vectors(encoder: Encoder, images: Images, pooling: Pooling) -> Tensor:
    """Return vectors (N, P, D') of the last two blocks' tokens of whole images."""
    rows, columns = encoder.vit.patch_embed.grid_size
    grid = int(rows), int(columns)
    parts = []
    for views in batches(whole_view(image, encoder.size) for image in images):
        layers = [layer.cpu() for layer in encoder.patches(views).last]
        if pooling == "bins":
            parts.append(binned(layers, grid))
        else:
            arrays = [np.asarray(layer.numpy()) for layer in layers]
            parts.append(patch_vectors(arrays, grid, slice(0, len(views)), (3,)))
    return torch.cat(parts)


def main(
    category: Annotated[str, typer.Argument(help="One of dataset.categories.")],
    size: Annotated[int, typer.Option(help="Pixels a side, a multiple of 56.")] = 224,
    pooling: Annotated[str, typer.Option(help="mean or bins.")] = "mean",
    taus: Annotated[str, typer.Option(help="Temperatures, by commas.")] = "0.25,0.5,1,2,4",
    params: Path = Path("params.yaml"),
    data: Path = Path("data"),
) -> None:
    """Print a row a temperature, without and with normal references."""
    given, paths = load_params(params), ArtifactPaths(data)
    device = choose_device(given.compute.device)
    vit = load_saved_vit(paths.backbone(), image_size=size).to(device).eval()
    encoder = Encoder(vit, size, device, Autocast(device, given.compute.dtype))
    folder = Path(given.dataset.root) / category
    queries, normals = (images_of(paths, category, folder, split) for split in ("query", "normal"))
    how: Pooling = "bins" if pooling == "bins" else "mean"
    tokens, bank = vectors(encoder, queries, how), vectors(encoder, normals, how)
    labels = read_parquet(paths.manifest(category) / "labels.parquet", LABELS)
    label_of = dict(zip(labels["sample_id"], labels["label"], strict=True))
    true = [str(label_of[name]) for name in queries.names]
    n_classes = given.classes.n_classes(category)
    assert n_classes is not None
    typer.echo(f"| {category}, {tokens.shape[1]} patches, {pooling} | NMI/ARI/F1 | patches |")
    found = {
        "alone": mutual_distances(tokens),
        "normals": distances_to_bank(tokens, bank.flatten(0, 1)),
    }
    for name, delta in found.items():
        for tau in map(float, taus.split(",")):
            alpha = softmax_weights(delta, tau)
            scores = clustering_scores(true, ward_labels(weighted_means(tokens, alpha), n_classes))
            metrics = f"{scores.nmi:.3f}/{scores.ari:.3f}/{scores.f1:.3f}"
            typer.echo(f"| {name}, tau {tau:g} | {metrics} | {effective_patches(alpha):.1f} |")


if __name__ == "__main__":
    typer.run(main)
