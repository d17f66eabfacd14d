"""Training that diverges is an error, and nothing of it reaches the tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.params import Params, Train
from pipeline.errors import AnomalyNCDError
from pipeline.inference.region_artifacts import write_regions
from pipeline.inference.training_inputs import training_settings
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import CROPS, IMAGES, REGIONS
from pipeline.io.tables import write_parquet
from pipeline.mgvit import training
from pipeline.mgvit.attention import ClassBlock
from pipeline.mgvit.network import new_network
from pipeline.mgvit.training import TrainingSettings
from stages import merge
from tests.config.test_every_parameter import CATEGORY, ORDER, run, settings, write_set
from tests.mgvit.test_training import CPU, DIM, N_CLASSES, PER_CLASS, Toy
from tests.running import run_stage


def train(change: TrainingSettings) -> training.TrainingResult:
    vit = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=DIM, depth=1, num_heads=2, num_classes=0
    )
    return training.train(
        Toy(),
        new_network(ClassBlock(vit), DIM, N_CLASSES, heads=2, seed=0),
        base_labels=np.zeros(0, np.int64),
        scores=np.linspace(0, 1, N_CLASSES * PER_CLASS, dtype=np.float32),
        n_base_classes=0,
        settings=change,
        device=CPU,
    )


SETTINGS = training_settings(Train(epochs=3, batch=12, heads=2))


@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_a_loss_that_is_not_finite_names_the_rate_and_the_epoch(lr: float) -> None:
    with pytest.raises(AnomalyNCDError, match=r"diverged in epoch \d of 3.*train\.lr below 1e\+"):
        train(replace(SETTINGS, lr=lr))


def test_the_last_step_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch, one epoch: the loss is finite, and only then is the network ruined."""
    step = torch.optim.SGD.step

    def ruin(self: torch.optim.SGD, *given: Any) -> None:
        step(self, *given)
        self.param_groups[0]["params"][0].data.fill_(torch.inf)

    monkeypatch.setattr(torch.optim.SGD, "step", ruin)
    with pytest.raises(AnomalyNCDError, match="diverged in epoch 1 of 1"):
        train(replace(SETTINGS, epochs=1, batch=1000))


def test_what_converges_is_left_alone() -> None:
    assert len(train(SETTINGS).history) == 3


def test_the_stage_fails_and_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    write_set(tmp_path / "images" / CATEGORY, base=tmp_path / "base")
    content, paths = settings(tmp_path), ArtifactPaths(tmp_path / "data")
    for stage in ("backbone", "base", *ORDER[: ORDER.index("train")]):
        run(stage, Params.model_validate(content), paths)
    content["train"]["lr"] = 1e6
    content["predict"]["classifier"] = "heads"
    params = tmp_path / "params.yaml"
    params.write_text(json.dumps(content))
    old = paths.train(CATEGORY) / "old"
    old.parent.mkdir(parents=True)
    old.touch()
    where = ["--params", str(params), "--data", str(paths.root)]
    result = CliRunner().invoke(app, ["train", CATEGORY, *where])
    assert result.exit_code == 1
    assert "anomalyncd train: training diverged" in result.output
    assert [path.name for path in paths.train(CATEGORY).parent.rglob("*")] == [CATEGORY, "old"]


def crops() -> pd.DataFrame:
    rows = [(f"{i}-0", str(i), 0, 0, 0, 9, 4, 0.5) for i in range(2)]
    return pd.DataFrame(rows, columns=CROPS.names)


@pytest.mark.parametrize("where", ["probabilities", "embeddings"])
def test_predict_writes_nothing_that_is_not_finite(tmp_path: Path, where: str) -> None:
    values = {"probabilities": np.full((2, 3), 1 / 3), "embeddings": np.ones((2, 4), np.float32)}
    values[where][1, 0] = np.nan
    with pytest.raises(ArtifactError, match=r"not finite.*train\.lr"):
        write_regions(tmp_path, crops(), values["probabilities"], values["embeddings"], {})
    assert list(tmp_path.iterdir()) == []


def test_merge_refuses_probabilities_that_are_not_finite(tmp_path: Path) -> None:
    paths, table = ArtifactPaths(tmp_path / "data"), crops()
    write_parquet(paths.crops("c") / "crops.parquet", table, CROPS)
    regions = table[["crop_id", "sample_id"]].assign(
        **{"class": 0}, confidence=0.5, embedding=[[1.0]] * 2, probabilities=[[0.5, 0.5]] * 2
    )
    listed = pd.DataFrame({"sample_id": ["0", "1"], "path": "a.png", "part": ["0", "1"]})
    listed = listed.assign(split="query", height=9, width=9, channels=3)
    write_parquet(paths.manifest("c") / "images.parquet", listed, IMAGES)
    path = paths.predict("c") / "regions.parquet"
    write_parquet(path, regions, REGIONS)
    run_stage(merge, "c", Params(), paths)
    regions["probabilities"] = [[0.5, 0.5], [np.nan, 0.5]]
    write_parquet(path, regions, REGIONS)
    with pytest.raises(ArtifactError, match=r"regions\.parquet: .*not finite; .*'predict'"):
        run_stage(merge, "c", Params(), paths)
