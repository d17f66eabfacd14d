"""Stage `classes`: the number that was given, or an estimate with its candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config.reading import parse_params
from pipeline.config.section import ConfigError
from pipeline.io.paths import ArtifactPaths
from pipeline.io.tables import read_json
from tests.config.test_every_parameter import CATEGORY, ORDER, run, settings, write_set


def content_of(root: Path) -> dict[str, dict[str, Any]]:
    """Parameters under which nearly all images have regions."""
    content = settings(root)
    content["mebin"] = {"method": "fixed", "fixed_threshold": 0.1, "erode_px": 0}
    content["predict"]["normal"] = "regions"
    return content


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    (root / "normal").mkdir()
    write_set(root / "images" / CATEGORY, base=root / "base")
    params = parse_params(content_of(root))
    for stage in ("backbone", "base", *ORDER[: ORDER.index("classes")]):
        run(stage, params, ArtifactPaths(root / "data"))
    return root


def found(root: Path, classes: object) -> tuple[dict[str, object], pd.DataFrame]:
    content = content_of(root)
    content["classes"] = {"count": classes}
    run("classes", parse_params(content), ArtifactPaths(root / "data"))
    folder = ArtifactPaths(root / "data").classes(CATEGORY)
    return read_json(folder / "classes.json"), pd.read_csv(folder / "candidates.csv")


@pytest.mark.parametrize("classes", [4, {CATEGORY: 4}])
def test_a_number_is_taken(made: Path, classes: object) -> None:
    content, candidates = found(made, classes)
    assert content == {"n_classes": 4, "estimated": False, "candidates": []}
    assert len(candidates) == 0


@pytest.mark.parametrize("classes", ["auto", {CATEGORY: "auto"}])
def test_auto_is_an_estimate_with_its_candidates(made: Path, classes: object) -> None:
    content, candidates = found(made, classes)
    assert content["estimated"]
    written = pd.DataFrame(content["candidates"])
    pd.testing.assert_frame_equal(written, candidates, atol=1e-4)
    assert len(candidates) > 0
    several = candidates[1:] if candidates["eigenvalue"].iloc[1] >= 0.5 else candidates[:1]
    assert content["n_classes"] == int(several.loc[several["gap"].idxmax(), "classes"])
    assert candidates["eigenvalue"].iloc[0] == 1
    assert candidates["eigenvalue"].is_monotonic_decreasing


def test_what_is_no_number_is_refused(made: Path) -> None:
    with pytest.raises(ConfigError, match=r"classes\.count"):
        found(made, "many")
    with pytest.raises(ConfigError, match="no entry"):
        found(made, {"other": 3})
