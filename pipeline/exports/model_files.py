"""A torch module as a file: TorchScript (.pt) or ONNX (.onnx, the extra `onnx`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config.section import ConfigError

Floats = NDArray[np.float32]
Runner = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Runs a written file: images (B, 3, S, S) and masks (B, S, S) to probabilities, embeddings."""

Writer = Callable[[nn.Module, int, Path], Runner]
"""Writes a module for crops of S pixels to a path and reads it back."""


def model_writer(out: Path) -> Writer:
    """Return the writer for the ending of `out`; raise `ConfigError` if there is none."""
    if out.suffix == ".pt":
        return _write_torchscript
    if out.suffix != ".onnx":
        raise ConfigError(f"--out: {out} ends neither in .pt (TorchScript) nor in .onnx")
    missing = [name for name in ("onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--out: {out.name} needs {' and '.join(missing)}: pip install 'anomalyncd[onnx]', or "
            "give a name that ends in .pt"
        )
    return _write_onnx


def _example(size: int) -> tuple[Tensor, Tensor]:
    """Return inputs to trace with: the control flow of the modules does not depend on values."""
    return torch.zeros(2, 3, size, size), torch.ones(2, size, size)


def _write_torchscript(network: nn.Module, size: int, path: Path) -> Runner:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and fixes shape checks
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, _example(size), check_trace=False
        )
        torch.jit.save(traced, str(path))
        loaded = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location="cpu"
        )

    def run(images: Floats, masks: Floats) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            probabilities, embedding = loaded(torch.from_numpy(images), torch.from_numpy(masks))
        return probabilities.numpy(), embedding.numpy()

    return run


def _write_onnx(network: nn.Module, size: int, path: Path) -> Runner:
    import onnxruntime

    batch = {0: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            _example(size),
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
