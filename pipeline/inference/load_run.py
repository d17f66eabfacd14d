"""Put the parts of a finished run together: `load_classifier`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.binarization.mebin import ScoreRange
from pipeline.clustering.descriptors import PooledTokens
from pipeline.config.detection import Maps, Mebin
from pipeline.config.params import Compute, Crops, Merge, Predict, Views
from pipeline.config.section import ConfigError
from pipeline.curation.names import NAMES, ClassNames, names_or_numbers
from pipeline.detectors.base import Detector
from pipeline.inference.detectors import new_detector
from pipeline.inference.map_artifacts import BANK
from pipeline.inference.map_settings import backbone_of_maps
from pipeline.inference.new_images import ImageClassifier, RunOptions, See
from pipeline.inference.patch_features import Resources
from pipeline.inference.region_classes import Seen, load_network, seen_by_heads
from pipeline.io.backbone_weights import saved_sha256
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.networks import JSON as MODEL_JSON
from pipeline.io.networks import load_vit
from pipeline.io.paths import ArtifactPaths, damaged
from pipeline.io.region_classifier import JSON, RegionModel, check_network, load_shaped_model
from pipeline.io.stored import (
    NUMBER,
    Fields,
    check_fields,
    check_sha256,
    parse_stored,
    read_object,
    read_tensors,
)

_RANGES = {
    f"{stage}.{end}": NUMBER
    for stage, ends in (("maps", ("raw_min", "raw_max", "gamma")), ("mebin", ("s_min", "s_max")))
    for end in ends
}

_PARAMS: Fields = {
    "params.manifest.bits": (int,),
    **{f"params.{name}": (dict,) for name in ("maps", "mebin", "crops", "views", "predict")},
    "params.compute.dtype": (str,),
}


def load_classifier(
    data: Path | str,
    category: str,
    *,
    names: Path | str | ClassNames = NAMES,
    merge: Merge | None = None,
    device: str = "auto",
    detector: Detector | None = None,
) -> ImageClassifier:
    """Return what classifies images by a finished run.

    Parameters
    ----------
    data
        The folder of the artifacts.
    category
        The product, one of `dataset.categories`.
    names
        The file of class names, or the names. Names of another run are left out.
    merge
        How regions become a class of their image (None: the defaults of section `merge`).
    device
        As `compute.device`.
    detector
        A detector of one's own that made the maps of the run; it takes the bank of the run by its
        method `load`. None: that of `maps.method`.

    Returns
    -------
    ImageClassifier
        Call it with images.

    Raises
    ------
    ArtifactError
        There is no finished run of `category`, or a file of it is damaged or of another run.
    ConfigError
        The maps of the run were made from ground-truth masks, which new images do not have; a
        device that is not there.

    Examples
    --------
    >>> classifier = load_classifier("data", "metal")  # doctest: +SKIP
    >>> classifier(["new/0001.png"]).names  # doctest: +SKIP
    ['class 3']
    """
    paths = ArtifactPaths(Path(data))
    model, stored = load_shaped_model(paths, category)
    check_network(paths, category)
    options = _options(paths.predict(category) / JSON, stored, merge)
    compute = _compute(paths.predict(category) / JSON, stored["compute"], device)
    model_json = paths.train(category) / MODEL_JSON
    description = read_object(model_json, _RANGES)
    raw, searched = description["maps"], description["mebin"]
    bank_path = paths.maps(category) / BANK
    bank = read_tensors(bank_path)
    check_sha256(bank_path, raw.get("bank_sha256"), model_json)
    if detector is None and options.maps.method != "precomputed":
        detector = _detector(paths, category, options.maps, compute, raw.get("backbone_sha256"))
    if detector is not None:
        try:
            detector.load(bank)
        except KeyError as error:
            raise damaged(bank_path, f"lacks the tensor {error}") from error
    if not isinstance(names, ClassNames):
        names, _ = names_or_numbers(Path(names), category, paths)
    return ImageClassifier(
        options,
        detector,
        (raw["raw_min"], raw["raw_max"], raw["gamma"]),
        ScoreRange(searched["s_min"], searched["s_max"]),
        _eyes(paths, category, options, compute, model),
        model,
        names,
    )


def _detector(
    paths: ArtifactPaths, category: str, options: Maps, compute: Compute, backbone: object
) -> Detector:
    """Return the run's detector; its ViT must have the SHA-256 `backbone` (None: any may be it)."""
    folder = backbone_of_maps(options, paths)
    if backbone is not None and saved_sha256(folder) != backbone:
        raise damaged(
            paths.maps(category) / BANK, f"made by other weights than those in {folder} now"
        )
    return new_detector(options, Resources(folder, compute, category))


def _options(path: Path, stored: dict[str, Any], merge: Merge | None) -> RunOptions:
    """Parse the parameters that classifier.json keeps."""
    check_fields(path, {"params": stored}, _PARAMS)
    if stored["maps"]["method"] == "ground_truth":
        raise ConfigError(
            "the run's maps were made from ground-truth masks, which new images do not have: run "
            "with another maps.method"
        )
    return RunOptions(
        bits=stored["manifest"]["bits"],
        maps=parse_stored(path, "params.maps", Maps, stored["maps"]),
        mebin=parse_stored(path, "params.mebin", Mebin, stored["mebin"]),
        crops=parse_stored(path, "params.crops", Crops, stored["crops"]),
        views=parse_stored(path, "params.views", Views, stored["views"]),
        predict=parse_stored(path, "params.predict", Predict, stored["predict"]),
        merge=Merge() if merge is None else merge,
    )


def _compute(path: Path, stored: dict[str, Any], device: str) -> Compute:
    """Return the run's dtype on a device that may be another."""
    return parse_stored(path, "params.compute", Compute, {**stored, "device": device})


def _eyes(
    paths: ArtifactPaths, category: str, options: RunOptions, compute: Compute, model: RegionModel
) -> See:
    """Return what shows sub-images to the classifier of a run."""
    if model.vote is None:
        network = load_network(paths, category, compute)

        def seen(images: NDArray[np.uint8], weights: NDArray[np.uint8]) -> Seen:
            return seen_by_heads(network, network(images, (weights > 0).astype(np.uint8)))

        return seen
    size = options.views.image_size
    vit, device = load_vit(paths, image_size=size), choose_device(compute.device)
    autocast = Autocast(device, compute.dtype)
    pooling = PooledTokens(vit, options.predict.layers, device=device, autocast=autocast)
    return lambda images, weights: Seen(pooled=pooling.over(images, weights, size=size))
