"""The run's classifier as one file: from crop and mask to class probabilities and embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clustering.normal_images import known_normal
from pipeline.config.params import Predict, Views
from pipeline.config.section import ConfigError
from pipeline.curation.names import ClassNames, names_for, run_of
from pipeline.exports.files import refuse_existing
from pipeline.exports.model_files import Runner, model_writer
from pipeline.exports.modules import HeadsNetwork, MixtureNetwork
from pipeline.io.files import replacing
from pipeline.io.networks import (
    crop_arrays,
    load_classifier,
    load_vit,
    masking,
    stored_views,
    trained_sections,
)
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_classifier import JSON, RegionModel, check_network, load_shaped_model
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.scores import scores_of_images
from pipeline.io.stored import parse_stored
from pipeline.io.tables import write_json
from pipeline.mgvit.augmentation import plain_view, resized_side

Floats = NDArray[np.float32]

TOLERANCE = 0.01
"""Largest mean difference from the run's probabilities, which may be of a network in bfloat16."""

_COMPARED = 64
_BATCH = 32


@dataclass(frozen=True)
class PlainViews:
    """Plain views of crops, with the run's probabilities of their classes.

    `images` float32 (Q, 3, S, S), `masks` float32 (Q, S, S), `probabilities` float32 (Q, C).
    """

    images: Floats
    masks: Floats
    probabilities: Floats


def write_network(category: str, out: Path, paths: ArtifactPaths, names: Path) -> str:
    """Write the classifier of a run as a TorchScript or ONNX file, with `<out>.json` beside it.

    The file is read again and its probabilities compared with those of regions.parquet.

    Parameters
    ----------
    category
        A category with a finished run.
    out
        The file to write; its ending, .pt or .onnx, chooses the kind.
    names
        The file with the names of the classes.

    Returns
    -------
    One line about the comparison.

    Raises
    ------
    ConfigError
        `out` exists or has another ending, or the file disagrees with regions.parquet by more than
        0.01 in the mean. Nothing is left then.
    """
    write = model_writer(out)
    description_path = out.with_name(f"{out.name}.json")
    refuse_existing(out)
    refuse_existing(description_path)
    class_names = names_for(names, category, paths)
    folder = paths.predict(category)
    model, stored = load_shaped_model(paths, category)
    model = _summed(category, model)
    check_network(paths, category)
    options = parse_stored(folder / JSON, "params.predict", Predict, stored["predict"])
    views = stored_views(paths, category)
    network = _load(category, paths, views, model, options)
    crops, n_classes = _views(category, paths, views.image_size, model, options)
    with replacing(out) as temporary:
        comparison = _compare(write(network, views.image_size, temporary), crops)
    description = {
        "category": category,
        "run": run_of(paths, category),
        **_usage(views.image_size, options, model, class_names, n_classes),
        **comparison,
    }
    write_json(description_path, description)
    return f"{_summary(description)}; description in {description_path}"


def _summary(description: dict[str, Any]) -> str:
    """Return the comparison in words."""
    classifier = f"the {description['classifier']} classifier of the run"
    if not description["compared_with_regions"]:
        return f"{classifier}; not compared: all regions are normal by score or without a mask"
    return (
        f"{classifier}, largest difference from regions.parquet "
        f"{description['largest_difference_from_regions']:.2g} on "
        f"{description['compared_with_regions']} crops, "
        f"{description['agreement_with_regions']:.1%} in the same class"
    )


def _usage(
    side: int, options: Predict, model: RegionModel, class_names: ClassNames, n_classes: int
) -> dict[str, Any]:
    """Return what is needed to use the file without this project."""
    limit = model.score_limit
    return {
        "classifier": options.classifier,
        "classes": [class_names[number] for number in range(n_classes)],
        "inputs": {
            "image": f"float32 (B, 3, {side}, {side}), RGB from 0 to 255",
            "mask": f"float32 (B, {side}, {side}), from 0 to 1",
        },
        "resize_to": resized_side(side),
        "centre_crop": side,
        "outputs": ["probabilities", "embedding"],
        "normal_up_to_score": limit if np.isfinite(limit) else None,
    }


def _load(
    category: str,
    paths: ArtifactPaths,
    views: Views,
    model: RegionModel,
    options: Predict,
) -> HeadsNetwork | MixtureNetwork:
    vit = load_vit(paths, image_size=views.image_size)
    network: HeadsNetwork | MixtureNetwork
    empty_is_normal = options.normal != "none"
    if model.vote is not None and model.space is not None:
        vit.blocks = vit.blocks[: max(options.layers) + 1]  # the others would be in the file
        network = MixtureNetwork(
            vit, options.layers, model.space, model.vote, empty_is_normal=empty_is_normal
        )
    else:
        train, _ = trained_sections(paths, category)
        block, heads, trained = load_classifier(
            paths.train(category), vit, fold_layerscale=train.fold_layerscale
        )
        network = HeadsNetwork(
            vit,
            block,
            heads,
            masking(views),
            head=int(trained["head"]),
            n_base=int(trained["n_base_classes"]),
            temperature=train.student_temperature,
            empty_is_normal=empty_is_normal,
        )
    return network.eval().requires_grad_(False)


def _summed(category: str, model: RegionModel) -> RegionModel:
    """Return the model with votes for merged classes; raise `ConfigError` for split ones."""
    if model.shaped is None:
        return model
    sums = model.shaped.sums()
    if sums is None or model.vote is None:
        raise ConfigError(
            f"{category}: an exported model can have merged classes of the mixture, but no split "
            "ones, nor merged ones of trained heads: use `anomalyncd classify`, or take choices "
            "back (`anomalyncd split --undo`)"
        )
    return replace(model, vote=replace(model.vote, votes=model.vote.votes @ sums), shaped=None)


def _views(
    category: str, paths: ArtifactPaths, size: int, model: RegionModel, options: Predict
) -> tuple[PlainViews, int]:
    """Return at most `_COMPARED` views, evenly spread, and the number of classes.

    Left out are crops that the run called normal by score or area, and masks that only the centre
    crop empties: the network takes them for no mask.
    """
    regions, crops = read_regions_and_crops(paths, category)
    scores = scores_of_images(paths, category, crops)
    normal = known_normal(options.normal, crops["area_px"], scores, model.score_limit)
    mixture = options.classifier == "mixture"
    images, masks = crop_arrays(paths.crops(category), "weights" if mixture else "masks")
    if int(images.shape[0]) != len(regions):
        raise ConfigError(f"{images.shape[0]} crops and {len(regions)} regions: run `dvc repro`")
    chosen = np.flatnonzero(~normal)
    n_compared = min(_COMPARED, len(chosen))
    chosen = chosen[np.linspace(0, len(chosen) - 1, n_compared).astype(np.int64)]
    pairs = [plain_view(np.asarray(images[i]), np.asarray(masks[i]), size=size) for i in chosen]
    pixels = [image.transpose(2, 0, 1).astype(np.float32) for image, _ in pairs]
    insides = [mask.astype(np.float32) / (255 if mixture else 1) for _, mask in pairs]
    probabilities = np.stack([np.asarray(p, np.float32) for p in regions["probabilities"]])
    usable = np.array([mask.any() or options.normal == "none" for mask in insides], np.bool_)
    views = PlainViews(
        np.array(pixels, np.float32).reshape(-1, 3, size, size)[usable],
        np.array(insides, np.float32).reshape(-1, size, size)[usable],
        probabilities[chosen][usable],
    )
    return views, probabilities.shape[1]


def _compare(run: Runner, views: PlainViews) -> dict[str, Any]:
    """Compare the probabilities of the file with the run's.

    Raises `ConfigError` if they differ by more than `TOLERANCE` in the mean.
    """
    n = len(views.masks)
    if n == 0:
        return {"compared_with_regions": 0}
    pieces = [slice(start, start + _BATCH) for start in range(0, n, _BATCH)]
    ours = np.concatenate([run(views.images[rows], views.masks[rows])[0] for rows in pieces])
    theirs = views.probabilities  # (Q, C)
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"the network has {ours.shape[1]} classes and the regions {theirs.shape[1]}: run "
            "`dvc repro`"
        )
    gaps = np.abs(ours - theirs).max(1)  # (Q,)
    if not gaps.mean() <= TOLERANCE:
        raise ConfigError(
            f"the probabilities of the model differ from regions.parquet by {gaps.mean():.2g} in "
            "the mean, so it was not written: run `dvc repro`"
        )
    return {
        "compared_with_regions": n,
        "agreement_with_regions": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "largest_difference_from_regions": float(gaps.max()),
    }
