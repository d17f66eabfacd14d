"""`dvc repro` on a tiny set with a tiny random ViT: every stage for real, in a copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline.curation.names import run_of
from pipeline.demo.generate import generate
from pipeline.io import schemas
from pipeline.io.arrays import open_arrays
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import read_json, read_metadata, read_parquet, write_json
from tests.graph import ROOT

COPIED = (
    "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore",
    "names.yaml", "data/choices", "data/corrections", "data/examples", "data/identity",
    "pipeline", "stages",
)  # fmt: skip
FIRST_STAGES = {"demo", "backbone", "base", "manifest@a b", "maps@a b"}
FROM_MEBIN = {
    "mebin",
    "crops",
    "classes",
    "views",
    "train",
    "predict",
    "shape",
    "merge",
    "evaluate",
}


class Project:
    """A copy of the project with its own git repository and data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        git = {
            f"GIT_{who}_{what}": "t@t"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        self.environment = {
            **os.environ,
            **git,
            "PATH": path,
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "DVC_NO_ANALYTICS": "1",
        }

    def run(self, *command: str, ok: bool = True) -> str:
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output
        return output

    def set_params(self, **sections: dict[str, object]) -> None:
        yaml = YAML()
        content = yaml.load(self.root / "params.yaml")
        for section, values in sections.items():
            content[section].update(values)
        with (self.root / "params.yaml").open("w") as file:
            yaml.dump(content, file)


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def words(stages: set[str]) -> set[str]:
    return {stage.split("@")[0] for stage in stages}


def write_images(root: Path) -> None:
    """Write 10 queries and 2 references of the demo's metal, 64 x 64, in MVTec AD's layout."""
    for sample in generate("metal", good=2, per_defect=2, normals=2, seed=0):
        split = sample.split
        folder = root / split / sample.label
        folder.mkdir(parents=True, exist_ok=True)
        small = cv2.resize(sample.image, (64, 64), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{sample.name}.png"), small)
        if sample.mask.any():
            masks = root / "ground_truth" / sample.label
            masks.mkdir(parents=True, exist_ok=True)
            mask = cv2.resize(sample.mask.astype(np.uint8) * 255, (64, 64))
            cv2.imwrite(str(masks / f"{sample.name}_mask.png"), mask)
    (root / "test" / "good" / "broken.png").write_bytes(b"no image")


def copied(root: Path) -> Project:
    """Return a copy of the project in an empty folder, without images."""
    for name in COPIED:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=ignore)
        else:
            shutil.copy(source, root / name)
    (root / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "data" / "raw" / "base", root / "data" / "raw" / "base")
    for name in ("maps", "normal", "weights"):
        shutil.copytree(ROOT / "data" / "raw" / name, root / "data" / "raw" / name)
    return Project(root)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = copied(tmp_path_factory.mktemp("project"))
    write_images(made.root / "images" / "a b")
    made.set_params(
        dataset={"root": "images", "categories": ["a b"]},
        demo={"good": 1, "per_defect": 1, "normals": 1},
        backbone={"source": "random", "name": "test_vit.r160_in1k"},
        maps={
            "runs": [[3, 1]],
            "layers": [1, 3],
            "neighbourhoods": [1],
            "resolution": 64,
            "map_size": 64,
        },
        mebin={"erode_px": 2, "tau": 4},
        views={"image_size": 64, "mask_layers": 6, "count": 2},
        train={"epochs": 2, "batch": 8},
        compute={"device": "cpu"},
        predict={"layers": [3]},
        report={"gallery": 3, "examples": 2},
    )
    made.run("git", "init", "-q")
    made.run("git", "add", "-A")
    made.run("git", "commit", "-q", "-m", "start")
    made.output = made.run("dvc", "repro")  # type: ignore[attr-defined]
    return made


def test_every_artifact_of_the_contract_is_there(project: Project) -> None:
    paths, c = ArtifactPaths(project.root / "data"), "a b"
    images = read_parquet(paths.manifest(c) / "images.parquet", schemas.IMAGES)
    queries = set(images.loc[images["split"] == "query", "sample_id"])
    assert len(queries) == 10
    assert (images["split"] == "normal").sum() == 2
    assert len(read_parquet(paths.manifest(c) / "labels.parquet", schemas.LABELS)) == 10
    rejected = read_parquet(paths.manifest(c) / "rejected.parquet", schemas.REJECTED)
    assert rejected["path"].tolist() == ["test/good/broken.png"]
    scores = read_parquet(paths.maps(c) / "scores.parquet", schemas.MAP_SCORES)
    maps = np.asarray(open_arrays(paths.maps(c) / "maps.zarr")["maps"])
    assert maps.shape == (10, 64, 64)
    np.testing.assert_allclose(maps.max((1, 2)), scores["score"], rtol=1e-6)
    masks = np.asarray(open_arrays(paths.mebin(c) / "masks.zarr")["masks"])
    mebin = read_parquet(paths.mebin(c) / "images.parquet", schemas.MEBIN_IMAGES)
    assert masks.shape == maps.shape
    assert ((mebin["n_regions"] > 0) == masks.any((1, 2))).all()
    crops = read_parquet(paths.crops(c) / "crops.parquet", schemas.CROPS)
    regions = read_parquet(paths.predict(c) / "regions.parquet", schemas.REGIONS)
    assert regions["crop_id"].tolist() == crops["crop_id"].tolist()
    np.testing.assert_allclose([sum(p) for p in regions["probabilities"]], 1, rtol=1e-5)
    merged = read_parquet(paths.merge(c) / "images.parquet", schemas.MERGED)
    assert set(merged["sample_id"]) == queries
    assert [path.name for path in paths.views(c).iterdir()] == ["views.json"]
    assert read_json(paths.train(c) / "model.json")["trained"] is False
    assert "Training losses" not in (paths.report() / "index.html").read_text()
    assert len(read_parquet(paths.base() / "crops.parquet", schemas.BASE_CROPS)) == 0
    metrics = read_json(paths.evaluate(c) / "metrics.json")
    assert metrics["n_query"] == 10
    assert 0 <= metrics["nmi"] <= 1
    assert 0 <= metrics["defect_nmi"] <= 1
    assert metrics["aupro"] is not None
    assert read_json(paths.evaluate() / "summary.json")["nmi"] == metrics["nmi"]
    assert "a b" in (paths.report() / "index.html").read_text()


def test_nothing_changed_nothing_runs(project: Project) -> None:
    assert stages_run(project.run("dvc", "repro")) == set()


def test_names_and_corrections_rerun_the_report_alone(project: Project) -> None:
    page = project.root / "data/report/review-a b.html"
    project.run("anomalyncd", "name", "a b", "1", "streak")
    ran = stages_run(project.run("dvc", "repro"))  # shape: these classes are known now
    assert words(ran) == {"shape", "report"}
    assert "streak" in page.read_text()
    table = project.root / "data/predict/a b/regions.parquet"
    crop_id = str(read_parquet(table, schemas.REGIONS)["crop_id"][0])
    run = run_of(ArtifactPaths(project.root / "data"), "a b")
    entries = [{"crop_id": crop_id, "name": "pit"}]
    download = {"category": "a b", "run": run, "corrections": entries}
    write_json(project.root / "download.json", download)
    project.run("anomalyncd", "correct", "a b", "download.json")
    assert stages_run(project.run("dvc", "repro")) == {"report"}
    assert "1 correction applied" in page.read_text()
    assert stages_run(project.run("dvc", "repro")) == set()
    status = project.run("git", "status", "--short", "--untracked-files=all")
    assert '?? "data/corrections/a b.json"' in status  # work of people: not ignored
    assert '?? "data/identity/a b.parquet"' in status
    for file in ("names.yaml", "data/corrections/a b.json", "data/identity/a b.parquet"):
        (project.root / file).unlink()  # they belong to this run
    shutil.copy(ROOT / "names.yaml", project.root)


def test_a_merge_reruns_shape_and_what_follows(project: Project) -> None:
    regions = project.root / "data/shape/a b/regions.parquet"
    assert project.run("dvc", "repro")  # without the identity of the test before
    before = regions.read_bytes()
    assert before == (project.root / "data/predict/a b/regions.parquet").read_bytes()
    project.run("anomalyncd", "merge", "a b", "0", "1")
    ran = words(stages_run(project.run("dvc", "repro")))
    assert ran == {"shape", "merge", "evaluate", "report"}
    assert not (read_parquet(regions, schemas.REGIONS)["class"] == 1).any()
    assert "Class tree" in (project.root / "data/report/review-a b.html").read_text()
    project.run("anomalyncd", "merge", "a b", "--undo")
    project.run("dvc", "repro")
    assert regions.read_bytes() == before


def test_a_mebin_parameter_reruns_mebin_and_what_follows(project: Project) -> None:
    before = (project.root / "data/mebin/a b/images.parquet").read_bytes()
    ran = stages_run(project.run("dvc", "exp", "run", "-S", "mebin.tau=3"))
    assert "mebin@a b" in ran
    assert words(ran) <= FROM_MEBIN | {"report"}
    assert read_metadata(project.root / "data/mebin/a b/images.parquet")["tau"] == 3
    assert (project.root / "data/mebin/a b/images.parquet").read_bytes() != before


def test_a_loss_weight_changes_nothing_that_mixtures_decide(project: Project) -> None:
    ran = words(stages_run(project.run("dvc", "exp", "run", "-S", "train.mu=2.0")))
    assert ran == {"train", "report"}
    project.run("dvc", "plots", "show", "-o", "plots_out")  # with no epoch to draw


def test_heads_are_trained_if_they_decide(project: Project) -> None:
    run = ("dvc", "exp", "run", "-S", "predict.classifier=heads")
    assert {"views", "train", "predict"} <= words(stages_run(project.run(*run)))
    paths, c = ArtifactPaths(project.root / "data"), "a b"
    regions = read_parquet(paths.predict(c) / "regions.parquet", schemas.REGIONS)
    np.testing.assert_allclose([np.linalg.norm(e) for e in regions["embedding"]], 1, rtol=1e-5)
    history = pd.read_csv(paths.train(c) / "history.csv")
    assert history["epoch"].tolist() == [0, 1]
    assert {f"loss_head_{i}" for i in range(4)} <= set(history.columns)
    assert "Training losses" in (paths.report() / "index.html").read_text()


def test_a_loss_weight_reruns_training_but_not_the_views(project: Project) -> None:
    ran = words(stages_run(project.run("dvc", "exp", "run", "-S", "train.mu=1.0")))
    assert {"train", "predict"} <= ran
    assert not ran & {"views", "crops", "mebin", "maps", "manifest"}


def test_metrics_and_plots_are_known_to_dvc(project: Project) -> None:
    assert "nmi" in project.run("dvc", "metrics", "show")
    project.run("dvc", "plots", "show", "-o", "plots_out")
    assert "loss_total" in (project.root / "plots_out" / "index.html").read_text()


def test_a_backbone_of_the_maps_reruns_maps_but_not_the_pipelines(project: Project) -> None:
    own = "maps.backbone={source:random,name:vit_tiny_patch16_224}"
    ran = words(stages_run(project.run("dvc", "exp", "run", "-S", own, "maps@a b")))
    assert ran == {"maps_backbone", "maps"}
    attributes = open_arrays(project.root / "data/maps/a b/maps.zarr").attrs
    info = read_json(project.root / "data/maps_backbone/backbone.json")
    assert attributes["backbone_sha256"] == info["sha256"]
    assert info["timm_name"] == "vit_tiny_patch16_224"


def test_a_flat_folder_without_labels(project: Project) -> None:
    flat = project.root / "flat" / "mine"
    flat.mkdir(parents=True)
    for i, path in enumerate(sorted((project.root / "images/a b/test").rglob("0*.png"))):
        shutil.copy(path, flat / f"{i}.png")
    project.set_params(
        dataset={"root": "flat", "categories": ["mine"]}, views={"count": 0}, train={"epochs": 1}
    )
    project.run("dvc", "repro")
    metrics = read_json(project.root / "data/evaluate/mine/metrics.json")
    assert metrics["nmi"] is None
    assert metrics["aupro"] is None
    assert metrics["n_query"] == 10
    assert "There are no labels" in (project.root / "data/report/index.html").read_text()


def test_a_wrong_parameter_is_named(project: Project) -> None:
    params = project.root / "wrong.yaml"
    params.write_text("mebin: {tua: 3}\ndataset: {categories: [x]}\n")
    output = project.run("anomalyncd", "mebin", "x", "--params", "wrong.yaml", ok=False)
    assert "mebin.tua: unknown key" in output
    assert "Traceback" not in output
