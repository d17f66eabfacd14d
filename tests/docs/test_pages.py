"""Links, files, parameters and rooms that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.config.reading import load_params
from tests.graph import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
SUFFIXES = {"csv", "json", "parquet", "py", "safetensors", "zarr"}
SECTIONS = load_params(ROOT / "params.yaml").model_dump(by_alias=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert all((page.parent / link.partition("#")[0]).exists() for link in links), links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parameters_are_those_of_params_yaml(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|-S '?)([a-z]+)\.([a-z_]+)\b(?=[`:=])", text)
    for section, key in named:
        if section in SECTIONS and key not in SUFFIXES:
            assert key in SECTIONS[section], f"{section}.{key}"


def test_benchmarks_and_params_files_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    modules = set(re.findall(r"python -m (benchmarks\.\w+|tests\.\w+)", text))
    assert {"benchmarks.tables", "benchmarks.speed", "benchmarks.classifiers"} <= modules
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), module
    files = set(re.findall(r"\b((?:pipeline|tests|params|stages)/[\w/]+\.(?:py|yaml))\b", text))
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_map_of_rooms_is_complete() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = set(re.findall(r"^\| `(\w+)` \|.*\| (?:yes|no) \|$", text, re.MULTILINE))
    packages = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert rooms == packages
    files = {f for f in re.findall(r"`(\w+/\w+\.py)`", text) if f.split("/")[0] in packages}
    assert "binarization/stable_run.py" in files
    assert [f for f in files if not (ROOT / "pipeline" / f).exists()] == []


def test_results_stay_short_and_clean() -> None:
    pages = {name: (ROOT / "docs" / name).read_text() for name in ("results.md", "performance.md")}
    assert len(pages["results.md"].splitlines()) <= 80
    for line in pages["performance.md"].splitlines():
        assert not line.startswith("|") or line.count("|") <= 6, line
    assert "-dirty" not in "".join(pages.values())
