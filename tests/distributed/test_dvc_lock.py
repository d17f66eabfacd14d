"""`dvc repro` with either engine: dvc.lock has the same hashes of all outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.distributed.test_dask import MANY, write_images
from tests.stages.test_end_to_end import Project, copied, stages_run

pytest.importorskip("distributed", reason="needs the extra dask")

SETTINGS: dict[str, dict[str, object]] = {
    "dataset": {"root": "images", "categories": ["c"]},
    "demo": {"good": 1, "per_defect": 1, "normals": 1},
    "backbone": {"source": "random", "name": "test_vit.r160_in1k"},
    "maps": {"runs": [[1, 1]], "layers": [1], "resolution": 64, "map_size": 48, "aspect": 1.0},
    "mebin": {"erode_px": 2},
    "classes": {"count": "auto"},
    "views": {"image_size": 64, "mask_layers": 2, "count": 2},
    "train": {"epochs": 1, "batch": 64},
    "predict": {"layers": [1], "classifier": "heads", "normal": "regions"},
    "evaluate": {"bootstrap": 10},
    "report": {"gallery": 2, "examples": 1},
}


def made(root: Path, **compute: object) -> tuple[dict[str, dict[str, str]], Project]:
    """Return the hashes of the outputs of each stage, by path, and the project."""
    project = copied(root)
    write_images(root / "images", MANY)
    references = root / "images/c/train/good"
    references.mkdir(parents=True)
    for file in sorted((root / "images/c/test/good").iterdir())[:70]:
        file.rename(references / file.name)
    project.set_params(**SETTINGS, compute={"device": "cpu", "dtype": "float32", **compute})
    project.run("git", "init", "-q")
    output = project.run("dvc", "repro")
    assert "views@c" in stages_run(output)
    lock = YAML(typ="safe").load(root / "dvc.lock")["stages"]
    return {
        name: {out["path"]: out["md5"] for out in stage.get("outs", [])}
        for name, stage in lock.items()
        if name != "report"  # which shows times
    }, project


@pytest.mark.long
def test_the_lock_has_the_same_hashes(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "dask").mkdir()
    local, project = made(tmp_path / "local")
    assert sum(len(outs) for outs in local.values()) > 20
    assert local == made(tmp_path / "dask", engine="dask", workers=2)[0]
    project.set_params(compute={"engine": "dask", "workers": 3})
    assert "up to date" in project.run("dvc", "status")
