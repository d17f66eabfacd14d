"""Stage `train`: the last block, the projector and the heads learn from pairs of views."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from pipeline.config.params import Compute, Train, Views
from pipeline.inference.training_inputs import token_source, training_settings
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.files import replacing_folder
from pipeline.io.history import write_history
from pipeline.io.networks import load_vit, save_network
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import BASE_CROPS, CROPS
from pipeline.io.stored import read_object
from pipeline.io.tables import params_of, read_metadata, read_parquet
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.network import new_network
from pipeline.mgvit.training import train
from pipeline.progress import track


def run(
    category: str, options: Train, views: Views, compute: Compute, paths: ArtifactPaths
) -> None:
    """Train a category and write model.safetensors, model.json and history.csv."""
    crops = read_parquet(paths.crops(category) / "crops.parquet", CROPS)
    base = read_parquet(paths.base() / "crops.parquet", BASE_CROPS)
    base_classes = sorted(base["label"].unique())
    path = paths.classes(category) / "classes.json"
    n_novel_classes: int = read_object(path, {"n_classes": (int,)})["n_classes"]
    vit = load_vit(paths, image_size=views.image_size)
    device = choose_device(compute.device)
    settings = training_settings(options)
    network = new_network(
        ClassBlock(vit, fold_layerscale=options.fold_layerscale),
        int(vit.embed_dim),
        len(base_classes) + n_novel_classes,
        heads=options.heads,
        seed=options.seed,
    )
    source = token_source(
        category,
        views,
        compute,
        paths,
        n_base=len(base),
        n_novel=len(crops),
        seed=options.seed,
    )
    if len(base) + len(crops) == 0:
        raise ArtifactError(f"{category}: there is no crop to train on")
    with track(f"training {category}") as progress:
        result = train(
            source,
            network,
            base_labels=np.searchsorted(base_classes, base["label"]).astype(np.int64),
            scores=crops["score"].to_numpy(np.float32),
            n_base_classes=len(base_classes),
            settings=settings,
            device=device,
            autocast=Autocast(device, "float32" if device.type == "cpu" else compute.dtype),
            progress=progress,
        )
    description = {
        "category": category,
        **_range(category, paths),
        "n_base_classes": len(base_classes),
        "base_classes": base_classes,
        "n_classes": n_novel_classes,
        "head": result.best_head,
        "settings": asdict(settings),
        "params": _params(category, options, views, compute, paths),
        "torch": torch.__version__,
    }
    with replacing_folder(paths.train(category)) as folder:  # at once: all are of one run
        folder.mkdir()
        save_network(folder, result.network, description)
        write_history(folder / "history.csv", result)


def _range(category: str, paths: ArtifactPaths) -> dict[str, Any]:
    """Return what new images need of the maps and of MEBin, and which bank goes with it."""
    binarized = read_metadata(paths.mebin(category) / "images.parquet")
    return {
        "maps": {name: binarized.get(name) for name in ("raw_min", "raw_max", "bank_sha256")},
        "mebin": {name: binarized.get(name) for name in ("s_min", "s_max")},
    }


def _params(
    category: str, options: Train, views: Views, compute: Compute, paths: ArtifactPaths
) -> dict[str, Any]:
    """Return the parameters of all that was made up to here, by section."""
    return {
        **params_of(paths.mebin(category) / "images.parquet"),
        **params_of(paths.crops(category) / "crops.parquet"),
        "views": views.to_json(),
        "train": options.to_json(),
        "compute": {"dtype": compute.dtype},
    }
