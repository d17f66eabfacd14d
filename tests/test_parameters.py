"""Every parameter does something: a stage run again with another value writes something else.

A tiny set with a tiny random ViT is run once; then each case runs one stage over the same inputs
with one parameter changed and compares what it writes. What `maps` does with its parameters is in
test_maps_stage.py; `crops.keep: all` differs from `delta` under the
reference rule alone, see test_mebin_crops_stages.py.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.artifacts import Layout
from pipeline.config import Params, parse_params
from pipeline.demo import generate

CATEGORY = "metal"
ORDER = (
    "manifest", "maps", "mebin", "crops", "classes",
    "views", "train", "predict", "merge", "evaluate",
)  # fmt: skip


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
            "layers": [1, 3],
            "neighbourhoods": [1, 3],
            "resolution": 64,
            "map_size": 64,
        },
        "mebin": {"erode_px": 2, "tau": 3},
        "base": {"root": str(root / "base"), "layout": "class_folders"},
        "train": {
            "image_size": 64,
            "views": 2,
            "epochs": 2,
            "batch": 8,
            "device": "cpu",
            "mask_layers": 2,
            "teacher_steps": 2,
            "teacher_hold": 1,
        },
        "predict": {"layers": [3]},
    }


def run(stage: str, params: Params, layout: Layout) -> None:
    module = importlib.import_module(f"stages.{stage}")
    if stage in ("backbone", "base"):
        module.run(params, layout)
    else:
        module.run(CATEGORY, params, layout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parameters")
    (root / "normal").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "base")
    params = parse_params(settings(root))
    for stage in ("backbone", "base", *ORDER):
        run(stage, params, Layout(root / "data"))
    return root


def fingerprint(folder: Path) -> str:
    """Hash of the files below a folder, but for the two that repeat the parameters."""
    digest = hashlib.sha256()
    repeating = {"model.json", "classifier.json"}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in repeating):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def rerun(made: Path, tmp_path: Path, change: dict[str, dict[str, Any]], *stages: str) -> str:
    """Run `stages` with a change over copies of the artifacts; fingerprint what the last wrote."""
    shutil.copytree(made / "data", tmp_path / "data")
    merged = settings(made)
    for section, values in change.items():
        merged[section] = {**merged.get(section, {}), **values}
    params = parse_params(merged)
    for stage in stages:
        run(stage, params, Layout(tmp_path / "data"))
    return fingerprint(folder_of(tmp_path / "data", stages[-1]))


def folder_of(data: Path, stage: str) -> Path:
    return data / stage if stage == "base" else data / stage / CATEGORY


CASES: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (("manifest",), "manifest", {"exclude_labels": []}),
    (("manifest",), "manifest", {"layout": "folder"}),
    (("evaluate",), "manifest", {"normal_label": ["scratch"]}),
    (("mebin",), "mebin", {"method": "otsu"}),
    (("mebin",), "mebin", {"method": "fixed"}),
    (("mebin",), "mebin", {"method": "fixed", "threshold": 0.3}),
    (("mebin",), "mebin", {"thresholds": 32}),
    (("mebin",), "mebin", {"tau": 20}),
    (("mebin",), "mebin", {"erode_px": 0}),
    (("mebin",), "mebin", {"rule": "reference"}),
    (("mebin",), "mebin", {"floor": 0.5}),
    (("base",), "base", {"per_image": 1}),
    (("crops",), "crops", {"enabled": False}),
    (("crops",), "crops", {"padding": 1.5}),
    (("crops",), "crops", {"smallest_side": 0.9}),
    (("crops",), "crops", {"merge_distance": 0.5}),
    (("crops",), "crops", {"keep": 1}),
    (("crops",), "crops", {"size": 272}),
    (("views",), "train", {"image_size": 96}),
    (("views",), "train", {"mask_on": "patch"}),
    (("views",), "train", {"mask_on": "all"}),
    (("views",), "train", {"mask_on": "none"}),
    (("views",), "train", {"mask_layers": 4}),
    (("views",), "train", {"mask_threshold": 0.05}),
    (("views",), "train", {"views": 3}),
    (("views",), "train", {"view_seed": 1}),
    *[
        (("views",), "train", {"augment": {name: False}})
        for name in ("crop", "flip", "rotate", "colour", "sharpness", "blur", "posterize")
    ],
    (("train",), "train", {"views": 0}),
    (("classes", "train"), "train", {"classes": 3}),
    (("classes", "train"), "train", {"classes": {CATEGORY: 4}}),
    (("train",), "train", {"heads": 2}),
    (("train",), "train", {"epochs": 3}),
    (("train",), "train", {"batch": 6}),
    (("train",), "train", {"seed": 1}),
    (("train",), "train", {"lambda": 0.5}),
    (("train",), "train", {"mu": 1.0}),
    (("train",), "train", {"plc_threshold": 0.9}),
    (("classes",), "train", {"classes": "auto"}),
    (("train",), "train", {"student_temperature": 0.2}),
    (("train",), "train", {"teacher_temperature_start": 0.1}),
    (("train",), "train", {"teacher_temperature_end": 0.05}),
    (("train",), "train", {"teacher_steps": 3}),
    (("train",), "train", {"teacher_hold": 4}),
    (("train",), "train", {"contrast_temperature": 0.5}),
    (("train",), "train", {"contrast_temperature_labelled": 0.2}),
    (("train",), "train", {"lr": 0.01}),
    (("train",), "train", {"lr_end_factor": 0.5}),
    (("train",), "train", {"momentum": 0.5}),
    (("train",), "train", {"weight_decay": 0.1}),
    (("predict",), "predict", {"classifier": "heads"}),
    (("predict",), "predict", {"normal": "regions"}),
    (("predict",), "predict", {"normal": "none"}),
    (("predict",), "predict", {"layers": [1, 3]}),
    (("predict",), "predict", {"dimensions": [1]}),
    (("predict",), "predict", {"extra_components": [3]}),
    (("merge",), "merge", {"weights": "mean"}),
    (("merge",), "merge", {"weights": "score"}),
    (("merge",), "merge", {"temperature": 2.0}),
    (("evaluate",), "evaluate", {"max_fpr": 0.05}),
    (("evaluate",), "evaluate", {"region_iou": 0.9}),
    (("evaluate",), "evaluate", {"combined_label": ["scratch"]}),
]


def name_of(case: tuple[tuple[str, ...], str, dict[str, Any]]) -> str:
    _, section, values = case
    return " ".join(f"{section}.{key}={value}" for key, value in values.items())


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_parameter_changes_what_its_stage_writes(made: Path, tmp_path: Path, case: Any) -> None:
    stages, section, values = case
    changed = rerun(made, tmp_path, {section: values}, *stages)
    assert changed != fingerprint(folder_of(made / "data", stages[-1]))


@pytest.mark.parametrize("stage", [stage for stage in ORDER if stage != "maps"])
def test_a_stage_run_again_writes_the_same(made: Path, tmp_path: Path, stage: str) -> None:
    assert rerun(made, tmp_path, {}, stage) == fingerprint(folder_of(made / "data", stage))


def test_without_a_base_set_training_differs(made: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    change = {"base": {"root": str(nothing), "layout": "auto"}}
    changed = rerun(made, tmp_path, change, "base", "views", "train")
    assert changed != fingerprint(folder_of(made / "data", "train"))
