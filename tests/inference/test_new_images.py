"""`load_classifier`: new images by a finished run, from memory or from files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import save_file

from pipeline.config.section import ConfigError
from pipeline.inference import Classification, ImageClassifier, load_classifier, new_images
from pipeline.io.arrays import open_arrays
from pipeline.io.backbone_weights import load_backbone, save
from pipeline.io.images import read_image
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import CLASSIFIED, CROPS, MAP_SCORES, MERGED, REGIONS
from pipeline.io.tables import read_json, read_parquet, write_json
from tests.commands.test_classify import classify, make_run
from tests.config.test_every_parameter import CATEGORY, settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of PatchCore: it compares the run's images with the same bank as new ones."""
    return make_run(tmp_path_factory.mktemp("inference"), "patchcore", "mixture", "grain")


@pytest.fixture(scope="module")
def classifier(made: Path) -> ImageClassifier:
    return load_classifier(made / "data", CATEGORY, names=made / "none.yaml")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


@pytest.fixture(scope="module")
def result(made: Path, classifier: ImageClassifier) -> Classification:
    return classifier(files(made / "mixed"))


def tree(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_images_of_the_run_come_out_as_in_its_artifacts(
    made: Path, classifier: ImageClassifier
) -> None:
    """Maps, squares, probabilities and classes: the API and the stages are one computation."""
    paths = ArtifactPaths(made / "data")
    scores = read_parquet(paths.maps(CATEGORY) / "scores.parquet", MAP_SCORES)
    manifest = pd.read_parquet(paths.manifest(CATEGORY) / "images.parquet").set_index("sample_id")
    names = manifest.loc[scores["sample_id"], "path"]
    found = classifier([made / "images" / CATEGORY / name for name in names])
    maps = open_arrays(paths.maps(CATEGORY) / "maps.zarr")["maps"][:]
    np.testing.assert_allclose(found.maps, maps, atol=1e-5)
    np.testing.assert_allclose(found.scores, scores["score"], atol=1e-5)
    crops = read_parquet(paths.crops(CATEGORY) / "crops.parquet", CROPS)
    assert [names.index[i] for i in found.regions["image"]] == crops["sample_id"].tolist()
    for column in ("x0", "y0", "side", "area_px"):
        assert found.regions[column].tolist() == crops[column].tolist()
    np.testing.assert_allclose(found.regions["score"], crops["score"], atol=1e-4)
    regions = read_parquet(paths.predict(CATEGORY) / "regions.parquet", REGIONS)
    assert found.regions["class"].tolist() == regions["class"].tolist()
    merged = read_parquet(paths.merge(CATEGORY) / "images.parquet", MERGED)
    assert found.nearest_classes.tolist() == merged["class"].tolist()
    assert found.region_classes == [list(row) for row in merged["region_classes"]]
    probabilities = np.stack(merged["probabilities"].tolist())
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-4)


def test_arrays_and_files_are_the_same(
    made: Path, classifier: ImageClassifier, result: Classification
) -> None:
    arrays = classifier([read_image(path) for path in files(made / "mixed")])
    for field in ("classes", "nearest_classes", "confidence", "probabilities", "scores", "maps"):
        np.testing.assert_array_equal(getattr(arrays, field), getattr(result, field))
    assert arrays.names == result.names
    pd.testing.assert_frame_equal(arrays.regions, result.regions)


def test_the_command_writes_what_the_api_returns(
    made: Path, result: Classification, tmp_path: Path
) -> None:
    out = tmp_path / "found.parquet"
    before = tree(made / "data")
    assert classify(made, made / "mixed", out)[0] == 0
    assert tree(made / "data") == before
    table = read_parquet(out, CLASSIFIED)
    assert table["class"].tolist() == result.classes.tolist()
    assert table["name"].tolist() == result.names
    assert table["nearest_class"].tolist() == result.nearest_classes.tolist()
    np.testing.assert_allclose(table["confidence"], result.confidence, atol=1e-6)


def test_blocks_are_joined(
    made: Path,
    classifier: ImageClassifier,
    result: Classification,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(new_images, "_BLOCK", 4)
    done: list[tuple[int, int]] = []
    images = files(made / "mixed")
    blocks = list(classifier.blocks(images, progress=lambda *given: done.append(given)))
    assert [len(block) for block in blocks] == [4, 4, 3]
    assert done == [(4, 11), (8, 11), (11, 11)]
    together = classifier(images)
    assert together.classes.tolist() == result.classes.tolist()
    assert together.regions["image"].tolist() == result.regions["image"].tolist()
    np.testing.assert_allclose(together.maps, result.maps, atol=1e-5)


def test_what_is_no_image_is_refused(classifier: ImageClassifier) -> None:
    for wrong in ([], "a.png", [np.zeros((8, 8), np.uint8)], [np.zeros((8, 8, 3))]):
        with pytest.raises(ConfigError, match="image"):
            classifier(wrong)
    plate = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ConfigError, match="only then"):
        classifier([plate], [np.zeros((8, 8))])


def test_maps_in_memory_stand_in_for_a_detector(
    made: Path, tmp_path: Path, result: Classification
) -> None:
    """A run whose maps were precomputed takes maps in their units: those of the bank here."""
    data = copy(made, tmp_path)
    path = ArtifactPaths(data).predict(CATEGORY) / "classifier.json"
    content = read_json(path)
    content["params"]["maps"]["method"] = "precomputed"
    write_json(path, content)
    raw = read_json(ArtifactPaths(data).train(CATEGORY) / "model.json")["maps"]
    maps = result.maps * (raw["raw_max"] - raw["raw_min"]) + raw["raw_min"]
    classifier = load_classifier(data, CATEGORY)
    assert classifier.takes_maps
    images = files(made / "mixed")
    found = classifier(images, list(maps))
    np.testing.assert_allclose(found.maps, result.maps, atol=1e-5)
    assert found.classes.tolist() == result.classes.tolist()
    with pytest.raises(ConfigError, match="1 maps for 11 images"):
        classifier(images, [maps[0]])
    content["params"]["maps"]["method"] = "ground_truth"
    write_json(path, content)
    with pytest.raises(ConfigError, match="ground-truth masks"):
        load_classifier(data, CATEGORY)


def copy(made: Path, to: Path) -> Path:
    shutil.copytree(made / "data", to / "data")
    return to / "data"


def test_a_bank_without_a_part_is_damaged(made: Path, tmp_path: Path) -> None:
    data = copy(made, tmp_path)
    model = ArtifactPaths(data).train(CATEGORY) / "model.json"
    content = read_json(model)
    content["maps"]["bank_sha256"] = None
    write_json(model, content)
    save_file(
        {"x": np.ones(3, np.float32)}, ArtifactPaths(data).maps(CATEGORY) / "bank.safetensors"
    )
    with pytest.raises(ArtifactError, match=r"lacks the tensor 'patches'.*'maps' again"):
        load_classifier(data, CATEGORY)


def test_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run the stage 'predict' first"):
        load_classifier(tmp_path, CATEGORY)


def test_16_bit_files_are_read_as_the_run_s(made: Path, tmp_path: Path) -> None:
    """Bits of the run's manifest: 12 here, so that 4095 is white."""
    data = copy(made, tmp_path)
    path = ArtifactPaths(data).predict(CATEGORY) / "classifier.json"
    content = read_json(path)
    content["params"]["manifest"]["bits"] = 12
    write_json(path, content)
    grey = np.asarray(Image.open(files(made / "mixed")[0]).convert("L"), np.uint16)
    Image.fromarray((grey * 4095 // 255).astype(np.uint16)).save(tmp_path / "wide.png")
    classifier = load_classifier(data, CATEGORY)
    wide = classifier([tmp_path / "wide.png"])
    narrow = classifier([read_image(tmp_path / "wide.png", 12)])
    np.testing.assert_array_equal(wide.maps, narrow.maps)


def test_the_package_loads_torch_only_when_asked() -> None:
    code = "import sys, pipeline.inference; print({'torch', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_new_images_are_seen_by_the_backbone_of_the_maps(
    made: Path, tmp_path: Path, result: Classification
) -> None:
    """The same weights as the run's in a folder of their own, none there, and others."""
    data = copy(made, tmp_path)
    paths = ArtifactPaths(data)
    path = paths.predict(CATEGORY) / "classifier.json"
    content = read_json(path)
    content["params"]["maps"]["backbone"] = settings(made)["backbone"]
    write_json(path, content)
    with pytest.raises(ArtifactError, match="run the stage 'maps_backbone' first"):
        load_classifier(data, CATEGORY)
    shutil.copytree(paths.backbone(), paths.maps_backbone())
    found = load_classifier(data, CATEGORY)(files(made / "mixed"))
    np.testing.assert_array_equal(found.maps, result.maps)
    save(paths.maps_backbone(), *load_backbone("random", "test_vit.r160_in1k", Path(), seed=1))
    with pytest.raises(ArtifactError, match=r"bank\.safetensors: made by other weights than"):
        load_classifier(data, CATEGORY)
