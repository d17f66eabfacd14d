"""`anomalyncd name` names what is there and says what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.curation.names import read_names
from pipeline.io.paths import ArtifactPaths
from pipeline.io.schemas import REGIONS
from pipeline.io.tables import write_parquet


def regions(root: Path) -> None:
    frame = pd.DataFrame(
        {
            "crop_id": ["a-0", "b-0"],
            "sample_id": ["a", "b"],
            "class": [1, 0],
            "confidence": [0.9, 0.8],
            "probabilities": [np.array([0.1, 0.9, 0.0]), np.array([0.8, 0.1, 0.1])],
            "embedding": [np.zeros(2, np.float32)] * 2,
        }
    )
    write_parquet(ArtifactPaths(root).predict("metal") / "regions.parquet", frame, REGIONS, {})


def run(root: Path, *arguments: str) -> tuple[int, str]:
    options = ["--data", str(root), "--names", str(root / "names.yaml")]
    result = CliRunner().invoke(app, ["name", *arguments, *options])
    return result.exit_code, result.output


def test_a_class_gets_a_name(tmp_path: Path) -> None:
    regions(tmp_path)
    code, text = run(tmp_path, "metal", "1", "scratch")
    assert code == 0
    assert "metal: named class 1 (1 regions) 'scratch'\n" in text
    assert "dvc repro report" in text  # which shows it
    assert read_names(tmp_path / "names.yaml")["metal"][1] == "scratch"


def test_what_cannot_be_named_is_said(tmp_path: Path) -> None:
    assert "dvc repro" in run(tmp_path, "metal", "1", "scratch")[1]
    regions(tmp_path)
    code, text = run(tmp_path, "metal", "7", "scratch")
    assert code == 1
    assert "its classes are 0 (normal) to 2" in text
    assert not (tmp_path / "names.yaml").exists()
