"""The sets of images of a category that peers see, and their features in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.clustering.descriptors import PooledTokens
from pipeline.config.params import Views
from pipeline.detectors.base import Images
from pipeline.inference.peer_features import (
    Encoder,
    class_tokens_of,
    on_patches,
    patch_arrays,
)
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.images import read_listed
from pipeline.io.networks import augmentations, crop_arrays
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.peer_files import new_array, save_array
from pipeline.io.storage import Place
from pipeline.io.tables import image_bits, read_metadata, read_parquet
from pipeline.progress import track

_MAPS = 32


def images_of(paths: ArtifactPaths, category: str, folder: Place, split: str) -> Images:
    """Return the queries or the normal references of the manifest, sorted by sample id."""
    manifest = paths.manifest(category)
    table = read_parquet(manifest / "images.parquet", schemas.IMAGES)
    rows = table[table["split"] == split].sort_values("sample_id", kind="stable")
    files = [folder / path for path in rows["path"]]
    bits = image_bits(manifest)
    ids = rows["sample_id"].tolist()
    return Images(ids, lambda i: read_listed(files[i], ids[i], bits))


def whole_arrays(
    folder: Path, encoder: Encoder, queries: Images, views: Views, category: str
) -> None:
    """Write class tokens of whole images: the plain view and `views.count` augmented ones."""
    with track(f"features {category}: whole images") as progress:
        tokens, augmented = class_tokens_of(
            encoder, queries, views.count, seed=views.seed,
            augmentations=augmentations(views), progress=progress,
        )  # fmt: skip
    save_array(folder, "whole_class_tokens", tokens)
    save_array(folder, "whole_view_tokens", augmented)


def crop_arrays_of(
    folder: Path,
    encoder: Encoder,
    paths: ArtifactPaths,
    category: str,
    views: Views,
    layers: Sequence[int],
) -> list[str]:
    """Write class tokens and pooled tokens of the sub-images; return their ids, sorted."""
    table = read_parquet(paths.crops(category) / "crops.parquet", schemas.CROPS)
    pixels, weights = crop_arrays(paths.crops(category), "weights")
    order = np.argsort(table["crop_id"].to_numpy(np.str_), kind="stable")
    ids = [str(name) for name in table["crop_id"].to_numpy()[order]]
    crops = Images(ids, lambda i: np.asarray(pixels[int(order[i])], np.uint8))
    with track(f"features {category}: crops") as progress:
        tokens, augmented = class_tokens_of(
            encoder, crops, views.count, seed=views.seed,
            augmentations=augmentations(views), progress=progress,
        )  # fmt: skip
    pooling = PooledTokens(encoder.vit, layers, device=encoder.device, autocast=encoder.autocast)
    pooled = pooling.over(pixels, weights, size=encoder.size)[order]
    save_array(folder, "crop_class_tokens", tokens)
    save_array(folder, "crop_view_tokens", augmented)
    save_array(folder, "crop_pooled", pooled)
    return ids


def patch_files(
    folder: Path, encoder: Encoder, queries: Images, normals: Images, category: str
) -> tuple[int, int]:
    """Write patch tokens of queries and normal references; return rows and columns of patches."""

    def allocate(name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return new_array(folder, name, shape, dtype)

    for images, prefix in ((queries, ""), (normals, "normal_")):
        with track(f"features {category}: patches") as progress:
            patch_arrays(encoder, images, allocate, prefix=prefix, progress=progress)
    rows, columns = encoder.vit.patch_embed.grid_size
    return int(rows), int(columns)


def map_arrays(
    folder: Path,
    paths: ArtifactPaths,
    category: str,
    names: Sequence[str],
    grid: tuple[int, int],
    size: int,
) -> bool:
    """Write maps and masks of the queries on the patches of their views.

    Returns whether the maps come from a detector that was fitted to normal references.
    """
    source = paths.maps(category)
    ids = read_parquet(source / "scores.parquet", schemas.MAP_SCORES)["sample_id"]
    rows = pd.Index(ids).get_indexer(pd.Index(list(names)))
    if (rows < 0).any():
        raise ArtifactError(f"{source}: made from another manifest; run the stage 'maps' again")
    maps = open_arrays(source / "maps.zarr")["maps"]
    masks = open_arrays(paths.mebin(category) / "masks.zarr")["masks"]
    for name, array in (("map_scores", maps), ("mask_shares", masks)):
        parts = []
        for start in range(0, len(rows), _MAPS):
            block = [array[int(i)] for i in rows[start : start + _MAPS]]
            parts.append(on_patches(np.stack(block).astype(np.float32), grid, size))
        save_array(folder, name, np.concatenate(parts))
    return read_metadata(source / "scores.parquet").get("method") in ("nearest", "patchcore")


def base_arrays(folder: Path, encoder: Encoder, paths: ArtifactPaths, views: Views) -> None:
    """Write class tokens, views and labels of the labelled base crops, if there are any."""
    table = read_parquet(paths.base() / "crops.parquet", schemas.BASE_CROPS)
    if not len(table):
        return
    pixels, _ = crop_arrays(paths.base())
    crops = Images(table["crop_id"].tolist(), lambda i: np.asarray(pixels[i], np.uint8))
    with track("features: base set") as progress:
        tokens, augmented = class_tokens_of(
            encoder, crops, views.count, seed=views.seed,
            augmentations=augmentations(views), progress=progress,
        )  # fmt: skip
    labels, _ = pd.factorize(table["label"], sort=True)
    save_array(folder, "base_tokens", tokens)
    save_array(folder, "base_view_tokens", augmented)
    save_array(folder, "base_labels", labels.astype(np.int64))
