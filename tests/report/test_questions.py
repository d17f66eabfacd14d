"""The order in which the review page asks about regions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline.report.questions import FIRST, question_order
from tests.browser import CHROMIUM, browser
from tests.report.test_review import rows, synthetic, text, write


def probabilities(margins: list[float]) -> np.ndarray:
    top = (1 + np.array(margins)) / 2
    return np.stack([1 - top, top], 1)


def test_narrow_margins_in_large_clusters_come_first() -> None:
    p = probabilities([0.9, 0.1, 0.1, 0.2])
    assert question_order(p, [0, 1, 0, 0], [0, 1, 2, 3]).tolist() == [2, 3, 1, 0]


def test_a_part_that_was_seen_waits() -> None:
    p = probabilities([0.1, 0.1, 0.8])
    assert question_order(p, [0, 0, 1], [0, 0, 1]).tolist() == [0, 2, 1]


def test_a_cluster_that_was_asked_about_counts_less() -> None:
    p = probabilities([0.0, 0.1, 0.2, 0.3, 0.2])
    assert question_order(p, [0, 0, 0, 1, 1], range(5)).tolist() == [0, 4, 1, 2, 3]


@pytest.mark.parametrize("n", [0, 1, FIRST, 3 * FIRST])
def test_each_region_comes_once(n: int) -> None:
    rng = np.random.default_rng(n)
    p = rng.dirichlet(np.ones(3), n)
    order = question_order(p.reshape(n, 3), rng.integers(0, 5, n), rng.integers(0, 9, n))
    assert sorted(order.tolist()) == list(range(n))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_twenty_questions(tmp_path: Path) -> None:
    page = synthetic(30)
    regions = {**page.data["regions"], "ask": list(range(29, -1, -1)), "stands": [7] * 30}
    path = write(tmp_path, dataclasses.replace(page, data={**page.data, "regions": regions}))
    with browser(tmp_path / "profile") as tab:
        tab.open(path)
        tab.set("[name=class]", "1")
        tab.click("#questions")
        tab.wait("document.querySelectorAll('#grid .card').length === 20")
        assert rows(tab) == list(range(29, 9, -1))
        assert text(tab, "#grid .card").count("7 alike") == 1
        tab.press("1")  # the frame is on the first question
        assert text(tab, "#status") == "1 correction"
        assert tab.errors == []
