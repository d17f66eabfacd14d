"""A finished run as one folder that onnxruntime, OpenCV and numpy run: maps, masks and classes."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from pipeline.clustering.descriptors import patch_weights, pool
from pipeline.config.detection import Maps, Mebin
from pipeline.config.params import Compute, Crops, Merge, Predict
from pipeline.config.section import ConfigError
from pipeline.curation.names import names_for, run_of
from pipeline.exports import bundle_program
from pipeline.exports.files import refuse_existing
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import choose_device
from pipeline.io.files import replacing_folder
from pipeline.io.networks import JSON as MODEL_JSON
from pipeline.io.networks import load_vit, stored_views
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_classifier import JSON, RegionModel, check_network, load_shaped_model
from pipeline.io.stored import check_sha256, parse_stored, read_object, read_tensors
from pipeline.io.tables import write_json
from pipeline.mgvit.backbone import Normalise, forward_features
from pipeline.mgvit.precision import stores_half

_MIXTURE = ("mean", "axes", "centres", "precision_cholesky", "log_weights")
_EPSILON = 1e-5
_README = """# {category}

A finished run of AnomalyNCD: anomaly maps, masks and classes of new images.

    pip install numpy opencv-python-headless onnxruntime
    python run.py image.png

prints a line of JSON an image; the status is 0 if all are normal, 1 if not. From Python:

    from run import Bundle
    found = Bundle(".")(image)  # (H, W, 3) uint8 RGB

| file | content |
|---|---|
| patches.onnx | image (1, 3, H, W) to the patch tokens of the layers that maps are made of |
| regions.onnx | crops and their masks to the tokens of regions |
| arrays.npz | banks of normal patches, mixtures, regions of the run (no pickle) |
| bundle.json | constants and names of the classes |
| run.py | all of the rest |
"""


class _Patches(nn.Module):
    """Pixels (1, 3, H, W) from 0 to 255 to layer-normalised tokens (1, P, D) of each layer."""

    def __init__(self, vit: VisionTransformer, layers: Sequence[int]) -> None:
        super().__init__()
        self.vit, self.layers, self.normalise = vit, list(layers), Normalise(vit)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        tokens, _ = forward_features(self.vit, self.normalise(image), layers=self.layers)
        return tuple(functional.layer_norm(t, t.shape[1:], eps=_EPSILON) for t in tokens)


class _Regions(nn.Module):
    """Crops (B, 3, S, S) from 0 to 255 and masks (B, S, S) to pooled tokens (B, L, D)."""

    def __init__(self, vit: VisionTransformer, layers: Sequence[int]) -> None:
        super().__init__()
        self.vit, self.layers, self.normalise = vit, list(layers), Normalise(vit)
        self.patch = int(vit.patch_embed.patch_size[0])

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        weights = patch_weights(mask, self.patch)
        return pool(self.vit, self.layers, self.normalise(image), weights)


def write_bundle(category: str, out: Path, paths: ArtifactPaths, names: Path, merge: Merge) -> str:
    """Write a run as a folder with its own program, run.py; return a summary.

    Raises
    ------
    ConfigError
        `out` exists, a package is missing, or the run uses what a bundle cannot do: another
        detector than nearest, tiles, other masks than MEBin's by rule paper, trained heads, whole
        images as crops, or split classes.
    """
    refuse_existing(out)
    missing = [name for name in ("onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"a bundle needs {' and '.join(missing)}: pip install 'anomalyncd[onnx]'")
    class_names = names_for(names, category, paths)
    model, stored = load_shaped_model(paths, category)
    check_network(paths, category)
    where = paths.predict(category) / JSON
    maps = parse_stored(where, "params.maps", Maps, stored["maps"])
    mebin = parse_stored(where, "params.mebin", Mebin, stored["mebin"])
    crops = parse_stored(where, "params.crops", Crops, stored["crops"])
    predict = parse_stored(where, "params.predict", Predict, stored["predict"])
    used = parse_stored(where, "params.compute", Compute, {**stored["compute"], "device": "cpu"})
    model = _checked(maps, mebin, crops, model)
    description = read_object(paths.train(category) / MODEL_JSON, {})
    bank_path = paths.maps(category) / "bank.safetensors"
    bank = read_tensors(bank_path, ["run_scales", "score_scales"])
    check_sha256(bank_path, description["maps"].get("bank_sha256"), paths.train(category))
    side = stored_views(paths, category).image_size
    layers = sorted({layer for layer, _ in maps.runs})
    folder = paths.backbone() if maps.backbone is None else paths.maps_backbone()
    resolution = 448 if maps.resolution == "auto" else maps.resolution
    aspect = 1.0 if maps.aspect == "auto" else maps.aspect
    vit = load_saved_vit(folder, image_size=resolution, aspect=aspect).eval()
    grid = [int(n) for n in vit.patch_embed.grid_size]
    patch = int(vit.patch_embed.patch_size[0])
    size = [grid[0] * patch, grid[1] * patch]
    limits = (model.score_limit, model.known.limit)
    votes = _votes(model)
    about: dict[str, Any] = {
        "category": category,
        "run": run_of(paths, category),
        "classes": [class_names[number] for number in range(votes.shape[1])],
        "input": size,
        "grid": grid,
        "runs": [[layers.index(layer), width] for layer, width in maps.runs],
        "half": stores_half(choose_device("cpu"), used.dtype),
        "map_size": maps.map_size,
        **{key: description["maps"][key] for key in ("raw_min", "raw_max", "gamma")},
        **{key: description["mebin"][key] for key in ("s_min", "s_max")},
        **{key: getattr(mebin, key) for key in ("erode_px", "n_thresholds", "tau")},
        "squares": {
            key: getattr(crops, key) for key in ("padding", "smallest_side", "merge_distance")
        },
        "keep": None if crops.keep == "delta" else 0 if crops.keep == "all" else int(crops.keep),
        "crop_size": crops.size,
        "view_size": side,
        "mixture_layers": [m.layer for m in model.vote.mixtures],  # type: ignore[union-attr]
        "normal": predict.normal,
        "score_limit": limits[0] if np.isfinite(limits[0]) else None,
        "known_limit": limits[1] if np.isfinite(limits[1]) else None,
        "weights": merge.weights,
        "temperature": merge.temperature,
    }
    with replacing_folder(out) as temporary:
        temporary.mkdir()
        _write_onnx(
            _Patches(vit, layers),
            (torch.zeros(1, 3, *size),),
            temporary / "patches.onnx",
            ["image"],
        )
        regions_vit = load_vit(paths, image_size=side)
        regions_vit.blocks = regions_vit.blocks[: max(predict.layers) + 1]
        example = (torch.zeros(2, 3, side, side), torch.ones(2, side, side))
        _write_onnx(
            _Regions(regions_vit, predict.layers),
            example,
            temporary / "regions.onnx",
            ["image", "mask"],
        )
        np.savez(temporary / "arrays.npz", **_arrays(model, votes, bank, len(maps.runs)))
        write_json(temporary / "bundle.json", about)
        shutil.copyfile(bundle_program.__file__, temporary / "run.py")
        (temporary / "README.md").write_text(_README.format(category=category), encoding="utf-8")
        total = sum(file.stat().st_size for file in temporary.iterdir())
    return f"run.py and what it needs, {total / 2**20:.0f} MiB; python {out / 'run.py'} IMAGE"


def _checked(maps: Maps, mebin: Mebin, crops: Crops, model: RegionModel) -> RegionModel:
    """Return the model with sums for merged classes; raise `ConfigError` for what is not there."""
    problems = {
        f"maps.method {maps.method} (nearest alone)": maps.method != "nearest",
        "maps.tiles above 1": maps.tiles not in ("auto", 1),
        "mebin.method other than mebin": mebin.method != "mebin",
        "mebin.rule reference": mebin.rule != "paper",
        "crops.enabled: false": not crops.enabled,
        "predict.classifier heads": model.vote is None,
    }
    sums = None if model.shaped is None else model.shaped.sums()
    problems["split classes"] = model.shaped is not None and sums is None
    found = [name for name, there in problems.items() if there]
    if found:
        raise ConfigError(
            f"a bundle cannot do what this run uses: {', '.join(found)}; use `anomalyncd classify`"
        )
    if sums is None or model.vote is None:
        return model
    return replace(model, vote=replace(model.vote, votes=model.vote.votes @ sums), shaped=None)


def _votes(model: RegionModel) -> np.ndarray[Any, np.dtype[np.float64]]:
    assert model.vote is not None
    return np.asarray(model.vote.votes, np.float64)


def _arrays(
    model: RegionModel, votes: np.ndarray[Any, Any], bank: dict[str, Any], n_runs: int
) -> dict[str, Any]:
    assert model.vote is not None
    assert model.space is not None
    arrays: dict[str, Any] = {f"bank_{k}": bank[f"patches_{k}"] for k in range(n_runs)}
    arrays |= {name: bank[name] for name in ("run_scales", "score_scales")}
    arrays |= {"space_mean": model.space.mean, "space_spread": model.space.spread, "votes": votes}
    arrays["known"] = model.known.unit_descriptors.astype(np.float16)
    for i, mixture in enumerate(model.vote.mixtures):
        arrays |= {f"mixture_{i}_{name}": getattr(mixture, name) for name in _MIXTURE}
    return arrays


def _write_onnx(
    network: nn.Module, example: tuple[Tensor, ...], path: Path, names: list[str]
) -> None:
    """Write a module; with two inputs their first axis is free."""
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = None if len(example) == 1 else tuple(batch for _ in example)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.eval().requires_grad_(False),
            example,
            dynamo=True,
            verbose=False,
            dynamic_shapes=shapes,
            input_names=names,
        )
    assert program is not None
    program.save(str(path))
