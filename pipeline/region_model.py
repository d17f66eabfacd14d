"""What classifies regions, on disk: classifier.json and classifier.safetensors (an edge)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pipeline.artifacts import ArtifactError, read_json, replacing, write_json
from pipeline.descriptors import DescriptorSpace
from pipeline.mixture import Mixture, Vote
from pipeline.novelty import Familiar

JSON = "classifier.json"
TENSORS = "classifier.safetensors"
_MIXTURE = ("mean", "axes", "centres", "precision", "log_weights")


@dataclass(frozen=True)
class RegionModel:
    """A fitted classifier of regions.

    Images are normal up to `score_limit` (-inf: none is by its score), `known` are the regions of
    the run, `space` and `vote` the mixture's (None: heads).
    """

    score_limit: float
    known: Familiar
    space: DescriptorSpace | None = None
    vote: Vote | None = None


def save_region_model(folder: Path, model: RegionModel, params: Mapping[str, Any]) -> None:
    """Write the model with the parameters of its run."""
    tensors: dict[str, NDArray[Any]] = {"known": model.known.directions.astype(np.float16)}
    if model.space is not None and model.vote is not None:
        tensors |= {"space.mean": model.space.mean, "space.spread": model.space.spread}
        tensors["votes"] = model.vote.votes
        for i, mixture in enumerate(model.vote.mixtures):
            tensors |= {f"mixture_{i}.{name}": getattr(mixture, name) for name in _MIXTURE}
    with replacing(folder / TENSORS) as temporary:
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary)
    content = {
        "score_limit": _or_none(model.score_limit),
        "known_limit": _or_none(model.known.limit),
        "layers": None if model.vote is None else [m.layer for m in model.vote.mixtures],
        "params": dict(params),
    }
    write_json(folder / JSON, content)


def load_region_model(folder: Path) -> tuple[RegionModel, dict[str, Any]]:
    """Return the model and the parameters of its run."""
    content = read_json(folder / JSON)
    path = folder / TENSORS
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: run the stage 'predict' first")
    tensors = load_file(path)
    limit = content["known_limit"]
    known = Familiar(tensors["known"].astype(np.float32), math.inf if limit is None else limit)
    score = content["score_limit"]
    score_limit = -math.inf if score is None else float(score)
    if content["layers"] is None:
        return RegionModel(score_limit, known), content["params"]
    mixtures = [
        Mixture(layer, *(tensors[f"mixture_{i}.{name}"] for name in _MIXTURE))
        for i, layer in enumerate(content["layers"])
    ]
    space = DescriptorSpace(tensors["space.mean"], tensors["space.spread"])
    return RegionModel(score_limit, known, space, Vote(mixtures, tensors["votes"])), content[
        "params"
    ]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
