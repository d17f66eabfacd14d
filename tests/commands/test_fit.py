"""Parameters that the backbone cannot serve are named by their keys, before a stage runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.commands.fit import architecture, check_fit, map_misfits, misfits
from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import write_json

PATCH, DEPTH = 16, 6
FITTING: dict[str, dict[str, Any]] = {
    "maps": {"runs": [[5, 3]], "layers": [0, 5], "resolution": 64},
    "predict": {"layers": [5]},
    "views": {"image_size": 64, "mask_layers": 6},
}


def found(**change: dict[str, Any]) -> list[str]:
    content = {name: {**FITTING.get(name, {}), **values} for name, values in change.items()}
    params = parse_params({**FITTING, **content})
    return misfits(params, PATCH, DEPTH) + map_misfits(params, PATCH, DEPTH)


def test_what_fits_is_no_problem() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": {"resolution": 60}}, "maps.resolution: 60 is .* 16 pixels: use 64"),
        ({"maps": {"layers": [5, 6]}}, "maps.layers: .*blocks 0 to 5"),
        ({"maps": {"runs": [[5, 1], [6, 1]]}}, "maps.runs: .*blocks 0 to 5"),
        ({"views": {"image_size": 3}}, "views.image_size: 3 is .*: use 16"),
        ({"views": {"mask_layers": 7}}, "views.mask_layers: 7 .*: use 6 at most"),
        ({"predict": {"layers": [6, 1]}}, "predict.layers: .*blocks 0 to 5"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    (problem,) = found(**change)
    assert re.match(message, problem)


def test_what_nobody_uses_may_be_anything() -> None:
    assert not found(maps={"method": "precomputed", "resolution": 60, "layers": [9]})
    assert not found(maps={"method": "nearest", "layers": [9]})
    assert not found(maps={"method": "musc", "runs": [[9, 1]]})
    assert not found(views={"mask_on": "none", "mask_layers": 7})
    assert not found(predict={"classifier": "heads", "layers": [9]})
    assert found(predict={"classifier": "heads", "layers": [9]}, classes={"count": {"a": "auto"}})


def test_architectures_are_those_of_timm() -> None:
    assert architecture("test_vit.r160_in1k") == (PATCH, DEPTH)
    assert architecture("vit_small_patch14_dinov2.lvd142m") == (14, 12)
    with pytest.raises(ConfigError, match=r"backbone\.name: .*not a plain"):
        architecture("swin_tiny_patch4_window7_224.ms_in1k")


@pytest.mark.parametrize("stage", ["backbone", "manifest", "views"])
def test_no_stage_runs_with_what_does_not_fit(tmp_path: Path, stage: str) -> None:
    path, name = tmp_path / "params.yaml", "test_vit.r160_in1k"
    lines = [f"{section}: {values}" for section, values in FITTING.items() if section != "views"]
    lines += ["views: {image_size: 63, mask_layers: 6}", "dataset: {categories: [a]}"]
    path.write_text("\n".join([*lines, f"backbone: {{source: random, name: {name}}}"]))
    info = {"timm_name": name, "patch_size": PATCH, "depth": DEPTH}
    write_json(ArtifactPaths(tmp_path).backbone() / "backbone.json", info)
    arguments = [stage, "--params", str(path), "--data", str(tmp_path)]
    category = [] if stage == "backbone" else ["a"]
    result = CliRunner().invoke(app, [*arguments, *category])
    assert result.exit_code == 1
    assert f"anomalyncd {stage}: views.image_size: 63 is no multiple" in result.output
    assert result.output.count("\n") == 1
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [
        "params.yaml",
        "backbone.json",
    ]


def test_the_maps_answer_to_their_own_backbone(tmp_path: Path) -> None:
    """Patches of 14 pixels and 12 blocks, where the pipeline's has patches of 16 and 6 blocks."""
    paths, own = ArtifactPaths(tmp_path), "vit_small_patch14_dinov2.lvd142m"
    content: dict[str, Any] = {**FITTING, "backbone": {"name": "test_vit.r160_in1k"}}
    maps = {"runs": [[11, 1]], "resolution": 28, "backbone": {"name": own}}
    info = {"timm_name": "test_vit.r160_in1k", "patch_size": PATCH, "depth": DEPTH}
    write_json(paths.backbone() / "backbone.json", info)
    wrong = parse_params({**content, "maps": {**maps, "resolution": 64}})
    check_fit(wrong, "maps", paths)  # its weights are not there yet
    with pytest.raises(ConfigError, match=r"maps\.resolution: 64 .* 14 pixels: use 70"):
        check_fit(wrong, "maps_backbone", paths)
    info = {"timm_name": own, "patch_size": 14, "depth": 12}
    write_json(paths.maps_backbone() / "backbone.json", info)
    check_fit(parse_params({**content, "maps": maps}), "maps", paths)
    with pytest.raises(ConfigError, match=r"maps\.resolution: 64 .* 14 pixels: use 70"):
        check_fit(wrong, "maps", paths)


def test_weights_of_another_backbone_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("views: {image_size: 63}\ndataset: {root: none, categories: [a]}\n")
    info = {"timm_name": "another", "patch_size": PATCH, "depth": DEPTH}
    write_json(ArtifactPaths(tmp_path).backbone() / "backbone.json", info)
    arguments = ["manifest", "a", "--params", str(path), "--data", str(tmp_path)]
    assert "views.image_size" not in CliRunner().invoke(app, arguments).output
