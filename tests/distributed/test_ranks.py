"""Training by real processes: torchrun's launcher, gloo, ranks that die."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.engine_checks import check_ranks
from pipeline.config.params import Compute, Params, Predict, Train
from pipeline.config.section import ConfigError
from pipeline.distributed.ranks import gpu_problem, joined, launch, processes
from pipeline.io.paths import ArtifactPaths
from tests.config.test_every_parameter import CATEGORY, ORDER, run, settings, write_set
from tests.distributed.rank_runs import as_arrays, toy_block
from tests.graph import ROOT
from tests.mgvit.test_ranks import together
from tests.mgvit.test_training import SETTINGS


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("ANOMALYNCD_LAUNCHER", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


def params(ranks: int, **compute: str) -> Params:
    return Params(
        train=Train(ranks=ranks),
        predict=Predict(classifier="heads"),
        compute=Compute(**compute),
    )


def launched(what: str, folder: Path, ranks: int = 2) -> None:
    folder.mkdir(exist_ok=True)
    launch(params(ranks), ["-m", "tests.distributed.rank_runs", what, str(folder)])


def test_a_killed_rank_changes_no_bit(tmp_path: Path) -> None:
    """Killed in epoch 2 of 3: all ranks end with parameters and losses of an unbroken training."""
    launched("kill", tmp_path / "killed")
    assert (tmp_path / "killed/killed").exists()
    block = toy_block()
    unbroken = together(block, 2, 20, replace(SETTINGS, epochs=3))[0]
    expected = as_arrays(unbroken)
    assert len(expected["losses"]) == 3
    for rank in range(2):
        found = load_file(tmp_path / f"killed/rank{rank}.safetensors")
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.long
def test_three_ranks_too(tmp_path: Path) -> None:
    launched("kill", tmp_path / "three", ranks=3)
    launched("train", tmp_path / "again", ranks=3)
    for rank in range(3):
        found, again = (
            load_file(tmp_path / f"{name}/rank{rank}.safetensors") for name in ("three", "again")
        )
        assert all(np.array_equal(found[name], again[name]) for name in found)


def test_a_rank_that_fails_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit('rank 1: there is no room')"
    )
    with pytest.raises(SystemExit) as stopped:
        launch(params(2), ["-c", f"{code}\ntime.sleep(60)"])
    assert stopped.value.code == 1
    assert capfd.readouterr().err.strip() == "rank 1: there is no room"


def test_ranks_that_die_each_time_are_an_error(tmp_path: Path) -> None:
    code = "import os; open('attempts', 'a').write(os.environ['RANK']); os.kill(os.getpid(), 9)"
    with pytest.raises(ConfigError, match=r"train\.ranks: rank \d ended with status -9, 4 times"):
        launch(params(2), ["-c", f"import os; os.chdir({str(tmp_path)!r}); {code}"])
    assert 4 <= len((tmp_path / "attempts").read_text()) <= 8


def test_the_command_trains_by_ranks_within_rounding(tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    write_set(tmp_path / "images" / CATEGORY, base=tmp_path / "base")
    content, paths = settings(tmp_path), ArtifactPaths(tmp_path / "data")
    for stage in ("backbone", "base", *ORDER[: ORDER.index("train")]):
        run(stage, Params.model_validate(content), paths)
    content["predict"]["classifier"] = "heads"
    file, found = tmp_path / "params.yaml", {}
    for ranks in (1, 2):
        content["train"]["ranks"] = ranks
        file.write_text(json.dumps(content))
        where = ["--params", str(file), "--data", str(paths.root)]
        result = CliRunner().invoke(app, ["train", CATEGORY, *where])
        assert result.exit_code == 0, result.output
        found[ranks] = load_file(paths.train(CATEGORY) / "model.safetensors")
        described = json.loads((paths.train(CATEGORY) / "model.json").read_text())
        assert described["params"]["train"]["ranks"] == ranks
        assert json.loads((paths.root / f"runs/train/{CATEGORY}.json").read_text())["wall_s"] > 0
    flat = {n: np.concatenate([v.ravel() for _, v in sorted(f.items())]) for n, f in found.items()}
    change = np.linalg.norm(flat[1] - flat[2]) / np.linalg.norm(flat[1])
    assert 0 < change < 1e-5


def test_mixtures_need_one_process_and_so_does_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(Params(train=Train(ranks=4))) == 1
    assert processes(params(4)) == 4
    with joined(params(4)) as writes:  # not under torchrun
        assert writes
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="torchrun started 3 processes, and 4"), joined(params(4)):
        pass


def test_gpus_have_to_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert gpu_problem(params(2)) is None
    assert gpu_problem(params(3, device="cpu")) is None
    assert "there are 2 GPUs here" in str(gpu_problem(params(3)))
    assert "cuda:1 is one GPU" in str(gpu_problem(params(2, device="cuda:1")))


def test_doctor_knows_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    lines = {
        ranks: [(line.state, line.finding) for line in check_ranks(params(ranks, device="cpu"))]
        for ranks in (1, 2, 8)
    }
    assert lines[1] == []
    assert lines[2] == [("ok", "2 processes share each batch of the training")]
    assert lines[8] == [("warning", "8 ranks on 4 cores")]
    (line,) = check_ranks(Params(train=Train(ranks=2)))
    assert "mixture trains nothing" in line.finding
