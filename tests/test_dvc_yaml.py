"""dvc.yaml names what the stages import, and keeps labels in quarantine."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import get_type_hints

import pytest
from ruamel.yaml import YAML

from pipeline.config.params import Params, Report
from pipeline.config.signature import arguments, keys_of
from tests.graph import OWN_METHOD, PIPELINES, ROOT, closure, expected_code, is_code, methods

STAGES = sorted(
    file.relative_to(ROOT) for file in (ROOT / "stages").glob("*.py") if file.stem != "__init__"
)
NODES, COMPARISON = (YAML(typ="safe", pure=True).load(ROOT / name)["stages"] for name in PIPELINES)
"""The default run, and the comparison with other methods, which is none of it."""
ALL = {**NODES, **COMPARISON}


def test_one_name_everywhere() -> None:
    assert {path.stem for path in STAGES} == set(ALL)
    assert not set(NODES) & set(COMPARISON)
    for name, node in ALL.items():
        assert node["cmd"].split()[:2] == ["anomalyncd", name]
        allowed = ("data/raw/demo/",) if name == "demo" else (f"data/{name}/", "data/summary.json")
        own = f"data/{name}"
        assert all(path == own or path.startswith(allowed) for path in outputs(name))


@pytest.mark.parametrize("name", ALL)
def test_code_deps_are_the_import_graph(name: str) -> None:
    listed = [dep for dep in ALL[name]["deps"] if is_code(dep)]
    assert listed == expected_code(name), "run `python -m tests.graph`"


PATHS = {"dataset.root"}
"""Keys that only name a folder among the deps."""


def tracked(keys: Iterable[str]) -> set[str]:
    """Return the entries of `params:` for what a stage takes of params.yaml."""
    expected: set[str] = set()
    for key in keys:
        expected |= set(Params.model_fields) - {"compare"} if key == "*" else {key}
    if "compute" in expected:  # device and memory change no result
        expected = expected - {"compute"} | {"compute.dtype"}
    return expected - PATHS


@pytest.mark.parametrize("name", ALL)
def test_params_are_those_of_the_signature(name: str) -> None:
    run = importlib.import_module(f"stages.{name}").run
    assert set(ALL[name]["params"]) == tracked(keys_of(run).values())
    assert len(ALL[name]["params"]) == len(set(ALL[name]["params"]))


@pytest.mark.parametrize("name", ALL)
def test_every_key_of_a_signature_is_there(name: str) -> None:
    """With a value of the type that the stage gives it."""
    run = importlib.import_module(f"stages.{name}").run
    given = arguments(run, Params())
    left = {"category", "method", "paths", "names_path", "frozen", "return"}
    assert set(get_type_hints(run)) - left == set(given)


def outputs(name: str) -> list[str]:
    node = ALL[name]
    outs = [*node.get("outs", []), *node.get("plots", []), *node.get("metrics", [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


def overlap(first: str, second: str) -> bool:
    """Tell whether one path is the other, or a folder above it."""
    return f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")


def rerun(*, file: str = "", key: str = "") -> set[str]:
    """Return the stages that DVC runs again if a file or key changes, if all write other files."""
    stale = {
        name
        for name, node in NODES.items()
        if file in node["deps"] or key in node["params"] or key.split(".")[0] in node["params"]
    }
    while True:
        changed = [out for name in stale for out in outputs(name)]
        more = {n for n, node in NODES.items() for d in node["deps"] for o in changed
                if overlap(d, o)}  # fmt: skip
        if more <= stale:
            return stale
        stale |= more


FROM_TRAIN = {"train", "predict", "shape", "merge", "evaluate", "report"}
COMPUTED_BEFORE = {
    "backbone", "maps_backbone", "base", "manifest", "maps", "mebin", "crops", "classes", "views",
}  # fmt: skip


@pytest.mark.parametrize("module", ["losses", "training"])
def test_a_loss_reruns_training_and_what_follows(module: str) -> None:
    assert rerun(file=f"pipeline/mgvit/{module}.py") == FROM_TRAIN
    assert rerun(key="train.mu") == FROM_TRAIN


@pytest.mark.parametrize("option", Report.model_fields)
def test_an_option_of_the_report_reruns_nothing_else(option: str) -> None:
    assert rerun(key=f"report.{option}") == {"report"}


@pytest.mark.parametrize(
    "file",
    sorted(f.relative_to(ROOT).as_posix() for f in (ROOT / "pipeline/report").glob("[!_]*.py")),
)
def test_the_report_s_code_reruns_nothing_else(file: str) -> None:
    assert rerun(file=file) == {"report"}


def test_new_options_rerun_nothing() -> None:
    """They come with code of the stages that use them."""
    assert rerun(file="pipeline/config/params.py") == set()
    assert rerun(key="compute.device") == rerun(key="compute.memory_mb") == set()


@pytest.mark.parametrize(
    ("change", "spared"),
    [
        ({"file": "pipeline/detectors/musc.py"}, {"backbone", "base", "manifest"}),
        ({"file": "pipeline/clustering/class_count.py"}, {"crops", "views"}),
        ({"file": "pipeline/mgvit/heads.py"}, {"maps", "mebin", "crops", "base"}),
        ({"key": "classes.count"}, {"crops", "views"}),
        ({"key": "views.seed"}, {"crops", "classes", "base"}),
        ({"key": "predict.normal"}, {"crops", "views"}),
        ({"key": "maps.backbone"}, {"backbone", "base", "manifest"}),
        ({"key": "merge.temperature"}, COMPUTED_BEFORE | {"train", "predict"}),
    ],
    ids=lambda value: "-".join(sorted(value.values() if isinstance(value, dict) else value)),
)
def test_what_a_change_spares(change: dict[str, str], spared: set[str]) -> None:
    again = rerun(**change)
    assert again
    assert not again & spared


def test_the_maps_own_backbone_is_all_that_maps_depends_on() -> None:
    """What the pipeline's weights change in it without `maps.backbone`, is in its folder."""
    weights = {dep for dep in NODES["maps"]["deps"] if "backbone" in dep and not is_code(dep)}
    assert weights == set(outputs("maps_backbone")) == {"data/maps_backbone"}
    assert "data/backbone/backbone.json" in NODES["maps_backbone"]["deps"]


def test_another_method_of_the_comparison_reruns_nothing() -> None:
    """Not the list of methods, nor another method's code, is an input of a stage `peer`."""
    peer = COMPARISON["peer"]
    assert peer["matrix"]["method"] == "${compare.methods}"
    assert not {"compare", "compare.methods"} & set(peer["params"])
    named = {dep for dep in peer["deps"] if dep.startswith("pipeline/peers/")}
    own = {path.as_posix() for path in methods()}
    assert "pipeline/peers/uniformaly.py" in own
    assert not named & own
    assert OWN_METHOD in named


def test_nothing_of_the_default_run_depends_on_the_comparison() -> None:
    written = {out for name in COMPARISON for out in outputs(name)}
    assert not {dep for node in NODES.values() for dep in node["deps"]} & written


def test_labels_are_a_dependency_of_evaluate_and_report_alone() -> None:
    def reads(node: dict[str, list[str]], ending: str) -> bool:
        return any(dep.endswith(ending) for dep in node["deps"])

    judges = {name for name, node in ALL.items() if reads(node, "labels.parquet")}
    assert judges == {"evaluate", "compare"}
    assert {name for name, node in NODES.items() if "data/manifest" in node["deps"]} == {"report"}
    assert {n for n, node in NODES.items() if reads(node, "masks.parquet")} == {"maps", "evaluate"}


@pytest.mark.parametrize("path", STAGES, ids=str)
def test_only_four_stages_name_the_labels(path: Path) -> None:
    """`manifest` writes labels.parquet, three others read it, with all they import."""
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in closure(path)]
    named = any('"labels.parquet"' in text for text in texts)
    assert named == (path.stem in {"manifest", "evaluate", "report", "compare"})
