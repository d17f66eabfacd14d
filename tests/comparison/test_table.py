"""The table of the comparison: metrics, words, the page."""

from __future__ import annotations

import base64
import re
from hashlib import sha256

import numpy as np
import pytest

from pipeline.comparison.descriptions import OWN, Description, describe
from pipeline.comparison.page import comparison_page, render_comparison
from pipeline.comparison.table import Judged, judge, within_a_deviation
from pipeline.peers.base import Uses


def row(
    name: str, nmi: float, *, own: bool = False, sd: float | None = None, uses: str = ""
) -> Judged:
    kinds: dict[str, Uses] = {"N": "N", "M": "M"}
    about = Description(
        name, "nothing", frozenset(kinds[u] for u in uses), "C",
        {"MTD": (0.1, 0.02, 0.345)}, f"On {name}.", own=own,
    )  # fmt: skip
    means = {"nmi": nmi, "ari": 0.5, "f1": 0.25}
    spread = None if sd is None else dict.fromkeys(means, sd)
    return Judged(name, "whole", about, means, spread, ["a", "<b>"], [0, 1], 1.5, 300.0)


def page_of(*rows: Judged) -> str:
    page = comparison_page(
        "<metal>", rows, n_classes=2, commit="abc", settings=["Five seeds."],
        feature_seconds={"whole": 12.3},
    )  # fmt: skip
    return render_comparison(page)


def test_mean_and_deviation_over_seeds() -> None:
    """One seed agrees, the other puts all into one cluster: NMI 1 and 0, F1 1 and .5."""
    means, deviations = judge(np.array([[0, 1], [0, 0]]), ["a", "b"])
    assert means == pytest.approx({"nmi": 0.5, "ari": 0.5, "f1": 0.75})
    assert deviations is not None
    assert deviations["nmi"] == pytest.approx(0.5**0.5)
    assert judge(np.array([[0, 1]]), ["a", "b"])[1] is None


def test_a_peer_within_a_deviation_is_named() -> None:
    mine = row("mine", 0.8, own=True, sd=0.05, uses="M")
    near, far = row("near", 0.76), row("far", 0.74)
    more = row("more", 0.9, uses="MN")  # uses more than ours: not comparable
    (sentence,) = within_a_deviation([mine, near, far, more])
    assert "near" in sentence
    assert "far" not in sentence
    assert "more" not in sentence
    assert "No peer" in within_a_deviation([mine, far])[0]


def test_what_a_row_uses_follows_from_its_input() -> None:
    def uses(key: str, given: str, normals: bool, base: int = 0) -> str:
        found = describe(key, given, maps_use_normals=normals, base_classes=base)
        assert found is not None
        return "".join(sorted(found.uses))

    assert uses("kmeans_class", "whole", True) == ""
    assert uses("kmeans_class", "crop", False) == "M"
    assert uses("kmeans_class", "crop", True) == "MN"
    assert uses("gcd_kmeans", "whole", True, base=2) == "B"
    assert uses("gcd_kmeans", "whole", True) == ""
    assert uses("heads", "crop", False, base=2) == "BM"
    named = describe("gcd_kmeans", "whole", maps_use_normals=False, base_classes=0)
    assert named is not None
    assert named.name == "GCD (k-means only) (no D_l), whole"
    assert describe("k_medoids", "whole", maps_use_normals=False, base_classes=0) is None
    assert set(OWN) == {"heads", "heads_free", "mixture", "mixture_free"}


def test_the_page_escapes_and_allows_no_script_but_its_own() -> None:
    html = page_of(row("<i>mine</i>", 0.8, own=True), row("peer", 0.9, sd=0.01))
    assert "<i>mine" not in html
    assert "&lt;i&gt;mine" in html
    assert "<b>" not in html
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "http" not in html.replace("http-equiv", "")


def test_rows_fall_and_skipped_ones_say_why() -> None:
    skipped = Judged("slow", "crop", row("slow", 0).about, skipped="took more than 10 minutes")
    html = page_of(row("low", 0.3), row("high", 0.9, sd=0.0123), skipped)
    assert html.index(">high<") < html.index(">low<")
    assert ".900 <span" in html
    assert "(.012)" in html
    assert "slow: took more than 10 minutes" in html
    assert "MTD .100/.020/.345" in html
