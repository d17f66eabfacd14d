"""The run's classifier as one file: sub-image and mask in, class probabilities and embedding out.

TorchScript by the ending .pt, ONNX by the ending .onnx (the extra `onnx`). Before it gets its name
the network is held against the run's own probabilities, and the file, read again, against torch.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.clustering.normal_images import known_normal
from pipeline.config.params import ConfigError, Predict, Train, Views
from pipeline.curation.names import ClassNames, names_for, run_of
from pipeline.exports.files import refuse_existing
from pipeline.exports.modules import HeadsNetwork, VoteNetwork
from pipeline.io.files import replacing
from pipeline.io.networks import crop_arrays, load_classifier, load_vit, masking, trained_sections
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_classifier import JSON, RegionModel, check_network, load_region_model
from pipeline.io.region_table import read_regions_and_crops
from pipeline.io.scores import scores_of_images
from pipeline.io.stored import parse_stored
from pipeline.io.tables import write_json
from pipeline.mgvit.augmentation import plain_view, resized_side

Floats = NDArray[np.float32]
Runner = Callable[[Floats, Floats], tuple[Floats, Floats]]

TOLERANCE = 1e-4
"""How far the file's answers may be from torch's."""

RUN_TOLERANCE = 0.01
"""How far the probabilities may be from the run's, in the mean: the run may have used bfloat16."""

_CHECKED = 8
_COMPARED = 512
"""Sub-images on which the file is held against torch, and at most so many against the run."""


@dataclass(frozen=True)
class PlainViews:
    """Plain views of sub-images: `images` (M, 3, S, S), `masks` (M, S, S).

    `probabilities` (M, C) are the run's, `comparable` (M,) says where they come from the view.
    """

    images: Floats
    masks: Floats
    probabilities: Floats
    comparable: NDArray[np.bool_]


def write_network(category: str, out: Path, paths: ArtifactPaths, names: Path) -> str:
    """Write the network and, beside it, `<out>.json`, its description; say what was done.

    Raises `ConfigError` if the network does not say what the run says (to 0.01 in the mean), or the
    file not what the network says (to 1e-4).
    """
    write = _writer(out)
    description_path = out.with_name(f"{out.name}.json")
    refuse_existing(out)
    refuse_existing(description_path)
    known = names_for(names, category, paths)
    folder = paths.predict(category)
    model, stored = load_region_model(folder)
    check_network(paths, category)
    options = parse_stored(folder / JSON, "params.predict", Predict, stored["predict"])
    train, views = trained_sections(paths, category)
    network = _load(category, paths, train, views, model, options)
    crops = _views(category, paths, views.image_size, model, options)
    checks = _compare(network, crops)
    with replacing(out) as temporary:
        difference = _difference(network, write(network, crops, temporary), crops)
        if not difference <= TOLERANCE:
            raise ConfigError(f"{out}: differs from torch by {difference:.2g}; it was not written")
    about = {
        "category": category,
        "run": run_of(paths, category),
        **_usage(views.image_size, options, model, known, crops.probabilities.shape[1]),
        **checks,
        "largest_difference_from_torch": difference,
    }
    write_json(description_path, about)
    return f"{_said(about, len(crops.masks))}; description in {description_path}"


def _said(about: dict[str, Any], n: int) -> str:
    """Return the checks in words; there are views of `n` sub-images."""
    said = (
        f"the {about['classifier']} of the run, largest difference from torch "
        f"{about['largest_difference_from_torch']:.2g} on {min(_CHECKED, n)} sub-images"
    )
    if not about["compared_with_regions"]:
        return f"{said}; all regions are normal by score or without a mask: none could be compared"
    return (
        f"{said}, from the run's probabilities {about['largest_difference_from_regions']:.2g} on "
        f"{about['compared_with_regions']}, {about['agreement_with_regions']:.1%} in its class"
    )


def _usage(
    side: int, options: Predict, model: RegionModel, known: ClassNames, n_classes: int
) -> dict[str, Any]:
    """Return what somebody who has the file alone must know to use it."""
    limit = model.score_limit
    return {
        "classifier": options.classifier,
        "classes": [known[number] for number in range(n_classes)],
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
    train: Train,
    views: Views,
    model: RegionModel,
    options: Predict,
) -> HeadsNetwork | VoteNetwork:
    vit = load_vit(paths, image_size=views.image_size)
    network: HeadsNetwork | VoteNetwork
    empty_is_normal = options.normal != "none"
    if model.vote is not None and model.space is not None:
        vit.blocks = vit.blocks[: max(options.layers) + 1]  # the others would be in the file
        network = VoteNetwork(
            vit, options.layers, model.space, model.vote, empty_is_normal=empty_is_normal
        )
    else:
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


def _views(
    category: str, paths: ArtifactPaths, size: int, model: RegionModel, options: Predict
) -> PlainViews:
    """Return the plain views of at most `_COMPARED` sub-images, evenly spread.

    Comparable are those that the run did not call normal by score or area. (A mask that only the
    centre crop empties is not, either: the network takes it for no mask.)
    """
    regions, crops = read_regions_and_crops(paths, category)
    scores = scores_of_images(paths, category, crops)
    normal = known_normal(options.normal, crops["area_px"], scores, model.score_limit)
    images, masks = crop_arrays(paths.crops(category))
    n = int(images.shape[0])
    if n != len(regions):
        raise ConfigError(f"{n} crops and {len(regions)} regions: run `dvc repro`")
    rows = np.unique(np.linspace(0, n - 1, min(n, _COMPARED)).astype(np.int64))
    pairs = [plain_view(np.asarray(images[i]), np.asarray(masks[i]), size=size) for i in rows]
    pixels = np.stack([image.transpose(2, 0, 1) for image, _ in pairs]).astype(np.float32)
    seen = np.stack([mask for _, mask in pairs]).astype(np.float32)
    from_view = seen.any(axis=(1, 2)) | (options.normal == "none")
    theirs = np.stack([np.asarray(p, np.float32) for p in regions["probabilities"].iloc[rows]])
    return PlainViews(pixels, seen, theirs, ~normal[rows] & from_view)


@torch.inference_mode()
def _compare(network: nn.Module, views: PlainViews) -> dict[str, Any]:
    """Return how the network's probabilities compare with the run's.

    Raises `ConfigError` if they differ by more than `RUN_TOLERANCE`.
    """
    chosen = np.flatnonzero(views.comparable)
    pieces = [chosen[start : start + 32] for start in range(0, len(chosen), 32)]
    if not pieces:
        return {"compared_with_regions": 0}
    answers = [network(*_tensors(views.images[rows], views.masks[rows]))[0] for rows in pieces]
    ours, theirs = torch.cat(answers).numpy(), views.probabilities[chosen]  # (Q, C)
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"the network has {ours.shape[1]} classes and the regions {theirs.shape[1]}: run "
            "`dvc repro`"
        )
    gaps = np.abs(ours - theirs).max(1)  # (Q,)
    if not gaps.mean() <= RUN_TOLERANCE:
        raise ConfigError(
            f"the network's probabilities differ from the run's by {gaps.mean():.2g} in the mean: "
            "run `dvc repro`"
        )
    return {
        "compared_with_regions": len(chosen),
        "agreement_with_regions": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "largest_difference_from_regions": float(gaps.max()),
    }


def _tensors(images: Floats, masks: Floats) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images), torch.from_numpy(masks)


@torch.inference_mode()
def _difference(network: nn.Module, runner: Runner, views: PlainViews) -> float:
    """Return the largest difference of the file's answers from torch's, in batches of 1 and 3."""
    largest = 0.0
    for size in (1, 3):
        for start in range(0, min(_CHECKED, len(views.masks)), size):
            piece = slice(start, start + size)
            inputs = views.images[piece], views.masks[piece]
            for ours, torchs in zip(runner(*inputs), network(*_tensors(*inputs)), strict=True):
                largest = max(largest, float(np.abs(ours - torchs.numpy()).max(initial=0)))
    return largest


def _writer(out: Path) -> Callable[[nn.Module, PlainViews, Path], Runner]:
    if out.suffix == ".pt":
        return _torchscript
    if out.suffix != ".onnx":
        raise ConfigError(f"--out: {out} ends neither in .pt (TorchScript) nor in .onnx")
    missing = [name for name in ("onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--out: {out.name} needs {' and '.join(missing)}: pip install 'anomalyncd[onnx]', or "
            "give a name that ends in .pt"
        )
    return _onnx


def _example(views: PlainViews) -> tuple[Tensor, Tensor]:
    """Return two inputs to follow the network with: its control flow does not depend on them."""
    rows = np.arange(2) % len(views.masks)
    return _tensors(views.images[rows], views.masks[rows])


def _torchscript(network: nn.Module, views: PlainViews, path: Path) -> Runner:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and fixes shape checks
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, _example(views), check_trace=False
        )
        torch.jit.save(traced, str(path))
        loaded = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location="cpu"
        )

    def run(images: Floats, masks: Floats) -> tuple[Floats, Floats]:
        probabilities, embedding = loaded(*_tensors(images, masks))
        return probabilities.numpy(), embedding.numpy()

    return run


def _onnx(network: nn.Module, views: PlainViews, path: Path) -> Runner:
    import onnxruntime

    batch = {0: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            _example(views),
            dynamo=True,
            verbose=False,
            dynamic_shapes=(batch, batch),
            input_names=["image", "mask"],
            output_names=["probabilities", "embedding"],
        )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Floats, masks: Floats) -> tuple[Floats, Floats]:
        probabilities, embedding = session.run(None, {"image": images, "mask": masks})
        return probabilities, embedding

    return run
