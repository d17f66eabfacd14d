"""params.yaml: what is refused, and how the message names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.params import Params
from pipeline.config.presets import with_overrides
from pipeline.config.reading import load_params, parse_params
from pipeline.config.section import ConfigError
from pipeline.config.validation import MOVED
from pipeline.detectors.grids import median_aspect
from pipeline.inference.map_settings import geometry, settle
from pipeline.mgvit.augmentation import resized_side
from tests.graph import ROOT


def test_the_file_in_the_repository_states_every_default() -> None:
    assert load_params(ROOT / "params.yaml") == Params()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mebin": {"tua": 3}}, "mebin.tua: unknown key"),
        ({"mebbin": {}}, "mebbin: unknown key"),
        ({"mebin": {"tau": 0}}, "mebin.tau: .*greater than 0.*got 0"),
        ({"mebin": {"tau": "4"}}, "mebin.tau: .*integer.*got '4'"),
        ({"mebin": {"tau": True}}, "mebin.tau: .*integer"),
        ({"mebin": {"rule": "paper", "floor": 1.5}}, "mebin.floor"),
        ({"mebin": {"rule": "reference", "n_thresholds": 48}}, "mebin: .*power of two"),
        ({"maps": {"method": "magic"}}, "maps.method: .*'musc'"),
        ({"maps": {"neighbourhoods": [2]}}, "maps.neighbourhoods: .*odd"),
        ({"classes": {"count": 1}}, "classes.count"),
        ({"views": {"count": 1}}, "views.count: .*2 or more, or 0"),
        ({"train": {"lr": float("nan")}}, "train.lr"),
        ({"views": {"augment": {"flop": True}}}, "views.augment.flop: unknown key"),
        ({"dataset": {"categories": []}}, "dataset.categories"),
        ({"dataset": {"categories": ["a", "a"]}}, "dataset.categories: .*twice"),
        ({"dataset": {"categories": ["../x"]}}, "dataset.categories: .*not the name of a folder"),
        ({"backbone": {"source": "file"}}, "backbone: .*path must name"),
        ({"views": {"image_size": 392}}, "^params: views.image_size 392 .*crops.size to 448 or"),
        ({"views": {"image_size": 225}}, "set crops.size to 257 or more"),
        ([], "the file"),
    ],
)
def test_what_is_wrong_is_named(content: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_params(content)


@given(st.integers(1, 2048), st.integers(256, 4096))
def test_crops_are_never_enlarged(image_size: int, size: int) -> None:
    content = {"views": {"image_size": image_size}, "crops": {"size": size}}
    if resized_side(image_size) <= size:
        assert parse_params(content).crops.size == size
    else:
        with pytest.raises(ConfigError, match=f"crops.size to {resized_side(image_size)} or more"):
            parse_params(content)


def test_numbers_are_read_as_dvc_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {weight_decay: 1e-5, lambda: 0.5}\nclasses: {count: {a: 3}}\n")
    params = load_params(path)
    assert params.train.weight_decay == 1e-5
    assert params.train.lambda_ == 0.5
    assert params.classes.n_classes("a") == 3
    with pytest.raises(ConfigError, match=r"classes\.count: no entry for the category 'b'"):
        params.classes.n_classes("b")


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_key_that_moved_is_named(old: str, new: str) -> None:
    section, key = old.split(".")
    with pytest.raises(ConfigError, match=rf"{old}: unknown key: it is {new} now"):
        parse_params({section: {key: 1}})
    with pytest.raises(ConfigError, match=rf"{old}: unknown key: it is {new} now"):
        with_overrides(Params(), {old: 1})
    section, key = new.split(".")
    assert key in Params().model_dump(by_alias=True)[section]


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("patch", [8, 14, 32])
@pytest.mark.parametrize("tiles", ["auto", 1, 16])
@pytest.mark.parametrize("side", [10, 30_000])
def test_what_is_settled_for_a_set_is_possible(patch: int, tiles: int | str, side: int) -> None:
    """It is stored, and parsed again for new images."""
    maps = parse_params({"maps": {"smallest_defect": 0.001, "tiles": tiles}}).maps
    found = settle(maps, 50, aspect=median_aspect([(10, 3000)]), image_side=side, patch=patch)
    assert parse_params({"maps": found.to_json()}).maps == found
    assert "auto" not in (found.method, found.resolution, found.aspect, found.tiles)
    assert geometry(found) == (found.resolution, found.aspect, found.tiles)
