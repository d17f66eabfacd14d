"""docs/tutorial.md is run as it is printed, in a copy of the project, with the real backbone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.graph import ROOT
from tests.stages.test_end_to_end import COPIED, Project

BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.M | re.S)


@pytest.mark.slow
def test_the_tutorial_runs_as_printed(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in (*COPIED, "data/raw/base", "data/raw/maps", "data/raw/normal", "data/raw/weights"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    project = Project(root)
    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -q -m start"):
        project.run(*command.split())
    for block in BLOCKS:
        project.run("bash", "-euc", block)
    found = pd.read_parquet(root / "tomorrow.parquet")
    assert len(found) == 10
    kinds = found["path"].str.split("_").str[0]
    most = found.groupby(kinds)["nearest_class"].agg(lambda k: k.mode()[0])
    assert most["good"] == 0
    assert most.nunique() >= 4
    content = json.loads((root / "photos.json").read_text())
    assert {"crack", "soft dent"} <= {c["name"] for c in content["categories"]}
    assert list((root / "data/raw/base/masks").glob("photos */*.png"))
