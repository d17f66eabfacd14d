"""What classifies regions, on disk: classifier.json and classifier.safetensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clustering.class_choices import ShapedClasses
from pipeline.clustering.conformal import Limit
from pipeline.clustering.descriptors import DescriptorSpace
from pipeline.clustering.ensemble import Mixture, MixtureEnsemble
from pipeline.clustering.novelty import KnnNovelty
from pipeline.io.class_tree import has_tree, read_tree
from pipeline.io.networks import network_digest
from pipeline.io.paths import ArtifactError, ArtifactPaths, damaged
from pipeline.io.stored import (
    NONE,
    NUMBER,
    check_sha256,
    read_object,
    read_tensors,
    sha256_of,
    write_tensors,
)
from pipeline.io.tables import read_metadata, write_json

JSON = "classifier.json"
TENSORS = "classifier.safetensors"
_MIXTURE = ("mean", "axes", "centres", "precision_cholesky", "log_weights")
_FIELDS = {
    "score_limit": (*NUMBER, NONE),
    "score_limit_basis": (str,),
    "false_alarms": (*NUMBER, NONE),
    "separation": (*NUMBER, NONE),
    "known_limit": (*NUMBER, NONE),
    "layers": (list, NONE),
    "params.manifest": (dict,),
    "params.maps": (dict,),
    "params.maps.method": (str,),
    "params.predict": (dict,),
}


@dataclass(frozen=True)
class RegionModel:
    """A fitted classifier of regions.

    Images are normal up to the score `normal` (-inf: none is by its score), `known` are the regions
    of the run, `space` and `vote` the mixture's (None: heads), `shaped` the
    classes that people merged and split (None: nothing was).
    """

    normal: Limit
    known: KnnNovelty
    space: DescriptorSpace | None = None
    vote: MixtureEnsemble | None = None
    shaped: ShapedClasses | None = None

    @property
    def score_limit(self) -> float:
        """Return the highest image score that is normal."""
        return self.normal.value


def save_region_model(
    folder: Path, model: RegionModel, params: Mapping[str, Any], network: str | None = None
) -> str:
    """Write the model with the parameters of its run; return the SHA-256 of its tensors.

    `network` is the SHA-256 of the trained parameters that the regions were seen by, or of the
    description of a run without any (`network_digest`).
    """
    tensors: dict[str, NDArray[Any]] = {"known": model.known.unit_descriptors.astype(np.float16)}
    if model.space is not None and model.vote is not None:
        tensors |= {"space.mean": model.space.mean, "space.spread": model.space.spread}
        tensors["votes"] = model.vote.votes
        for i, mixture in enumerate(model.vote.mixtures):
            tensors |= {f"mixture_{i}.{name}": getattr(mixture, name) for name in _MIXTURE}
    write_tensors(folder / TENSORS, tensors)
    digest = sha256_of(folder / TENSORS)
    content = {
        "sha256": digest,
        "model_sha256": network,
        "score_limit": _or_none(model.score_limit),
        "score_limit_basis": model.normal.basis,
        "false_alarms": model.normal.false_alarms,
        "separation": _or_none(model.normal.separation),
        "known_limit": _or_none(model.known.limit),
        "layers": None if model.vote is None else [m.layer for m in model.vote.mixtures],
        "params": dict(params),
    }
    write_json(folder / JSON, content)
    return digest


def load_region_model(folder: Path) -> tuple[RegionModel, dict[str, Any]]:
    """Return the model and the parameters of its run.

    Raises `ArtifactError` if a file is damaged, or not of the same run as regions.parquet.
    """
    content = read_object(folder / JSON, _FIELDS)
    layers = content["layers"]
    names = ["known"]
    if layers is not None:
        names += ["space.mean", "space.spread", "votes"]
        names += [f"mixture_{i}.{name}" for i in range(len(layers)) for name in _MIXTURE]
    path, table = folder / TENSORS, folder / "regions.parquet"
    tensors = read_tensors(path, names)
    check_sha256(path, content.get("sha256"), folder / JSON)
    check_sha256(path, read_metadata(table).get("classifier_sha256"), table)
    if any(type(layer) is not int for layer in layers or ()):
        raise damaged(folder / JSON, f"the key 'layers' is {layers}, not a list of integers")
    limit = content["known_limit"]
    known = KnnNovelty(tensors["known"].astype(np.float32), math.inf if limit is None else limit)
    normal = _limit(content)
    if layers is None:
        return RegionModel(normal, known), content["params"]
    mixtures = [
        Mixture(layer, *(tensors[f"mixture_{i}.{name}"] for name in _MIXTURE))
        for i, layer in enumerate(layers)
    ]
    space = DescriptorSpace(tensors["space.mean"], tensors["space.spread"])
    return RegionModel(normal, known, space, MixtureEnsemble(mixtures, tensors["votes"])), content[
        "params"
    ]


def load_shaped_model(paths: ArtifactPaths, category: str) -> tuple[RegionModel, dict[str, Any]]:
    """Return what `load_region_model` does, with the classes of the stage `shape` if that ran."""
    model, stored = load_region_model(paths.predict(category))
    if has_tree(paths, category):
        shaped, _ = read_tree(paths, category)
        if not shaped.is_unchanged:
            model = replace(model, shaped=shaped)
    return model, stored


def _limit(content: Mapping[str, Any]) -> Limit:
    score, separation = content["score_limit"], content["separation"]
    return Limit(
        -math.inf if score is None else float(score),
        content["score_limit_basis"],
        content["false_alarms"],
        math.nan if separation is None else float(separation),
    )


def check_network(paths: ArtifactPaths, category: str) -> None:
    """Raise `ArtifactError` unless the network, or the run without one, is what `predict` used."""
    folder = paths.train(category)
    used = read_object(paths.predict(category) / JSON, {}).get("model_sha256")
    if used is not None and network_digest(folder) != used:
        raise ArtifactError(
            f"{paths.predict(category)}: made by another network than that of {folder}; run the "
            "stage 'predict' again (or `dvc repro`)"
        )


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
