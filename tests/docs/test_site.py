"""The site builds strictly, asks nothing of the network, and has every page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.graph import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    # No --quiet: it hides warnings from --strict.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_of_docs_is_there_and_no_other(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    expected = {path.stem for path in (ROOT / "docs").glob("*.md")}
    beside = {"index", "404", "CHANGELOG", "CONTRIBUTING", "SECURITY"}
    assert pages == expected | beside
    assert not list(site.rglob("*.py"))


def test_pages_ask_nothing_of_the_network(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]*src=\"(\w+:)?//|<link[^>]*href=\"\w+://")
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page.name
    for style in site.rglob("*.css"):
        asks = re.search(r"(?:url\(['\"]?|@import ['\"])(?:https?:)?//", style.read_text("utf-8"))
        assert not asks, style.name


def test_links_between_docs_and_the_repository(site: Path) -> None:
    """README is the front page; a link out of docs/ leads to its page, or is text alone."""
    index = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="start.html"' in index
    assert 'src="report.jpg"' in index
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"(?:href|src)=\"([^\"#?]+)", text):
            if page.name != "404.html" and "://" not in link:
                assert (site / link).exists(), (page.name, link)


def test_the_reference_of_python_has_the_docstrings(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in ("load_classifier", "ImageClassifier", "binarize_map", "Detector"):
        assert re.search(rf'id="pipeline\.[\w.]+\.{name}"', text), name
    assert "The folder of the artifacts." in text
