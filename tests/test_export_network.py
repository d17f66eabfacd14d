"""The exported network answers as the pipeline does, from a file that torch alone can load."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from pipeline.artifacts import REGIONS, Layout, read_parquet, write_parquet
from pipeline.cli import app
from pipeline.config import Params, parse_params
from pipeline.inference import predict
from pipeline.merging import class_probabilities
from pipeline.mgvit import ClassBlock
from pipeline.model_store import (
    crop_arrays,
    load_blocks,
    load_classifier,
    load_vit,
    save_network,
)
from pipeline.tokens import iter_plain
from pipeline.training import new_network
from pipeline.views import plain_view
from pipeline.weights import load_backbone, save
from tests.discovered_data import write_discovered

N_BASE, N_CLASSES, HEAD = 2, 4, 1
SIDE = 64


@pytest.fixture(params=["class", "all"])
def trained(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Layout, Params]:
    layout = write_discovered(tmp_path, classes=N_CLASSES)
    name = "test_vit.r160_in1k"
    save(layout.backbone(), *load_backbone("random", name, Path()))
    train = {
        "image_size": SIDE,
        "mask_on": request.param,
        "mask_layers": 2,
        "classes": N_CLASSES,
        "precision": "float32",
    }
    params = parse_params({"train": train})
    vit = load_vit(layout, image_size=SIDE)
    network = new_network(
        ClassBlock(vit, fold_layerscale=True),
        int(vit.embed_dim),
        N_BASE + N_CLASSES,
        heads=3,
        seed=0,
    )
    description = {
        "n_base_classes": N_BASE,
        "head": HEAD,
        "params": params.model_dump(mode="json", by_alias=True),
    }
    save_network(layout.train("c"), network, description)
    return layout, params


def pipelines(layout: Layout, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and embeddings as the stage `predict` has them from the heads."""
    blocks = load_blocks(layout, params.train)
    block, heads, _ = load_classifier(layout.train("c"), blocks.vit, fold_layerscale=True)
    images, masks = crop_arrays(layout.crops("c"))
    result = predict(
        iter_plain(blocks, images, masks), block, heads, head=HEAD, device=blocks.device
    )
    return class_probabilities(result.logits, N_BASE), result.embeddings


def number_as(layout: Layout, probabilities: np.ndarray) -> None:
    """Make `probabilities` those of regions.parquet."""
    path = layout.predict("c") / "regions.parquet"
    frame: pd.DataFrame = read_parquet(path, REGIONS)
    frame["probabilities"] = list(probabilities.astype(np.float32))
    frame["class"] = probabilities.argmax(1)
    write_parquet(path, frame, REGIONS)


def export(layout: Layout, out: Path) -> tuple[int, str]:
    where = ["--data", str(layout.root), "--names", str(layout.root / "none.yaml")]
    result = CliRunner().invoke(app, ["export", "c", "model", "--out", str(out), *where])
    return result.exit_code, result.output


def views(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    images, masks = crop_arrays(layout.crops("c"))
    pairs = [plain_view(images[i], masks[i], size=SIDE) for i in range(images.shape[0])]
    pixels = np.stack([image for image, _ in pairs]).transpose(0, 3, 1, 2).astype(np.float32)
    return pixels, np.stack([mask for _, mask in pairs]).astype(np.float32)


def run_torchscript(path: Path, images: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return [part.numpy() for part in loaded(torch.tensor(images), torch.tensor(masks))]


def run_onnx(path: Path, images: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    answers: list[np.ndarray] = session.run(None, {"image": images, "mask": masks})
    return answers


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("ending", ["pt", "onnx"])
def test_the_file_answers_as_the_pipeline(
    trained: tuple[Layout, Params], tmp_path: Path, ending: str
) -> None:
    if ending == "onnx" and find_spec("onnxscript") is None:
        pytest.skip("needs the extra onnx")
    layout, params = trained
    probabilities, embeddings = pipelines(layout, params)
    order = [2, 0, 3, 1]  # the run numbers its classes in another way than the head does
    number_as(layout, probabilities[:, order])
    out = tmp_path / f"net.{ending}"
    code, text = export(layout, out)
    assert code == 0, text
    assert "largest difference from torch" in text
    run = run_onnx if ending == "onnx" else run_torchscript
    inputs = views(layout)
    answers = run(out, *inputs)
    # The stage keeps tokens as float16 in between.
    np.testing.assert_allclose(answers[0], probabilities[:, order], atol=2e-3)
    np.testing.assert_allclose(answers[1], embeddings, atol=2e-3)
    assert np.ptp(answers[0], axis=0).max() > 0.01, "all sub-images look the same to this test"
    one = run(out, inputs[0][:1], inputs[1][:1])
    np.testing.assert_allclose(one[0][0], answers[0][0], atol=1e-5)
    hidden = run(out, inputs[0], np.zeros_like(inputs[1]))
    assert np.abs(hidden[0] - answers[0]).max() > 1e-3, "the mask must matter"
    description = json.loads((tmp_path / "net.json").read_text())
    assert description["classes"] == ["normal", "class 1", "class 2", "class 3"]
    assert description["agreement_with_regions"] == 1.0


def test_what_cannot_be_written_is_said(trained: tuple[Layout, Params], tmp_path: Path) -> None:
    layout, _ = trained
    code, text = export(layout, tmp_path / "net.bin")
    assert code == 1
    assert "ends neither in .pt (TorchScript) nor in .onnx" in text
    number_as(layout, np.eye(3)[[0, 1, 2, 0, 1]])
    code, text = export(layout, tmp_path / "net.pt")
    assert code == 1
    assert "4 classes and the regions 3" in text
    assert not (tmp_path / "net.pt").exists()


def test_a_file_that_answers_otherwise_is_not_left(
    trained: tuple[Layout, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.exports.network._difference", lambda *_: float("nan"))
    code, text = export(trained[0], tmp_path / "net.pt")
    assert code == 1
    assert "differs from torch" in text
    assert list(tmp_path.glob("*net*")) == []
