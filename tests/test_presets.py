"""Presets: partial parameter files as options of `dvc exp run`."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import ConfigError, Params
from pipeline.presets import as_override, flatten, nest, read_preset, with_overrides
from tests.graph import ROOT

PRESETS = sorted((ROOT / "params").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_preset_changes_something_and_is_possible(path: Path) -> None:
    flat = dict(flatten(read_preset(path)))
    changed = with_overrides(Params(), flat)
    for key in flat:
        assert with_overrides(Params(), {key: flat[key]}) != Params(), f"{key} is the default"
    assert changed != Params()


def test_the_paper_uses_heads() -> None:
    flat = dict(flatten(read_preset(ROOT / "params" / "paper.yaml")))
    assert with_overrides(Params(), flat).predict.classifier == "heads"


def test_flatten_and_back() -> None:
    content = {"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}
    assert dict(flatten(content)) == {"a.b": 1, "a.c.d": None, "e": [1, 2]}
    assert nest(dict(flatten(content))) == content


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        (5e-05, "5e-05"),
        ([1, 3, 5], "[1,3,5]"),
        (["metal", "a_b"], "[metal,a_b]"),
        ("data/raw/my-set", "data/raw/my-set"),
    ],
)
def test_values_are_one_word_and_mean_what_they_meant(value: object, text: str) -> None:
    written = as_override("maps.x", value)
    assert written == f"maps.x={text}"
    assert shlex.split(written) == [written]
    assert YAML(typ="safe", pure=True).load(text) == value


@pytest.mark.parametrize("value", ["two words", "a;b", "$HOME", "é", "a'b", ["x y"], ""])
def test_what_needs_quotes_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.root: .* quotes"):
        as_override("dataset.root", value)


def test_overrides_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"mebin\.taus"):
        with_overrides(Params(), {"mebin.taus": 3})
    with pytest.raises(ConfigError, match=r"nothing\.here"):
        with_overrides(Params(), {"nothing.here": 3})
    assert with_overrides(Params(), {"train.lambda": 0.5}).train.lambda_ == 0.5


def test_the_command(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("maps: {layers: [1, 2]}\ntrain: {plc_threshold: null}\n")
    bad.write_text("mebin: {taus: 3}\n")
    result = CliRunner().invoke(app, ["preset", str(good)])
    assert result.output == "-S maps.layers=[1,2] -S train.plc_threshold=null\n"
    for path, message in ((bad, "mebin.taus: unknown key"), (tmp_path / "no.yaml", "no.yaml")):
        result = CliRunner().invoke(app, ["preset", str(path)])
        assert result.exit_code == 1
        assert message in result.output
