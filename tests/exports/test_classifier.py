"""The exported network says what `predict` says, from a file that torch alone can load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.clustering.descriptors import DescriptorSpace, PooledTokens
from pipeline.clustering.ensemble import Mixture, MixtureEnsemble
from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.exports.modules import MixtureNetwork
from pipeline.inference.region_features import pooled_tokens
from pipeline.io.arrays import ArraySpec, create_arrays, open_arrays
from pipeline.io.backbone_weights import load_backbone, save
from pipeline.io.networks import crop_arrays, load_vit, save_network
from pipeline.io.paths import ArtifactPaths
from pipeline.io.region_classifier import RegionModel, load_region_model
from pipeline.io.schemas import CROPS, IMAGES, MAP_SCORES, REFERENCE_SCORES, REGIONS
from pipeline.io.tables import read_parquet, write_parquet
from pipeline.mgvit.attention import ClassBlock, create_vit
from pipeline.mgvit.augmentation import plain_view
from pipeline.mgvit.network import new_network
from stages import predict
from tests.running import run_stage

N_BASE, N_CLASSES, HEAD = 2, 4, 1
SIDE, N = 64, 48
WITHOUT = range(0, N, 12)
"""Sub-images in which nothing was found."""


def write_crops(paths: ArtifactPaths) -> None:
    """Write 48 sub-images of four textures; the images of every fourth have low scores."""
    rng = np.random.default_rng(0)
    textures = [
        cv2.resize(rng.integers(0, 256, (8 * 2**k, 8 * 2**k, 3), np.uint8), (80, 80))
        for k in range(4)
    ]
    images = np.stack([textures[i % 4] for i in range(N)]).astype(int)
    images = np.clip(images + rng.normal(0, 40, images.shape), 0, 255).astype(np.uint8)
    masks = np.zeros((N, 80, 80), np.uint8)
    for i in set(range(N)) - set(WITHOUT):
        y, x = rng.integers(8, 40, 2)
        masks[i, y : y + 24, x : x + 24] = 1
    ids = [f"{i:016x}" for i in range(N)]
    area = masks.sum((1, 2)).astype(int)
    score = np.where(np.arange(N) % 4 == 0, 0.1, 0.8) * rng.uniform(0.95, 1.05, N)
    rows = [(f"{s}-0", s, 0, 0, 0, 80, int(n), x) for s, n, x in zip(ids, area, score, strict=True)]
    write_parquet(
        paths.crops("c") / "crops.parquet", pd.DataFrame(rows, columns=CROPS.names), CROPS
    )
    listed = pd.DataFrame({"sample_id": ids, "path": ids, "part": ids})
    listed = listed.assign(split="query", height=80, width=80, channels=3)
    write_parquet(paths.manifest("c") / "images.parquet", listed, IMAGES)
    scores = pd.DataFrame({"sample_id": ids, "score": score, "image_score": score})
    write_parquet(paths.maps("c") / "scores.parquet", scores, MAP_SCORES)
    none = pd.DataFrame(columns=REFERENCE_SCORES.names)
    write_parquet(paths.maps("c") / "references.parquet", none, REFERENCE_SCORES)
    specs = {
        "images": ArraySpec(images.shape, "uint8"),
        "masks": ArraySpec(masks.shape, "uint8"),
        "weights": ArraySpec(masks.shape, "uint8"),
    }
    weights = masks * rng.integers(1, 256, masks.shape, np.uint8)
    with create_arrays(paths.crops("c") / "crops.zarr", specs) as arrays:
        arrays["images"][:], arrays["masks"][:], arrays["weights"][:] = images, masks, weights


def run_predict(
    root: Path, *, classifier: str = "mixture", mask_on: str = "class", normal: str = "scores"
) -> tuple[ArtifactPaths, Params]:
    """Write what `predict` reads, with random networks, and run it."""
    paths = ArtifactPaths(root / "data")
    write_crops(paths)
    save(paths.backbone(), *load_backbone("random", "test_vit.r160_in1k", Path()))
    views = {"image_size": SIDE, "mask_on": mask_on, "mask_layers": 2}
    section = {"classifier": classifier, "normal": normal, "layers": [2, 4], "dimensions": [3, 5]}
    params = parse_params({"views": views, "predict": section, "compute": {"dtype": "float32"}})
    vit = load_vit(paths, image_size=SIDE)
    network = new_network(
        ClassBlock(vit, fold_layerscale=True),
        int(vit.embed_dim),
        N_BASE + N_CLASSES,
        heads=3,
        seed=0,
    )
    description = {
        "n_base_classes": N_BASE,
        "n_classes": N_CLASSES,
        "head": HEAD,
        "params": params.model_dump(mode="json", by_alias=True),
    }
    save_network(paths.train("c"), network, description)
    run_stage(predict, "c", params, paths)
    return paths, params


Runs = Callable[..., tuple[ArtifactPaths, Params]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return `run_predict` that runs once for the same options; nobody may change what it wrote."""

    @cache
    def run(**options: str) -> tuple[ArtifactPaths, Params]:
        return run_predict(tmp_path_factory.mktemp("run"), **options)

    return run


def regions_of(paths: ArtifactPaths) -> pd.DataFrame:
    return read_parquet(paths.predict("c") / "regions.parquet", REGIONS)


def export(paths: ArtifactPaths, out: Path) -> tuple[int, str]:
    where = ["--data", str(paths.root), "--names", str(paths.root / "none.yaml")]
    result = CliRunner().invoke(app, ["export", "model", "c", "--out", str(out), *where])
    return result.exit_code, result.output


def views(paths: ArtifactPaths, classifier: str) -> tuple[np.ndarray, np.ndarray]:
    kind, top = ("weights", 255) if classifier == "mixture" else ("masks", 1)
    images, masks = crop_arrays(paths.crops("c"), kind)
    pairs = [plain_view(images[i], masks[i], size=SIDE) for i in range(images.shape[0])]
    pixels = np.stack([image for image, _ in pairs]).transpose(0, 3, 1, 2).astype(np.float32)
    return pixels, np.stack([mask / np.float32(top) for _, mask in pairs])


def run_torchscript(path: Path, images: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return [part.numpy() for part in loaded(torch.tensor(images), torch.tensor(masks))]


def run_onnx(path: Path, images: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    answers: list[np.ndarray] = session.run(None, {"image": images, "mask": masks})
    return answers


def embeddings_of(paths: ArtifactPaths, params: Params, model: RegionModel) -> np.ndarray:
    """Return what `classify` compares: embeddings, or the layers' directions in one row."""
    if model.space is None:
        return np.stack(regions_of(paths)["embedding"].tolist())
    layers = params.predict.layers
    x = model.space(pooled_tokens(paths, "c", params.compute, layers, image_size=SIDE))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    return np.asarray(x.reshape(len(x), -1) / np.sqrt(x.shape[1]))


def test_the_vote_of_a_module_is_that_of_its_mixtures() -> None:
    """Against `PooledTokens`, `DescriptorSpace` and `MixtureEnsemble` in double precision."""
    rng = np.random.default_rng(0)
    vit = create_vit("test_vit.r160_in1k", None, image_size=SIDE)
    dim, layers = int(vit.embed_dim), [3, 1]
    images = rng.integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    masks = rng.random((6, SIDE, SIDE), np.float32) * (np.arange(6) != 2)[:, None, None]
    pooled = PooledTokens(vit, layers, device=torch.device("cpu"))(images, masks)
    space = DescriptorSpace(pooled.mean(0, dtype=np.float64), np.array([0.4, 1.7]))
    mixtures = [
        Mixture(
            layer,
            rng.normal(size=dim) / 10,
            rng.normal(size=(3, dim)) / dim**0.5,
            rng.normal(size=(4, 3)),
            np.triu(rng.normal(size=(3, 3))),
            np.log([0.1, 0.2, 0.3, 0.4]),
        )
        for layer in (0, 1, 1)
    ]
    vote = MixtureEnsemble(mixtures, rng.random((12, 3)))
    network = MixtureNetwork(vit, layers, space, vote, empty_is_normal=False)
    inputs = torch.tensor(images).permute(0, 3, 1, 2).float(), torch.tensor(masks)
    probabilities = network(*inputs)[0].numpy()
    np.testing.assert_allclose(probabilities, vote.probabilities(space(pooled)), atol=1e-5)
    nothing = MixtureEnsemble([], np.eye(1, 3))
    network = MixtureNetwork(vit, layers, space, nothing, empty_is_normal=False)
    np.testing.assert_array_equal(network(*inputs)[0], [[1, 0, 0]] * 6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("ending", ["pt", "onnx"])
@pytest.mark.parametrize("kind", ["mixture class", "heads class", "heads all"])
def test_the_file_answers_as_the_pipeline(
    runs: Runs, tmp_path: Path, kind: str, ending: str
) -> None:
    if ending == "onnx" and find_spec("onnxscript") is None:
        pytest.skip("needs the extra onnx")
    classifier, mask_on = kind.split()
    paths, params = runs(classifier=classifier, mask_on=mask_on)
    model, _ = load_region_model(paths.predict("c"))
    regions = regions_of(paths)
    theirs = np.stack(regions["probabilities"].tolist())
    out = tmp_path / f"net.{ending}"
    code, text = export(paths, out)
    assert code == 0, text
    assert f"the {classifier} classifier of the run, largest difference from regions" in text
    run = run_onnx if ending == "onnx" else run_torchscript
    inputs = views(paths, classifier)
    answers = run(out, *inputs)

    about: dict[str, Any] = json.loads((tmp_path / f"net.{ending}.json").read_text())
    assert about["classes"] == ["normal", "class 1", "class 2", "class 3"]
    assert about["agreement_with_regions"] == 1.0
    scores = read_parquet(paths.maps("c") / "scores.parquet", MAP_SCORES)["score"].to_numpy()
    low = scores <= about["normal_up_to_score"]
    assert low.sum() == N // 4
    assert about["compared_with_regions"] == N - N // 4
    # The trained network's tokens are kept as float16 in between.
    atol = 1e-4 if classifier == "mixture" else 2e-3
    np.testing.assert_allclose(answers[0][~low], theirs[~low], atol=atol)
    ours = np.where(low, 0, answers[0].argmax(1))
    assert ours.tolist() == regions["class"].tolist()
    np.testing.assert_array_equal(answers[0][WITHOUT], np.eye(N_CLASSES)[[0] * len(WITHOUT)])
    expected = embeddings_of(paths, params, model)
    np.testing.assert_allclose(answers[1], expected, atol=2e-3)
    stored = np.asarray(open_arrays(paths.predict("c") / "descriptors.zarr")["descriptors"])
    of_layers = stored.reshape(N, -1) / stored.shape[1] ** 0.5
    np.testing.assert_allclose(of_layers, expected, atol=2e-3)
    assert np.ptp(answers[0][~low], axis=0).max() > 0.01, "all look the same to this test"
    one = run(out, inputs[0][1:2], inputs[1][1:2])
    np.testing.assert_allclose(one[0][0], answers[0][1], atol=1e-5)


@pytest.mark.parametrize("classifier", ["mixture", "heads"])
def test_without_a_rule_an_empty_mask_is_sorted_as_all_are(
    runs: Runs, tmp_path: Path, classifier: str
) -> None:
    paths, _ = runs(classifier=classifier, mask_on="class", normal="none")
    code, text = export(paths, tmp_path / "net.pt")
    assert code == 0, text
    answers = run_torchscript(tmp_path / "net.pt", *views(paths, classifier))
    theirs = np.stack(regions_of(paths)["probabilities"].tolist())
    np.testing.assert_allclose(answers[0], theirs, atol=2e-3)
    about = json.loads((tmp_path / "net.pt.json").read_text())
    assert about["normal_up_to_score"] is None
    assert about["compared_with_regions"] == N


def test_the_mask_matters(runs: Runs, tmp_path: Path) -> None:
    paths, _ = runs(classifier="mixture", mask_on="class")
    assert export(paths, tmp_path / "net.pt")[0] == 0
    images, masks = views(paths, "mixture")
    shifted = np.roll(masks, 24, axis=2)
    here, there = (run_torchscript(tmp_path / "net.pt", images, m) for m in (masks, shifted))
    assert np.abs(here[1] - there[1]).max() > 1e-3


def test_what_cannot_be_written_is_said(runs: Runs, tmp_path: Path) -> None:
    paths, _ = runs(classifier="mixture", mask_on="class")
    code, text = export(paths, tmp_path / "net.bin")
    assert code == 1
    assert "ends neither in .pt (TorchScript) nor in .onnx" in text
    shutil.copytree(paths.root, tmp_path / "data")
    paths = ArtifactPaths(tmp_path / "data")
    path, frame = paths.predict("c") / "regions.parquet", regions_of(paths)
    found = np.stack(frame["probabilities"].tolist())
    frame["probabilities"] = list(np.roll(found, 1, axis=1))
    write_parquet(path, frame, REGIONS)
    code, text = export(paths, tmp_path / "net.pt")
    assert code == 1
    assert "the probabilities of the model differ from regions.parquet by" in text
    frame["probabilities"] = list(found[:, :3])
    frame["class"] = found[:, :3].argmax(1)
    write_parquet(path, frame, REGIONS)
    code, text = export(paths, tmp_path / "net.pt")
    assert code == 1
    assert "4 classes and the regions 3" in text
    assert list(tmp_path.glob("*net*")) == []


def test_a_file_that_answers_otherwise_is_not_left(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, _ = runs(classifier="mixture", mask_on="class")

    def write(network: object, size: int, path: Path) -> Callable[..., tuple[np.ndarray, ...]]:
        path.write_bytes(b"a file that was written")
        return lambda images, _: (np.full((len(images), N_CLASSES), np.nan), np.zeros(1))

    monkeypatch.setattr("pipeline.exports.classifier.model_writer", lambda _: write)
    code, text = export(paths, tmp_path / "net.pt")
    assert code == 1
    assert "differ from regions.parquet by nan" in text
    assert list(tmp_path.glob("*net*")) == []
