"""params.yaml filled with nonsense: one line that names the file or the key, and no traceback."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config.params import Params
from pipeline.config.reading import load_params, parse_params
from pipeline.config.section import ConfigError


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `section.key` and its type, for every key that is no section."""
    for name, field in model.model_fields.items():
        kind, key = field.annotation, f"{prefix}{field.alias or name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{key}.")
        else:
            yield key, kind


KEYS = dict(_keys(Params))
FREE_TEXT = {"backbone.name", "compute.device"}
"""The stages that use them refuse what no model and no device is called."""

LABELS = {
    "manifest.normal_label",
    "manifest.exclude_labels",
    "base.normal_label",
    "evaluate.combined_label",
}
"""No label is a possible answer."""

TEXT = "nonsense\0" * 50
NONSENSE: list[object] = [
    math.nan,
    math.inf,
    -math.inf,
    2**64,
    10**5000,
    -1,
    [],
    [[]],
    [2**64],
    {"a": 1},
    {"a": {}},
    TEXT,
]


def nested(key: str, value: object) -> dict[str, Any]:
    content: Any = value
    for part in reversed(key.split(".")):
        content = {part: content}
    return dict(content)


def run(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["manifest", "metal", "--params", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_there_are_keys_of_every_kind() -> None:
    assert len(KEYS) > 70
    assert {"dataset.root", "train.lambda", "views.augment.flip"} <= KEYS.keys()
    assert KEYS.keys() >= FREE_TEXT | LABELS


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(KEYS)), value=st.sampled_from(NONSENSE))
def test_nonsense_is_one_line_with_the_key(tmp_path: Path, key: str, value: object) -> None:
    if (value == [] and key in LABELS) or (value == TEXT and key in FREE_TEXT):
        return
    path = tmp_path / "params.yaml"
    if value == 10**5000:  # ruamel.yaml does not write it either
        path.write_text(_lines(key, "9" * 5001))
    else:
        with path.open("w", encoding="utf-8") as file:
            YAML(typ="safe", pure=True).dump(nested(key, value), file)
    code, text = run(path)
    assert code == 1
    assert "Traceback" not in text
    assert text.count("\n") == 1, text
    assert len(text) < 600
    assert (key if value != 10**5000 else str(path)) in text


def _lines(key: str, value: str) -> str:
    *sections, last = key.split(".")
    return "".join(f"{'  ' * i}{name}:\n" for i, name in enumerate(sections)) + (
        f"{'  ' * len(sections)}{last}: {value}\n"
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(sorted(KEYS)),
    text=st.text(st.characters(min_codepoint=0xA0, max_codepoint=0xFF), min_size=1, max_size=9),
    encoding=st.sampled_from(["latin-1", "utf-16"]),
)
def test_another_encoding_is_named(tmp_path: Path, key: str, text: str, encoding: str) -> None:
    path = tmp_path / "params.yaml"
    content = _lines(key, f'"{text}"').encode(encoding)
    try:
        content.decode("utf-8")
        return  # some Latin-1 is UTF-8 too
    except UnicodeDecodeError:
        path.write_bytes(content)
    code, said = run(path)
    assert code == 1
    assert f"{path}: not UTF-8 text: save as UTF-8" in said
    assert said.count("\n") == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80))
def test_any_bytes_are_params_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with suppress(ConfigError):
        load_params(path)
        return
    with pytest.raises(ConfigError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "maps: " + "[" * 3000,
        "maps: " + "{a: " * 3000,
        "? [1]\n: 2",
        "? {a: 1}\n: 2",
        "a: 2001-99-99",
    ],
    ids=["lists", "mappings", "list-as-key", "mapping-as-key", "no-date"],
)
def test_strange_yaml_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    code, text = run(path)
    assert code == 1
    assert str(path) in text
    assert text.count("\n") == 1, text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("maps.map_size", 10**6),
        ("maps.resolution", 10**6),
        ("maps.references", 1),
        ("mebin.n_thresholds", 10**8),
        ("mebin.erode_px", 10**6),
        ("crops.size", 20_000),
        ("train.heads", 10**8),
        ("classes.count", 10**9),
        ("views.count", 10**6),
        ("train.epochs", 10**9),
        ("train.seed", 2**32),
        ("views.seed", 2**32),
        ("maps.seed", 2**32),
        ("demo.seed", 2**32),
        ("predict.seed", 2**32),
        ("report.gallery", 10**9),
    ],
)
def test_absurd_numbers_are_refused(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: .*got {value}"):
        parse_params(nested(key, value))


def test_the_largest_seed_is_allowed() -> None:
    assert parse_params({"train": {"seed": 2**32 - 1}}).train.seed == 2**32 - 1


def test_tau_reaches_no_further_than_the_thresholds() -> None:
    assert parse_params({"mebin": {"tau": 64}}).mebin.tau == 64
    for section in ({"tau": 65}, {"n_thresholds": 3}):
        with pytest.raises(ConfigError, match=r"mebin: tau \d+ is above n_thresholds \d+"):
            parse_params({"mebin": section})


def test_a_value_of_several_kinds_is_one_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_params({"classes": {"count": 1}, "crops": {"keep": 0}})
    text = str(caught.value)
    assert text.count("classes.count") == text.count("crops.keep") == 1
    assert "constrained" not in text
    assert "literal[" not in text


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
def test_paths_that_no_file_can_have_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.root"):
        parse_params({"dataset": {"root": text}})
