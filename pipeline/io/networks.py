"""Networks on disk: the frozen backbone, and the trained parts with their description."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zarr
from timm.models.vision_transformer import VisionTransformer

from pipeline.config.params import ConfigError, Precision, Train
from pipeline.io.arrays import open_arrays
from pipeline.io.backbone_weights import load_saved_vit
from pipeline.io.paths import ArtifactError, ArtifactPaths, damaged
from pipeline.io.stored import (
    check_sha256,
    parse_stored,
    read_object,
    read_tensors,
    sha256_of,
    write_tensors,
)
from pipeline.io.tables import write_json
from pipeline.mgvit.attention import ClassBlock, autocast_for
from pipeline.mgvit.augmentation import Augmentations
from pipeline.mgvit.heads import MultiHead
from pipeline.mgvit.network import Network
from pipeline.mgvit.tokens import FrozenBlocks, Masking

JSON = "model.json"
TENSORS = "model.safetensors"
_FIELDS = {
    "head": (int,),
    "n_base_classes": (int,),
    "n_classes": (int,),
    "params.train": (dict,),
}


def choose_device(name: str) -> torch.device:
    """Return the device of `train.device`: 'auto' is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"train.device: {name!r} cannot be used here ({error})") from error
    return device


def masking(train: Train) -> Masking:
    """Return the masking that section `train` asks for."""
    return Masking(train.image_size, train.mask_on, train.mask_layers, train.mask_threshold)


def augmentations(train: Train) -> Augmentations:
    """Return the augmentations that section `train` asks for."""
    return Augmentations(**train.augment.model_dump())


def load_vit(paths: ArtifactPaths, *, image_size: int) -> VisionTransformer:
    """Return the backbone of `data/backbone` for square inputs of `image_size` pixels."""
    return load_saved_vit(paths.backbone(), image_size=image_size)


def load_blocks(paths: ArtifactPaths, train: Train) -> FrozenBlocks:
    """Return the frozen blocks of the backbone on the device of section `train`."""
    device = choose_device(train.device)
    vit = load_vit(paths, image_size=train.image_size)
    return FrozenBlocks(
        vit, masking(train), device=device, autocast=Autocast(device, train.precision)
    )


@dataclass(frozen=True)
class Autocast:
    """Enter the autocast of a device and precision; can be entered again and again."""

    device: torch.device
    precision: Precision

    def __call__(self) -> AbstractContextManager[object]:
        """Return a new context manager."""
        return autocast_for(self.device, self.precision)


def crop_arrays(folder: Path) -> tuple[zarr.Array, zarr.Array]:
    """Return `images` (M, S, S, 3) uint8 and `masks` (M, S, S) uint8 of a crops.zarr."""
    group = open_arrays(folder / "crops.zarr")
    images, masks = group["images"], group["masks"]
    if not (isinstance(images, zarr.Array) and isinstance(masks, zarr.Array)):
        raise ArtifactError(f"{folder}/crops.zarr: `images` and `masks` are not arrays")
    return images, masks


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
    write_json(folder / JSON, {**description, "sha256": sha256_of(path)})


def read_description(folder: Path) -> dict[str, Any]:
    """Return model.json of a training folder."""
    return read_object(folder / JSON, _FIELDS)


def trained_section(paths: ArtifactPaths, category: str) -> Train:
    """Return section `train` as it was when the model was trained."""
    folder = paths.train(category)
    content = read_description(folder)["params"]["train"]
    return parse_stored(folder / JSON, "params.train", Train, content)


def load_classifier(
    folder: Path, vit: VisionTransformer, *, fold_layerscale: bool
) -> tuple[ClassBlock, MultiHead, dict[str, Any]]:
    """Return the trained block, the heads and model.json of a training folder.

    Raises `ArtifactError` if one of the files is damaged, or not of the same training.
    """
    description = read_description(folder)
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
