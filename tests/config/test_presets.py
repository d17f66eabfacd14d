"""Parts of params.yaml as overrides: against Hydra's parser, which `dvc exp run -S` uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.fit import architecture, map_misfits, misfits
from pipeline.config.params import Params
from pipeline.config.presets import as_override, read_preset, with_overrides
from pipeline.config.reading import load_params
from pipeline.config.section import ConfigError
from pipeline.mgvit.attention import patch_keep
from tests.graph import ROOT

PRESETS = sorted((ROOT / "params").glob("*.yaml"))


def preset(path: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["preset", str(path)])
    return result.exit_code, result.output


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_key_of_a_preset_changes_params_yaml(path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    overrides = read_preset(path)
    assert overrides
    for key, value in overrides.items():
        assert with_overrides(params, {key: value}) != params, key


def test_the_paper_uses_the_heads() -> None:
    code, text = preset(ROOT / "params" / "paper.yaml")
    assert code == 0
    assert text.split(" -S ") == [
        "-S backbone.source=hub",
        "backbone.name=vit_base_patch8_224.dino",
        "maps.method=musc",
        "maps.backbone={source:hub,name:vit_large_patch14_clip_quickgelu_336.openai}",
        "maps.layers=[5,11,17,23]",
        "maps.neighbourhoods=[1,3,5]",
        "maps.resolution=518",
        "maps.aspect=1.0",
        "maps.image_score=published",
        "maps.gamma=1.0",
        "maps.skip=0.0",
        "maps.fraction=0.3",
        "predict.classifier=heads",
        "predict.normal=none\n",
    ]


def test_the_paper_s_parameters_fit_both_of_its_backbones() -> None:
    params = with_overrides(Params(), read_preset(ROOT / "params" / "paper.yaml"))
    assert params.maps.backbone is not None
    found = architecture(params.backbone.name), architecture(params.maps.backbone.name)
    assert found == ((8, 12), (14, 24))
    assert not misfits(params, *found[0])
    assert not map_misfits(params, *found[1])
    assert map_misfits(params, *found[0])  # 518 px and block 23 are CLIP's


def after_paper(name: str) -> Params:
    """The defaults under params/paper.yaml and another preset."""
    both = {**read_preset(ROOT / "params/paper.yaml"), **read_preset(ROOT / "params" / name)}
    return with_overrides(Params(), both)


@pytest.mark.parametrize("name", ["reference.yaml", "paper_text.yaml"])
def test_code_and_text_have_fresh_views_in_full_precision(name: str) -> None:
    params = after_paper(name)
    assert (params.views.count, params.compute.dtype) == (0, "float32")
    assert (params.maps.image_score, params.maps.gamma, params.maps.skip) == ("published", 1, 0)
    assert (params.predict.classifier, params.predict.normal) == ("heads", "none")
    assert params.mebin.rule == {"reference.yaml": "reference", "paper_text.yaml": "paper"}[name]


def test_where_the_text_differs_from_the_code() -> None:
    code, text = (after_paper(name).model_dump() for name in ("reference.yaml", "paper_text.yaml"))
    differ = {
        f"{section}.{key}"
        for section, keys in code.items()
        for key, value in keys.items()
        if text[section][key] != value
    }
    assert differ == {
        *("mebin.rule", "crops.smallest_side", "crops.merge_distance", "crops.keep"),
        *("views.mask_threshold", "train.views_summed"),
        *("train.contrast_temperature", "train.contrast_temperature_labelled"),
    }


def test_the_text_keeps_patches_above_a_half() -> None:
    """A mean of exactly .5 is not above it; the smallest float32 above it is."""
    threshold = after_paper("paper_text.yaml").views.mask_threshold
    above = np.nextafter(np.float32(0.5), np.float32(1))
    masks = torch.tensor([[[0.5, float(above)], [0.25, 1.0]]])
    assert patch_keep(masks, 1, threshold=threshold).tolist() == [[False, True, False, True]]
    assert patch_keep(masks, 1, threshold=Params().views.mask_threshold)[0, 0]


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -3, 0.5, 5e-05, 1e16, [], [5, 8], ["good", "MT_Free"]),
        *({"crop": False, "flip": True}, {"metal": 5}, {}, [None, [True]]),
        *("heads", "/data/mvtec-ad/v1.0", "../a_b", "vit_base_patch8_224.dino", "a:b", "x+y"),
        *("-S", "1a", "v1.0", "truely", "nullable", "e5", "1.2/3"),
    ],
    ids=str,
)
def test_hydra_reads_what_was_written(value: object) -> None:
    text = as_override("section.key", value)
    assert not set(text) & set(" \t\n'\"$`\\|&;<>()*?!~#")
    parsed = OverridesParser.create().parse_override(text)
    assert parsed.key_or_group == "section.key"
    read = parsed.value()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a b",
        "a*",
        "$HOME",
        "a'b",
        "~",
        "{",
        "ü",
        "null",
        "True",
        "3",
        "-1e5",
        "1_0",
        "NaN",
        "+.5",
    ],
)
def test_a_string_that_needs_quotes_is_refused(value: str) -> None:
    for nested in (value, [value], {"a": value}):
        with pytest.raises(ConfigError, match=r"^dataset\.root: .* would need quotes"):
            as_override("dataset.root", nested)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mebin: {tua: 3}", "mebin.tua: unknown key"),
        ("mebbin: {tau: 3}", "mebbin: unknown key"),
        ("mebin: {tau: many}", "mebin.tau: "),
        ("[1]", "the file: "),
        ("a: [", "not valid YAML"),
        ("dataset: {root: my images}", "dataset.root: 'my images' would need quotes"),
    ],
)
def test_errors_name_the_key_and_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content + "\n")
    code, text = preset(path)
    assert code == 1
    assert message in text
    assert "mine.yaml" in text
    assert "Traceback" not in text


def test_a_missing_file_is_named_and_an_empty_one_changes_nothing(tmp_path: Path) -> None:
    assert "none.yaml" in preset(tmp_path / "none.yaml")[1]
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert preset(tmp_path / "empty.yaml") == (0, "\n")


def test_overrides_replace_values_and_merge_mappings() -> None:
    overrides: dict[str, Any] = {
        "maps.layers": [1],
        "train.lambda": 0.5,
        "views.augment": {"flip": False},
        "classes.count": {"metal": 4},
    }
    params = with_overrides(Params(), overrides)
    assert params.maps.layers == [1]
    assert params.train.lambda_ == 0.5
    assert not params.views.augment.flip
    assert params.views.augment.crop
    assert params.classes.count == {"metal": 4}
    with pytest.raises(ConfigError, match=r"mebin\.tua: unknown key"):
        with_overrides(Params(), {"mebin.tua": 3})
    with pytest.raises(ConfigError, match=r"mebin: unknown key"):
        with_overrides(Params(), {"mebin": 3})
