"""The class network as one file: sub-image and mask in, class probabilities and embedding out.

TorchScript by the ending .pt, ONNX by the ending .onnx (the extra `onnx`). What was written is read
again and held against torch on sub-images of the category before it gets its name.
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
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.artifacts import REGIONS, Layout, read_json, read_parquet, replacing, write_json
from pipeline.config import ConfigError, Train
from pipeline.exports.files import refuse_existing
from pipeline.heads import MultiHead
from pipeline.mgvit import ClassBlock, frozen_tokens, normalization, patch_keep, visible_keys
from pipeline.model_store import crop_arrays, load_classifier, load_vit, masking
from pipeline.names import names_for, run_of
from pipeline.views import plain_view, resized_side

Floats = NDArray[np.float32]
Runner = Callable[[Floats, Floats], tuple[Floats, Floats]]

TOLERANCE = 1e-4
_CHECKED = 8
_COMPARED = 512
"""Sub-images that the file is checked on, and at most so many that the classes are matched on."""


class ClassNetwork(nn.Module):
    """The frozen blocks, the trained class block and one head.

    `order` (C,) long: the head's output that belongs to each discovered class.
    """

    def __init__(
        self, vit: Any, block: ClassBlock, heads: MultiHead, section: Train, *, head: int
    ) -> None:
        super().__init__()
        self.vit, self.block = vit, block
        self.masking, self.temperature = masking(section), section.student_temperature
        self.patch = int(vit.patch_embed.patch_size[0])
        mean, std = normalization(vit)
        self.mean: Tensor
        self.std: Tensor
        self.weight: Tensor
        self.order: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)
        self.register_buffer("weight", F.normalize(heads.weight[head].detach(), dim=-1))
        self.register_buffer("order", torch.arange(len(self.weight)))

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, C) and L2-normalised embeddings (B, D).

        `image` (B, 3, S, S) float32 RGB from 0 to 255, `mask` (B, S, S) float32 in [0, 1].
        """
        options = self.masking
        keep = patch_keep(mask, self.patch, threshold=options.threshold)  # (B, P)
        tokens = frozen_tokens(
            self.vit,
            (image - self.mean) / self.std,
            keep,
            mask_on=options.mask_on,
            mask_layers=options.mask_layers,
        )  # (B, N, D)
        visible = visible_keys(self.vit, keep, mask_on=options.mask_on)
        embedding = F.normalize(self.block(tokens, visible), dim=-1)  # (B, D)
        logits = embedding @ self.weight.T / self.temperature
        return logits[:, self.order].softmax(-1), embedding


@dataclass(frozen=True)
class Views:
    """Plain views of sub-images: `images` (M, 3, S, S) and `masks` (M, S, S); `rows` (M,)."""

    rows: NDArray[np.int64]
    images: Floats
    masks: Floats


def write_network(category: str, out: Path, layout: Layout, names: Path) -> str:
    """Write the network and, beside it, its description with the ending .json; say what was done.

    Raises `ConfigError` if the file would not answer as torch does (to 1e-4).
    """
    write = _writer(out)
    description_path = out.with_suffix(".json")
    refuse_existing(out)
    refuse_existing(description_path)
    known = names_for(names, category, layout)
    description = read_json(layout.train(category) / "model.json")
    section = Train.model_validate(description["params"]["train"])
    network = _load(category, layout, section, description)
    regions = read_parquet(layout.predict(category) / "regions.parquet", REGIONS)
    views = _views(category, layout, section.image_size)
    theirs = np.stack([np.asarray(p) for p in regions["probabilities"].iloc[views.rows]])
    agreement = _match(network, views, theirs, int(description["n_base_classes"]))
    with replacing(out) as temporary:
        runner = write(network, views, temporary)
        difference = _difference(network, runner, views)
        if not difference <= TOLERANCE:
            raise ConfigError(f"{out}: differs from torch by {difference:.2g}; it was not written")
    about = {"category": category, "run": run_of(layout, category)}
    classes = [known[number] for number in range(theirs.shape[1])]
    checks = {
        "agreement_with_regions": round(agreement, 4),
        "largest_difference_from_torch": difference,
    }
    write_json(
        description_path, {**about, "classes": classes, **_usage(section.image_size), **checks}
    )
    return (
        f"largest difference from torch {difference:.2g} on {min(_CHECKED, len(views.rows))} "
        f"sub-images; the network alone gives {agreement:.1%} of {len(views.rows)} regions the "
        f"class of the run; description in {description_path}"
    )


def _usage(side: int) -> dict[str, Any]:
    """Return what somebody who has the file alone must know to use it."""
    return {
        "inputs": {
            "image": f"float32 (B, 3, {side}, {side}), RGB from 0 to 255",
            "mask": f"float32 (B, {side}, {side}), from 0 to 1",
        },
        "resize_to": resized_side(side),
        "centre_crop": side,
        "outputs": ["probabilities", "embedding"],
    }


def _load(category: str, layout: Layout, section: Train, description: Any) -> ClassNetwork:
    vit = load_vit(layout, image_size=section.image_size)
    block, heads, _ = load_classifier(
        layout.train(category), vit, fold_layerscale=section.fold_layerscale
    )
    network = ClassNetwork(vit, block, heads, section, head=int(description["head"]))
    return network.eval().requires_grad_(False)


def _views(category: str, layout: Layout, size: int) -> Views:
    """Return the plain views of at most `_COMPARED` sub-images, evenly spread."""
    images, masks = crop_arrays(layout.crops(category))
    n = int(images.shape[0])
    rows = np.unique(np.linspace(0, n - 1, min(n, _COMPARED)).astype(np.int64))
    pairs = [
        plain_view(np.asarray(images[int(row)]), np.asarray(masks[int(row)]), size=size)
        for row in rows
    ]
    pixels = np.stack([image.transpose(2, 0, 1) for image, _ in pairs]).astype(np.float32)
    return Views(rows, pixels, np.stack([mask for _, mask in pairs]).astype(np.float32))


@torch.inference_mode()
def _match(network: ClassNetwork, views: Views, theirs: Floats, n_base: int) -> float:
    """Put the head's outputs in the order of the run's classes; return the share that agrees.

    The mixture numbers its classes on its own, so outputs and classes are paired one to one such
    that the probabilities of the sub-images agree best. The trained heads' order then is theirs.
    """
    network.order = torch.arange(n_base, len(network.weight))
    if len(network.order) != theirs.shape[1]:
        raise ConfigError(
            f"the network has {len(network.order)} classes and the regions {theirs.shape[1]}: run "
            "`dvc repro`"
        )
    parts = []
    for start in range(0, len(views.rows), 32):
        piece = slice(start, start + 32)
        parts.append(network(*_tensors(views.images[piece], views.masks[piece]))[0].numpy())
    ours = np.concatenate(parts)
    classes, outputs = linear_sum_assignment(theirs.T @ ours, maximize=True)
    network.order = network.order[torch.from_numpy(outputs[classes.argsort()])]
    return float((ours[:, outputs].argmax(1) == theirs.argmax(1)).mean())


def _tensors(images: Floats, masks: Floats) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images), torch.from_numpy(masks)


@torch.inference_mode()
def _difference(network: ClassNetwork, runner: Runner, views: Views) -> float:
    """Return the largest difference of the file's answers from torch's, in batches of 1 and 3."""
    largest = 0.0
    for size in (1, 3):
        for start in range(0, min(_CHECKED, len(views.rows)), size):
            piece = slice(start, start + size)
            inputs = views.images[piece], views.masks[piece]
            for ours, torchs in zip(runner(*inputs), network(*_tensors(*inputs)), strict=True):
                largest = max(largest, float(np.abs(ours - torchs.numpy()).max(initial=0)))
    return largest


def _writer(out: Path) -> Callable[[ClassNetwork, Views, Path], Runner]:
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


def _example(views: Views) -> tuple[Tensor, Tensor]:
    """Return two inputs to follow the network with: its control flow does not depend on them."""
    rows = np.arange(2) % len(views.rows)
    return _tensors(views.images[rows], views.masks[rows])


def _torchscript(network: ClassNetwork, views: Views, path: Path) -> Runner:
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


def _onnx(network: ClassNetwork, views: Views, path: Path) -> Runner:
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
