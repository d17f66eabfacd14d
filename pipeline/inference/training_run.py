"""The training of a category, and what model.json says of it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.models.vision_transformer import VisionTransformer

from pipeline.config.params import Compute, Train, Views
from pipeline.inference.training_inputs import token_source, training_settings
from pipeline.io.checkpoints import EpochCheckpoints
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.tables import params_of, read_metadata
from pipeline.io.view_cache import sources, training_rows
from pipeline.mgvit import training
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.checkpoints import Checkpoints
from pipeline.mgvit.network import new_network
from pipeline.mgvit.ranks import current_ranks
from pipeline.mgvit.training import TrainingResult, train
from pipeline.progress import track


def train_category(
    category: str,
    vit: VisionTransformer,
    crops: pd.DataFrame,
    base: pd.DataFrame,
    n_novel_classes: int,
    options: Train,
    views: Views,
    compute: Compute,
    paths: ArtifactPaths,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Train on the views of a category's crops and of the base crops (`token_source`).

    With the other ranks of torchrun, where this process has joined any (`current_ranks`).
    `crops` and `base` have the columns of `CROPS` and `BASE_CROPS`. Raises `ArtifactError` without
    any crop.
    """
    base_classes = sorted(base["label"].unique())
    device = choose_device(compute.device)
    settings = training_settings(options)
    network = new_network(
        ClassBlock(vit, fold_layerscale=options.fold_layerscale),
        int(vit.embed_dim),
        len(base_classes) + n_novel_classes,
        heads=options.heads,
        seed=options.seed,
    )
    rows = training_rows(crops, views)
    source = token_source(
        category, views, compute, paths, n_base=len(base), rows=rows, seed=options.seed
    )
    if len(base) + len(crops) == 0:
        raise ArtifactError(f"{category}: there is no crop to train on")
    with track(f"training {category}") as progress:
        return train(
            source,
            network,
            base_labels=np.searchsorted(base_classes, base["label"]).astype(np.int64),
            scores=crops["score"].to_numpy(np.float32)[rows],
            n_base_classes=len(base_classes),
            settings=settings,
            device=device,
            autocast=Autocast(device, "float32" if device.type == "cpu" else compute.dtype),
            checkpoints=checkpoints,
            ranks=current_ranks(),
            progress=progress,
        )


def checkpoints_of(
    category: str,
    n_novel_classes: int,
    options: Train,
    views: Views,
    compute: Compute,
    paths: ArtifactPaths,
) -> EpochCheckpoints:
    """Return where the training of a category keeps its state, to go on after an interruption.

    A state is of the same parameters, crops, backbone, code, torch and device, or not found.
    """
    made_from = {
        **sources(category, views, compute, paths),
        "train": options.to_json(),
        "n_novel_classes": n_novel_classes,
        "device": str(choose_device(compute.device)),
        "torch": torch.__version__,
        "code": _code(),
    }
    return EpochCheckpoints(paths.root / "scratch" / "train" / category, made_from)


def _code() -> str:
    """Return the SHA-256 of the modules that train."""
    found = hashlib.sha256()
    for file in sorted(Path(training.__file__).parent.glob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


def describe_run(
    category: str, n_novel_classes: int, views: Views, compute: Compute, paths: ArtifactPaths
) -> dict[str, Any]:
    """Return what model.json holds of every run: its classes, and what new images need."""
    return {
        "category": category,
        **_score_ranges(category, paths),
        "n_classes": n_novel_classes,
        "params": {
            **params_of(paths.mebin(category) / "images.parquet"),
            **params_of(paths.crops(category) / "crops.parquet"),
            "views": views.to_json(),
            "compute": {"dtype": compute.dtype},
        },
    }


def describe_training(
    run: dict[str, Any], result: TrainingResult, base: pd.DataFrame, options: Train
) -> dict[str, Any]:
    """Return `run` (`describe_run`) with what model.json holds of a trained network."""
    base_classes = sorted(base["label"].unique())
    return {
        **run,
        "n_base_classes": len(base_classes),
        "base_classes": base_classes,
        "head": result.best_head,
        "settings": asdict(training_settings(options)),
        "params": {**run["params"], "train": options.to_json()},
        "torch": torch.__version__,
    }


_MAPS = ("raw_min", "raw_max", "gamma", "bank_sha256", "backbone_sha256")


def _score_ranges(category: str, paths: ArtifactPaths) -> dict[str, Any]:
    """Return what new images need of the maps and of MEBin, and which bank goes with it."""
    binarized = read_metadata(paths.mebin(category) / "images.parquet")
    return {
        "maps": {name: binarized.get(name) for name in _MAPS},
        "mebin": {name: binarized.get(name) for name in ("s_min", "s_max")},
    }
