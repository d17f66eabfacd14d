"""Every parameter does something: a stage run again with another value writes something else.

A tiny set with a tiny random ViT is run once; then each case runs one stage over the same inputs
with one parameter changed and compares what it writes. What `maps` does with its parameters is in
stages/test_maps.py. `crops.keep: all` differs from `delta` only where a mask has more regions than
were stable, which this set has nowhere: see stages/test_mebin_crops.py.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from safetensors.numpy import load_file
from timm.layers import LayerScale

from pipeline.config.params import Params
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.demo.generate import generate
from pipeline.inference.map_settings import settle
from pipeline.inference.region_features import pooled_tokens
from pipeline.io import networks as model_store
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.region_classifier import load_region_model
from pipeline.io.schemas import CROPS, IMAGES, MERGED, REGIONS
from pipeline.io.tables import read_json, read_parquet, write_parquet
from stages import train
from tests.graph import ROOT
from tests.running import run_stage

CATEGORY = "metal"
ORDER = (
    "manifest", "maps", "mebin", "crops", "classes",
    "views", "train", "predict", "merge", "evaluate",
)  # fmt: skip

Settings = Mapping[str, dict[str, Any]]


class Case(NamedTuple):
    """`stages` run with a change, against the same stages without it, both `under` a setting."""

    stages: tuple[str, ...]
    section: str
    values: dict[str, Any]
    under: Settings = MappingProxyType({})


def write_set(root: Path, *, base: Path) -> None:
    """Write 15 queries (two "combined") and 2 references, and a base set of 4 labelled images."""
    for sample in generate("metal", good=3, per_defect=3, normals=2, seed=0):
        label = "combined" if sample.label == "stain" and sample.name == "000" else sample.label
        folder = root / sample.split / label
        folder.mkdir(parents=True, exist_ok=True)
        image = cv2.resize(sample.image, (96, 64), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{sample.name}.png"), image)
        if sample.mask.any():
            masks = root / "ground_truth" / label
            masks.mkdir(parents=True, exist_ok=True)
            mask = cv2.resize(sample.mask.astype(np.uint8) * 255, (96, 64))
            cv2.imwrite(str(masks / f"{sample.name}_mask.png"), mask)
    rng = np.random.default_rng(0)
    for kind in ("one", "two"):
        for number in range(2):
            mask = np.zeros((64, 64), np.uint8)
            for x, y in ((4, 4), (40, 8), (20, 44)):
                mask[y : y + 10, x : x + 14] = 255
            pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
            for folder, array in (("images", pixels), ("masks", mask)):
                (base / folder / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(base / folder / kind / f"{number}.png"), array)


def settings(root: Path) -> dict[str, dict[str, Any]]:
    return {
        "dataset": {"root": str(root / "images"), "categories": [CATEGORY]},
        "backbone": {"source": "random", "name": "test_vit.r160_in1k"},
        "manifest": {"normal_root": str(root / "normal")},
        "maps": {
            "runs": [[1, 1], [3, 3]],
            "layers": [1, 3],
            "neighbourhoods": [1, 3],
            "resolution": 64,
            "aspect": 1.0,
            "map_size": 64,
        },
        "mebin": {"erode_px": 2, "tau": 3},
        "base": {"root": str(root / "base"), "layout": "class_folders"},
        "views": {"image_size": 64, "count": 2, "mask_layers": 2},
        "train": {"epochs": 2, "batch": 8, "teacher_steps": 2, "teacher_hold": 1},
        "predict": {"layers": [3]},
        "compute": {"device": "cpu"},
    }


def run(stage: str, params: Params, paths: ArtifactPaths) -> None:
    """Run a stage; `views` and `train` as for heads, whatever decides, so that both can."""
    if stage in ("views", "train"):
        predict = params.predict.model_copy(update={"classifier": "heads"})
        params = params.model_copy(update={"predict": predict})
    category = None if stage in ("backbone", "base") else CATEGORY
    run_stage(importlib.import_module(f"stages.{stage}"), category, params, paths)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parameters")
    (root / "normal").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "base")
    params = parse_params(settings(root))
    for stage in ("backbone", "base", *ORDER):
        run(stage, params, ArtifactPaths(root / "data"))
    return root


REPEATING = {"model.json", "classifier.json", "views.json", "history.csv"}
"""Files that tell parameters (or learning rates), and change even if nothing else does."""
NOT_COMPARED = REPEATING | {"classifier.safetensors"}
"""Nor is the classifier that is kept for new images: what counts are the classes of the regions."""


def fingerprint(folder: Path) -> str:
    """Hash of the values of tables, arrays and other files below a folder.

    The metadata of tables and arrays repeat parameters: they are left out, as `NOT_COMPARED` is.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = any(parent.suffix == ".zarr" for parent in path.parents)
        if inside or path.name in NOT_COMPARED or (path.is_dir() and path.suffix != ".zarr"):
            continue
        digest.update(path.relative_to(folder).as_posix().encode())
        for part in contents(path):
            digest.update(part)
    return digest.hexdigest()


def contents(path: Path) -> Iterator[bytes]:
    if path.suffix == ".parquet":
        for name, values in pq.read_table(path).to_pydict().items():
            yield f"{name} {values}".encode()
    elif path.suffix == ".zarr":
        for name, array in sorted(zarr.open_group(path, mode="r").arrays()):
            values = np.asarray(array[:])
            yield f"{name} {values.dtype} {values.shape}".encode()
            yield values.tobytes()
    else:
        yield path.read_bytes()


def write(made: Path, root: Path, change: Settings, *stages: str) -> Path:
    """Run `stages` with a change over copies of the artifacts; return the last one's folder."""
    shutil.copytree(made / "data", root / "data")
    merged = settings(made)
    for section, values in change.items():
        merged[section] = {**merged.get(section, {}), **values}
    params = parse_params(merged)
    for stage in stages:
        run(stage, params, ArtifactPaths(root / "data"))
    return folder_of(root / "data", stages[-1])


def rerun(made: Path, root: Path, change: Settings, *stages: str) -> str:
    """Fingerprint what `write` writes."""
    return fingerprint(write(made, root, change, *stages))


@pytest.fixture(scope="module")
def before(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Fingerprints of what stages write under a setting, each made once."""

    known: dict[tuple[str, ...], str] = {}

    def found(under: Settings, *stages: str) -> str:
        key = (repr(under), *stages)
        if key not in known and under:
            known[key] = rerun(made, tmp_path_factory.mktemp("before"), under, *stages)
        return known.get(key) or fingerprint(folder_of(made / "data", stages[-1]))

    return found


def folder_of(data: Path, stage: str) -> Path:
    return data / stage if stage == "base" else data / stage / CATEGORY


CASES = [
    Case(("manifest",), "manifest", {"exclude_labels": []}),
    Case(("manifest",), "manifest", {"layout": "folder"}),
    Case(("evaluate",), "manifest", {"normal_label": ["scratch"]}),
    Case(("mebin",), "mebin", {"method": "otsu"}),
    Case(("mebin",), "mebin", {"method": "fixed"}),
    Case(("mebin",), "mebin", {"fixed_threshold": 0.3}, under={"mebin": {"method": "fixed"}}),
    Case(("mebin",), "mebin", {"n_thresholds": 32}),
    Case(("mebin",), "mebin", {"tau": 20}),
    Case(("mebin",), "mebin", {"erode_px": 0}),
    Case(("mebin",), "mebin", {"rule": "reference"}),
    Case(("mebin",), "mebin", {"floor": 0.5}),
    Case(("base",), "base", {"per_image": 1}),
    Case(("crops",), "crops", {"enabled": False}),
    Case(("crops",), "crops", {"padding": 1.5}),
    Case(("crops",), "crops", {"smallest_side": 0.9}),
    Case(("crops",), "crops", {"merge_distance": 0.5}),
    Case(("crops",), "crops", {"keep": 1}),
    Case(("crops",), "crops", {"size": 272}),
    Case(("views",), "views", {"image_size": 96}),
    Case(("views",), "views", {"mask_on": "patch"}),
    Case(("views",), "views", {"mask_on": "all"}),
    Case(("views",), "views", {"mask_on": "none"}),
    Case(("views",), "views", {"mask_layers": 4}),
    Case(("views",), "views", {"mask_threshold": 0.05}),
    Case(("views",), "views", {"count": 3}),
    Case(("views",), "views", {"seed": 1}),
    Case(("views",), "compute", {"dtype": "bfloat16"}, under={"compute": {"dtype": "float32"}}),
    *[
        Case(("views",), "views", {"augment": {name: False}})
        for name in ("crop", "flip", "rotate", "colour", "sharpness", "blur", "posterize")
    ],
    Case(("train",), "views", {"count": 0}),
    Case(("views", "train"), "views", {"sample": 3}),
    Case(("train",), "views", {"sample": 3}, under={"views": {"count": 0}}),
    Case(("classes", "train"), "classes", {"count": 3}),
    Case(("classes", "train"), "classes", {"count": {CATEGORY: 4}}),
    Case(("train",), "train", {"heads": 2}),
    Case(("train",), "train", {"epochs": 3}),
    Case(("train",), "train", {"batch": 6}),
    Case(("train",), "train", {"seed": 1}),
    Case(("train",), "train", {"seed": 1}, under={"train": {"lr": 1e-60}}),  # the first weights
    Case(("train",), "train", {"lambda": 0.5}),
    Case(("train",), "train", {"mu": 1.0}),
    Case(("train",), "train", {"views_summed": True}),
    Case(("train",), "train", {"plc_threshold": 0.9}),
    Case(("classes",), "classes", {"count": "auto"}),
    Case(("train",), "train", {"student_temperature": 0.2}),
    Case(("train",), "train", {"teacher_temperature_start": 0.1}),
    Case(("train",), "train", {"teacher_temperature_end": 0.05}),
    Case(("train",), "train", {"teacher_steps": 3}),
    Case(("train",), "train", {"teacher_hold": 4}),
    Case(("train",), "train", {"contrast_temperature": 0.5}),
    Case(("train",), "train", {"contrast_temperature_labelled": 0.2}),
    Case(("train",), "train", {"lr": 0.01}),
    Case(("train",), "train", {"lr_end_factor": 0.5}),
    Case(("train",), "train", {"momentum": 0.5}),
    Case(("train",), "train", {"weight_decay": 0.1}),
    Case(("predict",), "predict", {"classifier": "heads"}),
    Case(("predict",), "predict", {"normal": "regions"}),
    Case(("predict",), "predict", {"normal": "none"}),
    Case(("predict",), "predict", {"false_alarms": 0.9}),
    Case(("predict",), "predict", {"layers": [1, 3]}),
    Case(("predict",), "predict", {"dimensions": [1]}, under={"predict": {"normal": "none"}}),
    Case(("predict",), "predict", {"extra_components": [3]}, under={"predict": {"normal": "none"}}),
    Case(("predict",), "predict", {"sample": 6}, under={"predict": {"normal": "none"}}),
    Case(
        ("classes",),
        "predict",
        {"sample": 9},
        under={"classes": {"count": "auto"}, "predict": {"normal": "none"}},
    ),
    Case(("predict",), "predict", {"seed": 1}),
    Case(("evaluate",), "evaluate", {"max_fpr": 0.05}),
    Case(("evaluate",), "evaluate", {"region_iou": 0.9}),
    Case(("evaluate",), "evaluate", {"combined_label": ["scratch"]}),
    Case(("evaluate",), "evaluate", {"bootstrap": 50}),
]


def name_of(case: Case) -> str:
    change = " ".join(f"{case.section}.{key}={value}" for key, value in case.values.items())
    return change + (f" under {case.under}" if case.under else "")


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_parameter_changes_what_its_stage_writes(
    made: Path, before: Callable[..., str], tmp_path: Path, case: Case
) -> None:
    values = {**case.under.get(case.section, {}), **case.values}
    changed = rerun(made, tmp_path, {**case.under, case.section: values}, *case.stages)
    assert changed != before(case.under, *case.stages)


def merged(root: Path, **values: object) -> np.ndarray:
    """Return the class probabilities of an image with a large and a small region, unlike in all."""
    paths = ArtifactPaths(root)
    crops = pd.DataFrame(
        {"crop_id": ["a-0", "a-1"], "sample_id": "a", "k": [0, 1], "x0": 0, "y0": [0, 30]}
    ).assign(side=20, area_px=[300, 100], score=[0.4, 0.6])
    write_parquet(paths.crops(CATEGORY) / "crops.parquet", crops, CROPS)
    regions = crops[["crop_id", "sample_id"]].assign(
        **{"class": [1, 2]},
        confidence=0.7,
        probabilities=[[0.1, 0.7, 0.2], [0.2, 0.1, 0.7]],
        embedding=[[1.0], [0.0]],
    )
    write_parquet(paths.predict(CATEGORY) / "regions.parquet", regions, REGIONS)
    listed = pd.DataFrame({"sample_id": ["a"], "path": "a.png", "part": "a"})
    listed = listed.assign(split="query", height=64, width=64, channels=3)
    write_parquet(paths.manifest(CATEGORY) / "images.parquet", listed, IMAGES)
    run("merge", parse_params({"merge": values}), paths)
    images = read_parquet(paths.merge(CATEGORY) / "images.parquet", MERGED)
    return np.stack(images["probabilities"])


def test_scores_and_not_areas_weigh_where_they_are_asked_to(tmp_path: Path) -> None:
    expected = 0.4 * np.array([0.1, 0.7, 0.2]) + 0.6 * np.array([0.2, 0.1, 0.7])
    np.testing.assert_allclose(merged(tmp_path, weights="score")[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "values", [{"weights": "mean"}, {"weights": "score"}, {"temperature": 2.0}], ids=str
)
def test_every_parameter_of_merge_counts(tmp_path: Path, values: dict[str, object]) -> None:
    """By hand, as all regions of an image of the set above may have the same probabilities."""
    assert np.abs(merged(tmp_path, **values) - merged(tmp_path)).max() > 1e-3


@pytest.mark.parametrize("stage", [stage for stage in ORDER if stage != "maps"])
def test_a_stage_run_again_writes_the_same(made: Path, tmp_path: Path, stage: str) -> None:
    assert rerun(made, tmp_path, {}, stage) == fingerprint(folder_of(made / "data", stage))


def test_without_a_base_set_training_differs(made: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    change = {"base": {"root": str(nothing), "layout": "auto"}}
    changed = rerun(made, tmp_path, change, "base", "views", "train")
    assert changed != fingerprint(folder_of(made / "data", "train"))


def columns(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return class probabilities (M, C) and embeddings (M, D) of the regions."""
    table = read_parquet(folder / "regions.parquet", REGIONS)
    return np.stack(table["probabilities"]), np.stack(table["embedding"])


@pytest.fixture(scope="module")
def by_heads(made: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    change = {"predict": {"classifier": "heads"}}
    return columns(write(made, tmp_path_factory.mktemp("heads"), change, "predict"))[0]


@pytest.mark.parametrize(
    "values",
    [
        {"train": {"lambda": 0.9}},
        {"train": {"mu": 1.0}},
        {"train": {"plc_threshold": 0.9}},
        {"train": {"student_temperature": 0.2}},
        {"train": {"teacher_temperature_start": 0.1}},
        {"train": {"contrast_temperature_labelled": 0.2}},
        {"train": {"lr": 0.01}},
        {"views": {"mask_on": "patch"}},
        {"train": {"seed": 1}},
    ],
    ids=str,
)
def test_what_heads_say_depends_on_their_training(
    made: Path, by_heads: np.ndarray, tmp_path: Path, values: dict[str, Any]
) -> None:
    change = {"predict": {"classifier": "heads"}, **values}
    stages = ("views", "train", "predict") if "views" in values else ("train", "predict")
    assert not np.array_equal(columns(write(made, tmp_path, change, *stages))[0], by_heads)


def test_what_mixtures_say_does_not(made: Path, tmp_path: Path) -> None:
    training = {"heads": 2, "epochs": 3, "seed": 1, "lambda": 0.9, "mu": 1.0}
    change = {"train": training, "views": {"mask_on": "all"}}
    folder = write(made, tmp_path, change, "views", "train", "predict")
    before = columns(folder_of(made / "data", "predict"))
    for ours, theirs in zip(columns(folder), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_descriptors_have_the_dtype_of_compute(made: Path) -> None:
    paths = ArtifactPaths(made / "data")
    found = []
    for dtype in ("float32", "bfloat16"):
        compute = parse_params({"compute": {"dtype": dtype}}).compute
        found.append(pooled_tokens(paths, CATEGORY, compute, [3], image_size=64))
    assert not np.array_equal(*found)
    np.testing.assert_allclose(*found, atol=0.1)


@pytest.mark.parametrize("stage", ["maps", "views", "train", "predict"])
def test_a_device_that_is_not_there_is_named(made: Path, tmp_path: Path, stage: str) -> None:
    with pytest.raises(ConfigError, match=r"compute\.device: 'quantum'"):
        write(made, tmp_path, {"compute": {"device": "quantum"}}, stage)


def test_layerscale_is_folded_if_asked(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tiny model of timm has both LayerScale and a class token, so it is put into one."""
    original = model_store.load_vit

    def scaled(*args: Any, **options: Any) -> Any:
        vit = original(*args, **options)
        vit.blocks[-1].ls1 = LayerScale(vit.embed_dim, init_values=0.1)
        vit.blocks[-1].ls2 = LayerScale(vit.embed_dim, init_values=0.1)
        return vit

    monkeypatch.setattr(model_store, "load_vit", scaled)
    monkeypatch.setattr(train, "load_vit", scaled)
    embeddings = []
    for fold in (True, False):
        folder = tmp_path / str(fold)
        change = {"train": {"fold_layerscale": fold}, "predict": {"classifier": "heads"}}
        regions = write(made, folder, change, "train", "predict")
        tensors = load_file(folder_of(folder / "data", "train") / "model.safetensors")
        assert ("block.ls1.gamma" in tensors) != fold
        embeddings.append(columns(regions)[1])
    assert not np.allclose(*embeddings, atol=1e-5)


def test_mixtures_train_nothing(made: Path, tmp_path: Path) -> None:
    """Neither views nor network are made, and `predict` says the same without them."""
    shutil.copytree(made / "data", tmp_path / "data")
    paths, params = ArtifactPaths(tmp_path / "data"), parse_params(settings(made))
    views, train, predict = (folder_of(paths.root, name) for name in ("views", "train", "predict"))
    with_network = columns(predict)
    for stage in ("views", "train", "predict"):
        run_stage(importlib.import_module(f"stages.{stage}"), CATEGORY, params, paths)
    assert [path.name for path in views.iterdir()] == ["views.json"]
    assert load_file(train / "model.safetensors") == {}
    assert len(pd.read_csv(train / "history.csv")) == 0
    described = read_json(train / "model.json")
    assert described["trained"] is False
    assert set(described["params"]) == {"manifest", "maps", "mebin", "crops", "views", "compute"}
    for ours, theirs in zip(columns(predict), with_network, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert 0 < with_network[1].shape[1] <= 8  # few principal components, for few regions
    heads = parse_params({**settings(made), "predict": {"classifier": "heads"}})
    with pytest.raises(ArtifactError, match=r"no network was trained.*predict\.classifier"):
        run("predict", heads, paths)


def test_parameters_travel_with_what_they_made(made: Path) -> None:
    given = parse_params(settings(made))
    train, predict = (folder_of(made / "data", stage) for stage in ("train", "predict"))
    stored = read_json(train / "model.json")["params"]
    assert set(stored) == {"manifest", "maps", "mebin", "crops", "views", "train", "compute"}
    assert read_json(predict / "classifier.json")["params"].keys() - stored.keys() == {"predict"}
    for section in ("crops", "views", "train"):
        assert stored[section] == getattr(given, section).to_json()
    assert stored["maps"] == settle(given.maps, 2).to_json()
    assert stored["manifest"] == {"bits": given.manifest.bits}
    assert stored["compute"] == {"dtype": given.compute.dtype}
    expected = given.mebin.to_json()
    del expected["fixed_threshold"]  # of the report alone, under this method
    assert stored["mebin"] == expected


ELSEWHERE = {
    "dataset": ("stages/test_end_to_end", "root categories"),
    "demo": ("demo/test_generate", "seed good per_defect normals"),
    "backbone": ("io/test_backbone_weights", "source name path"),
    "manifest": ("stages/test_manifest", "normal_list normal_root part bits"),
    "maps": (
        "stages/test_maps",
        "method backbone runs layers neighbourhoods resolution smallest_defect tiles aspect "
        "map_size image_score gamma skip fraction references coreset_ratio coreset_max "
        "precomputed_root seed",
    ),
    "base": ("stages/test_base", "root layout normal_label"),
    "train": ("config/test_every_parameter", "fold_layerscale"),
    "report": ("stages/test_report", "gallery examples"),
    "compare": ("stages/test_compare", "methods input budget seeds open"),
    "merge": ("config/test_every_parameter", "weights temperature"),
    "compute": ("stages/test_maps", "memory_mb"),
    "predict": ("stages/test_predict", "assumed_normal"),
}
"""Parameters without a case here, and the file that tests them."""


def test_every_parameter_has_a_test() -> None:
    found = {(case.section, key) for case in CASES for key in case.values}
    for section, (module, keys) in ELSEWHERE.items():
        text = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
        for key in keys.split():
            assert (section, key) not in found, f"{section}.{key} is tested here: strike it out"
            assert key in text
            found.add((section, key))
    found.add(("compute", "device"))  # test_a_device_that_is_not_there_is_named
    engine = {("compute", key) for key in ("engine", "address", "workers")}
    found |= engine  # distributed/test_dask
    found.add(("train", "ranks"))  # distributed/test_ranks
    sections = Params().model_dump(by_alias=True)
    assert found == {(section, key) for section, keys in sections.items() for key in keys}


def test_regions_are_described_at_the_size_of_the_views(made: Path) -> None:
    """What `predict` keeps is what the fitted classifier makes of tokens at `views.image_size`."""
    paths, params = ArtifactPaths(made / "data"), parse_params(settings(made))
    layers, size = params.predict.layers, params.views.image_size
    tokens = pooled_tokens(paths, CATEGORY, params.compute, layers, image_size=size)
    model, _ = load_region_model(paths.predict(CATEGORY))
    assert model.space is not None
    assert model.vote is not None
    regions = read_parquet(paths.predict(CATEGORY) / "regions.parquet", REGIONS)
    expected = model.vote.components(model.space(tokens))
    np.testing.assert_allclose(np.stack(regions["embedding"]), expected, rtol=1e-4, atol=1e-5)
