"""Damaged, missing and mixed artifacts: the stage or command that reads them says which and why.

A tiny set is run once; each case breaks one file in a copy of what was written.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.clustering.descriptors import DescriptorSpace
from pipeline.clustering.ensemble import MixtureEnsemble
from pipeline.config.params import Params
from pipeline.exports.modules import MixtureNetwork
from pipeline.io.arrays import ArraySpec, create_arrays, open_arrays
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.schemas import CROPS, REGIONS
from pipeline.io.tables import read_json, read_parquet, write_json, write_parquet
from pipeline.mgvit.attention import create_vit
from stages import predict, train
from tests.config.test_every_parameter import CATEGORY, ORDER, run, settings, write_set
from tests.exports.test_classifier import export, run_predict
from tests.running import run_stage

Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    (root / "normal").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "base")
    params = Params.model_validate(settings(root))
    for stage in ("backbone", "base", *ORDER):
        run(stage, params, ArtifactPaths(root / "data"))
    return root


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "data", tmp_path / "data")
    return tmp_path / "data"


def call(made: Path, data: Path, command: str, **change: dict[str, Any]) -> tuple[int, str]:
    """Run a stage, or `classify` on the images of the run, over `data`."""
    content = settings(made)
    if command in ("views", "train"):  # else they do nothing
        content["predict"]["classifier"] = "heads"
    for section, values in change.items():
        content[section] = {**content.get(section, {}), **values}
    params = data.parent / "params.yaml"
    params.write_text(json.dumps(content))
    arguments = {
        "classify": [
            "classify",
            str(made / "images" / CATEGORY / "test"),
            *("--category", CATEGORY, "--out", str(data.parent / "found.parquet")),
            *("--names", str(data.parent / "names.yaml")),
        ],
        "report": ["report"],
    }.get(command, [command, CATEGORY])
    where = ["--params", str(params), "--data", str(data)]
    result = CliRunner().invoke(app, [*arguments, *where])
    assert isinstance(result.exception, SystemExit | None), repr(result.exception)
    return result.exit_code, result.output


def fails(made: Path, data: Path, command: str, **change: dict[str, Any]) -> str:
    code, text = call(made, data, command, **change)
    (line,) = (line for line in text.splitlines() if line.startswith("anomalyncd "))
    assert code == 1, text
    return line


def network_for(name: str) -> dict[str, dict[str, str]]:
    """Let the heads decide where a file of their network is broken: nothing else reads it."""
    return {"predict": {"classifier": "heads"}} if "train/metal/model" in name else {}


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def foreign(path: Path) -> None:
    save_file({"x": np.ones(3, np.float32)}, path)


def text(content: str) -> Break:
    return lambda path: path.write_text(content)


def without(key: str) -> Break:
    def change(path: Path) -> None:
        content = read_json(path)
        del content[key]
        write_json(path, content)

    return change


def having(key: str, value: object) -> Break:
    return lambda path: write_json(path, {**read_json(path), key: value})


def test_the_run_is_sound(made: Path, data: Path) -> None:
    """Else the failures below would prove nothing."""
    for command in (*ORDER[1:], "report", "classify"):
        code, said = call(made, data, command)
        assert code == 0, said


def test_no_artifact_knows_the_folder_it_was_made_in(made: Path) -> None:
    """So a run can be moved: the tests here use copies of it."""
    place = str(made).encode()
    for path in (made / "data").rglob("*"):
        assert not path.is_file() or place not in path.read_bytes(), path


def test_the_clock_decides_nothing(made: Path, data: Path) -> None:
    """Times of files are a hundred years back or ahead: what stages write is the same."""
    before = tree(data / "merge")
    for i, path in enumerate(sorted(data.rglob("*"))):
        then = (-1) ** i * 100 * 365 * 24 * 3600 + 1.7e9
        os.utime(path, (then, then))
    for command in ORDER[2:]:
        assert call(made, data, command)[0] == 0
    assert tree(data / "merge") == before


@pytest.mark.parametrize(
    ("gone", "command"),
    [
        ("backbone", "maps"),
        ("manifest", "maps"),
        ("maps", "mebin"),
        ("mebin", "crops"),
        ("crops", "predict"),
        ("classes", "train"),
        ("train", "predict"),
        ("predict", "merge"),
        ("merge", "evaluate"),
        ("evaluate", "report"),
        ("manifest", "report"),
        ("maps", "classify"),
        ("predict/metal/descriptors.zarr", "report"),
        ("maps/metal/scores.parquet", "predict"),
        ("mebin/metal/images.parquet", "report"),
    ],
)
def test_what_was_deleted_is_named_with_its_stage(
    made: Path, data: Path, gone: str, command: str
) -> None:
    shutil.rmtree(data / gone) if (data / gone).is_dir() else (data / gone).unlink()
    line = fails(made, data, command)
    assert "does not exist" in line
    assert f"'{gone.split('/')[0]}'" in line


@pytest.mark.parametrize("how", [empty, cut, foreign])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("train/metal/model.safetensors", "predict"),
        ("predict/metal/classifier.safetensors", "classify"),
        ("maps/metal/bank.safetensors", "classify"),
    ],
)
def test_damaged_tensors_are_named(
    made: Path, data: Path, name: str, command: str, how: Break
) -> None:
    how(data / name)
    line = fails(made, data, command, **network_for(name))
    assert name in line
    assert f"run the stage '{name.split('/')[0]}' again" in line


@pytest.mark.parametrize(
    ("name", "command", "how"),
    [
        ("train/metal/model.json", "predict", text("[]")),
        ("train/metal/model.json", "predict", without("params")),
        ("train/metal/model.json", "predict", having("params", {"train": []})),
        ("train/metal/model.json", "predict", having("params", {"train": {"heads": "x"}})),
        ("train/metal/model.json", "predict", having("head", "0")),
        ("train/metal/model.json", "predict", having("head", 99)),
        ("train/metal/model.json", "predict", having("n_classes", 99)),
        ("train/metal/model.json", "classify", without("maps")),
        ("train/metal/model.json", "classify", having("mebin", {"s_min": None, "s_max": 1})),
        ("classes/metal/classes.json", "train", text("{}")),
        ("classes/metal/classes.json", "train", text("null")),
        ("classes/metal/classes.json", "train", having("n_classes", "3")),
        ("classes/metal/classes.json", "train", having("n_classes", True)),
        ("predict/metal/classifier.json", "classify", text("{}")),
        ("predict/metal/classifier.json", "classify", text("3")),
        ("predict/metal/classifier.json", "classify", having("score_limit", "low")),
        ("predict/metal/classifier.json", "classify", having("layers", 3)),
        ("predict/metal/classifier.json", "classify", having("layers", ["a"] * 4)),
        ("predict/metal/classifier.json", "classify", having("layers", [0] * 99)),
        ("predict/metal/classifier.json", "classify", having("params", {})),
        ("backbone/backbone.json", "predict", text("[]")),
        ("backbone/backbone.json", "predict", without("timm_name")),
        ("evaluate/metal/metrics.json", "report", text("[3]")),
        ("predict/metal/regions.parquet", "classify", empty),
        ("mebin/metal/images.parquet", "crops", cut),
        ("views/metal/views.json", "train", text("[]")),
        ("views/metal/views.json", "train", having("dim", "wide")),
        ("views/metal/offsets.npy", "train", empty),
        ("views/metal/offsets.npy", "train", cut),
        ("views/metal/offsets.npy", "train", lambda path: np.save(path, np.zeros(3))),
        ("views/metal/tokens.bin", "train", empty),
        ("views/metal/tokens.bin", "train", cut),
        ("train/metal/history.csv", "report", empty),
        ("train/metal/history.csv", "report", text("epoch,lr\n0,1\n")),
        (
            "train/metal/history.csv",
            "report",
            text("loss_total,loss_rep,loss_cls_u,loss_reg,loss_rep_l,loss_cls_l\na,b,c,d,e,f\n"),
        ),
    ],
)
def test_damaged_descriptions_are_named(
    made: Path, data: Path, name: str, command: str, how: Break
) -> None:
    how(data / name)
    line = fails(made, data, command, **network_for(name))
    stage, *_, file = name.split("/")
    assert f"{data}/{stage}" in line
    assert f"'{stage}'" in line
    assert file in line or "tensors" in line or "heads" in line


def test_missing_keys_of_the_backbone_do_not_stop_other_stages(made: Path, data: Path) -> None:
    for content in ([], {"patch_size": None}, {"patch_size": "x", "depth": 6}):
        write_json(data / "backbone" / "backbone.json", content)
        assert call(made, data, "merge")[0] == 0


def in_class(value: object, kind: pa.DataType) -> Break:
    """Give the first region a class, in a column of type `kind`, as no stage writes it."""

    def change(path: Path) -> None:
        table = pq.read_table(path)
        place = table.schema.get_field_index("class")
        values = [value, *(str(k) if kind == pa.string() else k for k in table["class"][1:])]
        values = [v.as_py() if isinstance(v, pa.Scalar) else v for v in values]
        column = pa.array(values, kind)
        schema = table.schema.set(place, pa.field("class", kind))
        columns = [column if i == place else c for i, c in enumerate(table.columns)]
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)

    return change


def in_probabilities(value: list[float]) -> Break:
    def change(path: Path) -> None:
        frame = read_parquet(path, REGIONS)
        rows = [np.asarray(row) for row in frame["probabilities"]]
        rows[0] = np.asarray([*value, *rows[0][2:]], np.float32)
        write_parquet(path, frame.assign(probabilities=rows), REGIONS)

    return change


@pytest.mark.parametrize("command", ["merge", "evaluate", "report"])
@pytest.mark.parametrize(
    "how",
    [
        in_class("scratch", pa.string()),
        in_class(99, pa.int64()),
        in_class(-1, pa.int64()),
        in_class(None, pa.int64()),
        in_class(0.5, pa.float64()),
        in_probabilities([np.nan, 0.5]),
        in_probabilities([0.1]),
    ],
)
def test_a_wrong_table_of_regions_is_named(
    made: Path, data: Path, how: Break, command: str
) -> None:
    how(data / "predict/metal/regions.parquet")
    line = fails(made, data, command)
    assert "data/predict/metal/regions.parquet: " in line
    assert "run the stage 'predict' again" in line


def test_columns_of_another_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data" / "crops" / "c" / "crops.parquet"
    row = ("a-0", "a", 0, 0, 0, 9, 4, 0.5)
    write_parquet(path, pd.DataFrame([row], columns=CROPS.names), CROPS)
    table = pq.read_table(path)
    place = table.schema.get_field_index("side")
    pq.write_table(table.set_column(place, "side", pa.array(["9"])), path)
    with pytest.raises(ArtifactError, match=r"crops\.parquet: .*'side' is of type string, .*int64"):
        read_parquet(path, CROPS)


@pytest.mark.parametrize(
    ("shard", "command"),
    [
        ("maps/metal/maps.zarr/maps/c/0/0/0", "mebin"),
        ("mebin/metal/masks.zarr/masks/c/0/0/0", "crops"),
        ("crops/metal/crops.zarr/images/c/0/0/0/0", "predict"),
        ("crops/metal/crops.zarr/masks/c/0/0/0", "views"),
        ("predict/metal/descriptors.zarr/descriptors/c/0/0/0", "report"),
    ],
)
def test_a_missing_shard_is_named(made: Path, data: Path, shard: str, command: str) -> None:
    (data / shard).unlink()
    line = fails(made, data, command)
    stage, _, group, *rest = shard.split("/")
    assert f"{group}: the shard {'/'.join(rest)} is missing" in line
    assert f"run the stage '{stage}' again" in line


def test_a_missing_array_is_named(made: Path, data: Path) -> None:
    shutil.rmtree(data / "crops/metal/crops.zarr/masks")
    assert "crops.zarr: the array 'masks' is missing" in fails(made, data, "predict")


@pytest.mark.parametrize("n", [0, 1, 300])
def test_shards_of_zeros_are_written_and_counted(tmp_path: Path, n: int) -> None:
    path = tmp_path / "x.zarr"
    with create_arrays(path, {"x": ArraySpec((n, 4, 4), "uint8")}) as arrays:
        if n:
            arrays["x"][:] = 0
    assert not np.asarray(open_arrays(path)["x"]).any()
    if n == 300:
        (path / "x" / "c" / "1" / "0" / "0").unlink()
        with pytest.raises(ArtifactError, match=r"x\.zarr: the shard x/c/1/0/0 is missing"):
            open_arrays(path)


def test_an_attribute_that_counts_no_shards_is_named(tmp_path: Path) -> None:
    for shards in (3, {"x": "1"}):
        with create_arrays(tmp_path / "x.zarr", {}, {"shards": shards}):
            pass
        with pytest.raises(ArtifactError, match=r"x\.zarr: its attribute 'shards' is"):
            open_arrays(tmp_path / "x.zarr")


def test_a_group_of_an_earlier_version_opens(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    group = zarr.create_group(path, zarr_format=3)
    group.attrs["schema_version"] = 1
    group.create_array("x", shape=(3, 4), dtype="uint8", chunks=(1, 4))
    assert not np.asarray(open_arrays(path)["x"]).any()


def other_values(path: Path) -> None:
    """Change the values and keep names and shapes, as another run would."""
    tensors = {
        name: values if name == "ranks" else values + 1 for name, values in load_file(path).items()
    }
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("train/metal/model.safetensors", "predict"),
        ("predict/metal/classifier.safetensors", "classify"),
        ("maps/metal/bank.safetensors", "classify"),
    ],
)
def test_tensors_of_another_run_are_refused(
    made: Path, data: Path, name: str, command: str
) -> None:
    other_values(data / name)
    line = fails(made, data, command, **network_for(name))
    assert name in line
    assert "not the file that" in line
    assert f"run the stage '{name.split('/')[0]}' again" in line


def test_a_classifier_of_another_run_is_refused(made: Path, data: Path) -> None:
    """Both its files, beside the regions of this run."""
    other = {"predict": {"normal": "none", "dimensions": [1]}}
    kept = (data / "predict/metal/regions.parquet").read_bytes()
    assert call(made, data, "predict", **other)[0] == 0
    (data / "predict/metal/regions.parquet").write_bytes(kept)
    line = fails(made, data, "classify")
    assert "classifier.safetensors: not the file that" in line
    assert "run the stage 'predict' again" in line


def test_a_network_of_another_run_is_refused(made: Path, data: Path) -> None:
    assert call(made, data, "train", train={"seed": 1})[0] == 0
    for line in (
        fails(made, data, "classify"),
        CliRunner()
        .invoke(app, ["export", "model", CATEGORY, "--out", "x.pt", "--data", str(data)])
        .output,
    ):
        assert "made by another network than" in line
        assert "run the stage 'predict' again" in line
    assert call(made, data, "predict")[0] == 0
    assert call(made, data, "classify")[0] == 0


def test_a_bank_of_another_run_is_refused(made: Path, data: Path) -> None:
    assert call(made, data, "maps", maps={"layers": [2, 3]})[0] == 0
    assert "bank.safetensors: not the file that" in fails(made, data, "classify")


def test_parts_without_hashes_are_taken_as_they_are(made: Path, data: Path) -> None:
    """They were written before there were any."""
    model, classifier = data / "train/metal/model.json", data / "predict/metal/classifier.json"
    content = read_json(model)
    del content["sha256"], content["maps"]["bank_sha256"]
    write_json(model, content)
    content = read_json(classifier)
    del content["sha256"], content["model_sha256"]
    write_json(classifier, content)
    table = data / "predict/metal/regions.parquet"
    write_parquet(table, read_parquet(table, REGIONS), REGIONS)
    assert call(made, data, "classify")[0] == 0
    other_values(data / "maps/metal/bank.safetensors")
    assert call(made, data, "classify")[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"views": {"seed": 1}},
        {"views": {"mask_layers": 4}},
        {"views": {"augment": {"flip": False}}},
        {"compute": {"dtype": "bfloat16"}},
    ],
)
def test_views_of_other_settings_are_refused(
    made: Path, data: Path, change: dict[str, Any]
) -> None:
    line = fails(made, data, "train", **change)
    assert "views/metal: made from other settings; run the stage 'views' again" in line
    assert call(made, data, "views", **change)[0] == 0
    assert call(made, data, "train", **change)[0] == 0


def test_views_of_other_crops_are_refused(made: Path, data: Path) -> None:
    """As many of them, elsewhere in the images."""
    assert call(made, data, "crops", crops={"padding": 1.4})[0] == 0
    assert "made from other crops; run the stage 'views' again" in fails(made, data, "train")


class KilledError(RuntimeError):
    """Stands for the end of the process."""


def kill(*_: object, **__: object) -> None:
    raise KilledError


@pytest.mark.parametrize(
    ("stage", "module", "step"),
    [("train", train, "write_history"), ("predict", predict, "write_descriptors")],
)
def test_a_stage_that_is_killed_between_files_changes_none(
    made: Path, data: Path, monkeypatch: pytest.MonkeyPatch, stage: str, module: Any, step: str
) -> None:
    before = tree(data / stage)
    content = settings(made)
    content["train"] |= {"seed": 1}
    content["predict"] |= {"normal": "none"}
    monkeypatch.setattr(module, step, kill)
    with pytest.raises(KilledError):
        run(stage, Params.model_validate(content), ArtifactPaths(data))
    assert tree(data / stage) == before


@contextmanager
def full_disk(largest: int = 4000) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_saving_the_network_is_one_line(made: Path, data: Path) -> None:
    before = tree(data / "train")
    params, content = data.parent / "params.yaml", settings(made)
    content["predict"]["classifier"] = "heads"
    params.write_text(json.dumps(content))
    arguments = ["train", CATEGORY, "--params", str(params), "--data", str(data)]
    with full_disk():
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert re.search(r"train: model\.safetensors could not be written \(.*too large", result.output)
    assert tree(data / "train") == before
    assert [path.name for path in (data / "train").iterdir()] == [CATEGORY]


@pytest.mark.parametrize(
    "stage", ["manifest", "maps", "mebin", "crops", "predict", "merge", "report"]
)
def test_a_full_disk_is_one_line_and_the_old_artifact_stays(
    made: Path, data: Path, stage: str
) -> None:
    before = tree(data / stage)
    params = data.parent / "params.yaml"
    params.write_text(json.dumps(settings(made)))
    where = ["--params", str(params), "--data", str(data)]
    category = [] if stage == "report" else [CATEGORY]
    with full_disk(200):
        result = CliRunner().invoke(app, [stage, *category, *where])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    (line,) = (text for text in result.output.splitlines() if text.startswith("anomalyncd "))
    assert re.search(rf"{stage}.* could not be written \(.*too large.*; .*free space", line), line
    assert tree(data / stage) == before
    assert not [path for path in data.rglob(".*") if path.suffix in (".tmp", ".old")]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("ending", ["pt", "onnx"])
def test_a_run_in_which_all_is_normal_is_exported(tmp_path: Path, ending: str) -> None:
    """There are no mixtures then, and one row of votes is the answer to every sub-image."""
    if ending == "onnx" and find_spec("onnxscript") is None:
        pytest.skip("needs the extra onnx")
    paths, params = run_predict(tmp_path, normal="regions")
    path = paths.crops("c") / "crops.parquet"
    write_parquet(path, read_parquet(path, CROPS).assign(area_px=0), CROPS)
    run_stage(predict, "c", params, paths)
    assert read_json(paths.predict("c") / "classifier.json")["layers"] == []
    code, said = export(paths, tmp_path / f"net.{ending}")
    assert code == 0, said


@pytest.mark.filterwarnings("ignore")  # of what tracing cannot follow, in timm
def test_a_trace_without_mixtures_takes_any_batch() -> None:
    vit = create_vit("test_vit.r160_in1k", None, image_size=64)
    space = DescriptorSpace(np.zeros((1, int(vit.embed_dim))), np.ones(1))
    network = MixtureNetwork(
        vit, [3], space, MixtureEnsemble([], np.eye(1, 3)), empty_is_normal=False
    )
    inputs = torch.zeros(5, 3, 64, 64), torch.ones(5, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network.eval(), tuple(x[:2] for x in inputs), check_trace=False
        )
        for n in (1, 2, 5):
            assert traced(*(x[:n] for x in inputs))[0].tolist() == [[1, 0, 0]] * n
