"""The class tree on the review page, in a real browser."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.clustering.class_choices import Choice, Merge, Split, apply_choices
from pipeline.clustering.class_tree import ClassTree, grow_tree
from pipeline.curation.choices import is_choices_file, read_choices
from tests.browser import CHROMIUM, Browser, browser
from tests.report.test_review import RUN, synthetic, text, write

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
N = 60


def grown() -> ClassTree:
    rng = np.random.default_rng(1)
    classes = np.arange(N) % 3
    x = 9 * np.eye(6)[2 * classes + np.arange(N) // 3 % 2] + rng.normal(size=(N, 6))
    return grow_tree(x, classes, 3)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def tree(tab: Browser, tmp_path: Path) -> Iterator[ClassTree]:
    """A page of 60 regions with its tree open and no choice; without an error at the end."""
    tree = grown()
    columns: dict[str, Any] = {
        "owners": tree.owners.tolist(),
        "n": 3,
        "sizes": tree.sizes.tolist(),
        "regions": [[f] for f in range(len(tree.owners))],
        "nodes": [[*pair, h] for pair, h in zip(tree.nodes, tree.heights, strict=True)],
        "choices": [],
    }
    page = synthetic(N)
    path = write(tmp_path, dataclasses.replace(page, data={**page.data, "tree": columns}))
    tab.open(path)
    tab.run("localStorage.clear()")
    tab.open(path)
    tab.click("#tree > summary")
    tab.wait("document.getElementById('leaves').children.length > 0")
    tab.run("document.querySelector('.leaf').focus()")
    tab.errors.clear()
    yield tree
    assert tab.errors == []


def shown(tab: Browser) -> list[str]:
    """Class labels of the rows, from top to bottom."""
    labels: list[str] = tab.run(
        "[...document.querySelectorAll('.leaf strong')].map(e => e.textContent)"
    )
    return labels


def test_keys_split_merge_and_undo(tab: Browser, tree: ClassTree, tmp_path: Path) -> None:
    before = shown(tab)
    assert len(before) == len(tree.owners)
    assert text(tab, "#treeStatus") == "3 classes, 0 choices"
    tab.press("z", "s")
    assert text(tab, "#treeStatus").startswith("4 classes, 1 choice: split ")
    assert len(set(shown(tab))) == 4
    tab.press(" ", "End", " ", "m")  # the class of the first row with that of the last
    assert len(set(shown(tab))) == 3
    assert text(tab, "#treeStatus").endswith("(not applied yet)")
    file = tmp_path / "choices-metal.json"
    file.write_text(text(tab, "#treeText"), encoding="utf-8")
    assert is_choices_file(file)
    found = read_choices(file)
    assert (found.category, found.run) == ("metal", RUN)
    assert [type(choice) for choice in found.choices] == [Split, Merge]
    tab.press("z", "z")
    assert shown(tab) == before
    assert tab.run("document.getElementById('treeDownload').disabled")


def test_choices_are_kept_in_the_browser(tab: Browser, tree: ClassTree, tmp_path: Path) -> None:
    del tree
    tab.press("s")
    after = shown(tab)
    assert len(set(after)) == 4
    tab.open(tmp_path / "review-metal.html")
    tab.run("document.getElementById('tree').open = true")
    tab.wait("document.getElementById('leaves').children.length > 0")
    assert shown(tab) == after


def test_enter_opens_a_region(tab: Browser, tree: ClassTree) -> None:
    del tree
    tab.press("Enter")
    assert tab.run("document.getElementById('viewer').open")
    tab.press("Escape")


def test_the_page_numbers_classes_as_the_stage_does(
    tab: Browser, tree: ClassTree, tmp_path: Path
) -> None:
    """For chains of choices that leave out and give back numbers."""
    rng = np.random.default_rng(0)
    chains: list[list[Choice]] = []
    for _ in range(30):
        chain: list[Choice] = []
        for _ in range(8):
            there = np.unique(apply_choices(tree, chain).members).tolist()
            pair = tuple(int(k) for k in rng.permutation(there)[:2])
            step: Choice = Merge(pair) if rng.random() < 0.4 else Split(int(rng.choice(there)))
            try:
                apply_choices(tree, [*chain, step])
            except ValueError:
                continue
            chain.append(step)
        chains.append(chain)
    for chain in chains[:6]:
        stored = [
            {"merge": list(c.classes)} if isinstance(c, Merge) else {"split": c.number}
            for c in chain
        ]
        key = json.dumps(f"anomalyncd:choices:metal:{RUN}")
        tab.run(f"localStorage.setItem({key}, {json.dumps(json.dumps(stored))})")
        tab.open(tmp_path / "review-metal.html")
        tab.run("document.getElementById('tree').open = true")
        tab.wait("document.getElementById('leaves').children.length > 0")
        members = apply_choices(tree, chain).members
        counts = np.bincount(members)
        labels = shown(tab)
        for k in np.unique(members):
            name = "0 normal" if k == 0 else f"class {k}"
            wanted = [label for label in labels if label == name or label.startswith(f"{k} ")]
            assert len(wanted) == counts[k], (chain, k)
