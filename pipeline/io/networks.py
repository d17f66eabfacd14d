"""Networks on disk: the frozen backbone, and the trained parts with their description."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import zarr
from timm.models.vision_transformer import VisionTransformer

from pipeline.config.params import Compute, Train, Views
from pipeline.io.arrays import open_arrays
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.devices import Autocast, choose_device
from pipeline.io.paths import ArtifactError, ArtifactPaths, damaged
from pipeline.io.stored import (
    Fields,
    check_sha256,
    parse_stored,
    read_object,
    read_tensors,
    sha256_of,
    write_tensors,
)
from pipeline.io.tables import write_json
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.augmentation import Augmentations
from pipeline.mgvit.heads import MultiHead
from pipeline.mgvit.network import Network
from pipeline.mgvit.tokens import FrozenBlocks, Masking

JSON = "model.json"
TENSORS = "model.safetensors"
_RUN_FIELDS: Fields = {
    "trained": (bool,),
    "n_classes": (int,),
    "params.views": (dict,),
}
_NETWORK_FIELDS: Fields = {
    **_RUN_FIELDS,
    "head": (int,),
    "n_base_classes": (int,),
    "params.train": (dict,),
}


def masking(views: Views) -> Masking:
    """Return the masking that section `views` asks for."""
    return Masking(views.image_size, views.mask_on, views.mask_layers, views.mask_threshold)


def augmentations(views: Views) -> Augmentations:
    """Return the augmentations that section `views` asks for."""
    return Augmentations(**views.augment.model_dump())


def load_vit(paths: ArtifactPaths, *, image_size: int) -> VisionTransformer:
    """Return the backbone of `data/backbone` for square inputs of `image_size` pixels."""
    return load_saved_vit(paths.backbone(), image_size=image_size)


def load_blocks(paths: ArtifactPaths, views: Views, compute: Compute) -> FrozenBlocks:
    """Return the frozen blocks of the backbone, as the sections `views` and `compute` ask for."""
    device = choose_device(compute.device)
    vit = load_vit(paths, image_size=views.image_size)
    return FrozenBlocks(
        vit, masking(views), device=device, autocast=Autocast(device, compute.dtype)
    )


def crop_arrays(
    folder: Path, inside: Literal["masks", "weights"] = "masks", *, check: bool = True
) -> tuple[zarr.Array, zarr.Array]:
    """Return `images` (M, S, S, 3) uint8 and `masks` or `weights` (M, S, S) uint8 of a crops.zarr.

    The base set has no `weights`. `check` as in `open_arrays`.
    """
    group = open_arrays(folder / "crops.zarr", check=check)
    images, second = group["images"], group[inside]
    if not (isinstance(images, zarr.Array) and isinstance(second, zarr.Array)):
        raise ArtifactError(f"{folder}/crops.zarr: `images` and `{inside}` are not arrays")
    return images, second


def save_network(folder: Path, network: Network, description: dict[str, Any]) -> None:
    """Write model.safetensors (block, projector, heads) and model.json with its SHA-256."""
    tensors = {}
    for prefix, module in (
        ("block", network.block),
        ("projector", network.projector),
        ("heads", network.heads),
    ):
        for name, tensor in module.state_dict().items():
            tensors[f"{prefix}.{name}"] = tensor.detach().cpu().numpy()
    path = folder / TENSORS
    write_tensors(path, tensors)
    write_json(folder / JSON, {**description, "trained": True, "sha256": sha256_of(path)})


def save_no_network(folder: Path, description: dict[str, Any]) -> None:
    """Write a model.json of a run that trains nothing, and model.safetensors without a tensor."""
    write_tensors(folder / TENSORS, {})
    write_json(folder / JSON, {**description, "trained": False})


def read_description(folder: Path) -> dict[str, Any]:
    """Return model.json of a training folder, which may tell of no network."""
    return read_object(folder / JSON, _RUN_FIELDS)


def _read_network(folder: Path) -> dict[str, Any]:
    """Return model.json of a trained network; raise `ArtifactError` where none was trained."""
    if not read_description(folder)["trained"]:
        raise ArtifactError(
            f"{folder}: no network was trained, as predict.classifier was mixture; set it to heads "
            "and run the stages 'views' and 'train' again (or `dvc repro`)"
        )
    return read_object(folder / JSON, _NETWORK_FIELDS)


def network_digest(folder: Path) -> str:
    """Return the SHA-256 of the trained parameters, or of model.json where there are none."""
    trained = read_description(folder)["trained"]
    return sha256_of(folder / (TENSORS if trained else JSON))


def stored_views(paths: ArtifactPaths, category: str) -> Views:
    """Return the section `views` of the run."""
    path = paths.train(category) / JSON
    content = read_description(path.parent)["params"]
    return parse_stored(path, "params.views", Views, content["views"])


def trained_sections(paths: ArtifactPaths, category: str) -> tuple[Train, Views]:
    """Return the sections `train` and `views` as they were when the model was trained."""
    path = paths.train(category) / JSON
    content = _read_network(path.parent)["params"]
    train = parse_stored(path, "params.train", Train, content["train"])
    return train, parse_stored(path, "params.views", Views, content["views"])


def load_classifier(
    folder: Path, vit: VisionTransformer, *, fold_layerscale: bool
) -> tuple[ClassBlock, MultiHead, dict[str, Any]]:
    """Return the trained block, the heads and model.json of a training folder.

    Raises `ArtifactError` if one of the files is damaged or not of the same training, or nothing
    was trained.
    """
    description = _read_network(folder)
    path = folder / TENSORS
    stored = read_tensors(path, ["heads.weight"])
    check_sha256(path, description.get("sha256"), folder / JSON)
    tensors = {name: torch.from_numpy(array) for name, array in stored.items()}
    weight = tensors["heads.weight"]
    n_classes = description["n_base_classes"] + description["n_classes"]
    if weight.ndim != 3 or weight.shape[1] != n_classes or description["head"] >= len(weight):
        raise damaged(path, f"has heads {tuple(weight.shape)}, not those that {JSON} tells of")
    block = ClassBlock(vit, fold_layerscale=fold_layerscale)
    start = "block."
    own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    try:
        block.load_state_dict(own)
    except RuntimeError as error:
        raise damaged(path, "not the parameters of the backbone's last block") from error
    n_heads, n_classes, dim = weight.shape
    heads = MultiHead(dim, n_classes, heads=n_heads, generator=torch.Generator())
    heads.load_state_dict({"weight": weight})
    return block.eval(), heads.eval(), description
