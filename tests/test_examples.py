"""The scripts and the notebook in examples/ run, over a tiny run."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from pipeline.config.reading import parse_params
from pipeline.inference import load_classifier
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import IMAGES, MAP_SCORES, REFERENCE_SCORES
from pipeline.io.tables import read_metadata, read_parquet
from tests.commands.test_classify import content_of, make_run
from tests.config.test_every_parameter import CATEGORY, ORDER, run
from tests.graph import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("examples"), "patchcore", "mixture", "grain")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_classify_array(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    example("classify_array").main("data", CATEGORY, "mixed/good_0.png", "mixed/dots.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mixed/good_0.png: normal, confidence 1.00")
    assert any(line.startswith("mixed/dots.png: class ") for line in lines)
    assert sum("area_px" in line for line in lines) == 2


def test_plot_artifacts(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "overview.png"
    example("plot_artifacts").main(str(made / "data"), CATEGORY, str(made / "images"), str(out))
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (6 * 256, 3 * 256, 3)
    image, amap, mask = np.split(sheet, 3, axis=1)
    assert (image == (255, 160, 0)).all(-1).any()  # squares
    assert 0 < amap.mean() < mask.max() == 255


def test_own_detector(made: Path, tmp_path: Path) -> None:
    """Its maps go through a run; new images come out of it with the same detector."""
    shutil.copytree(made / "data", tmp_path / "data")
    paths, module = ArtifactPaths(tmp_path / "data"), example("own_detector")
    module.main(str(paths.root), CATEGORY, str(made / "images"), "128")
    folder = paths.maps(CATEGORY)
    scores = read_parquet(folder / "scores.parquet", MAP_SCORES)
    images = dict(
        read_parquet(paths.manifest(CATEGORY) / "images.parquet", IMAGES)[
            ["sample_id", "path"]
        ].to_numpy()
    )
    good = np.array(["good" in images[sample_id] for sample_id in scores["sample_id"]])
    assert scores["score"][good].max() < scores["score"][~good].min()
    assert (scores["image_score"] != scores["score"]).any()  # its own, and not the maximum
    references = read_parquet(folder / "references.parquet", REFERENCE_SCORES)
    assert len(references) == 8
    assert references["score"].max() < scores["score"][~good].min()
    assert read_metadata(folder / "scores.parquet")["method"] == "block statistics"

    params = parse_params(content_of(made, "patchcore", "mixture"))
    for stage in ORDER[ORDER.index("mebin") : ORDER.index("evaluate")]:
        run(stage, params, paths)
    classifier = load_classifier(paths.root, CATEGORY, detector=module.BlockStatistics())
    files = [made / "images" / CATEGORY / images[sample_id] for sample_id in scores["sample_id"]]
    found = classifier(files)
    np.testing.assert_allclose(found.scores, scores["score"], atol=1e-5)
    assert (found.nearest_classes[good] == 0).all()
    assert (found.nearest_classes[~good] > 0).all()


def test_the_notebook_runs(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells, by a kernel, over another run; it is committed without outputs."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples/tutorial.ipynb", as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in codes)
    values = (str(made / "data"), CATEGORY, str(made / "images"))
    assert codes[0].metadata.tags == ["parameters"]
    codes[0].source = f"DATA, CATEGORY, ROOT = {values!r}"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(made)}}).execute()
    pictures = [out for cell in codes for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == 2
    tables = [
        out.data["text/plain"]
        for cell in codes
        for out in cell.outputs
        if out.output_type == "execute_result"
    ]
    assert len(tables) == 3
    rows = [line.split() for line in tables[1].splitlines()[1:]]
    assert len(rows) >= 3
    assert all(row[2] == row[3] for row in rows), tables[1]  # new is as the run had it
