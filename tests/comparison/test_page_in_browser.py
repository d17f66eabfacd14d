"""The page of the comparison in a real browser: sorted by its headings, and nothing cut off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import CHROMIUM, Browser, browser
from tests.comparison.test_table import page_of, row

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

NAMES = "[...document.querySelectorAll('.sortable tbody th')].map(e => e.firstChild.textContent)"
NMI, ROW, GPU = (f".sortable thead th:nth-child({k}) button" for k in (5, 1, 11))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(
        page_of(row("middle", 0.5), row("best", 0.9, own=True), row("worst", 0.1, sd=0.25)), "utf-8"
    )
    with browser(folder / "profile") as shown:
        shown.open(folder / "report.html")
        yield shown


def test_a_click_on_a_heading_sorts_and_another_turns_the_order(page: Browser) -> None:
    assert page.run(NAMES) == ["best", "middle", "worst"]
    page.click(NMI)  # it falls at first, so the first click turns it
    assert page.run(NAMES) == ["worst", "middle", "best"]
    assert page.run(f"document.querySelector('{NMI}').parentElement.ariaSort") == "ascending"
    page.click(NMI)
    assert page.run(NAMES) == ["best", "middle", "worst"]
    page.click(ROW)
    assert page.run(NAMES) == ["worst", "middle", "best"]
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
    assert page.errors == []


def test_the_page_is_not_wider_than_the_window_and_names_stay_in_sight(page: Browser) -> None:
    """A wide table scrolls in its own frame, where the first column stays."""
    page.run("document.querySelector('.scroll').style.width = '500px'")
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.run("(document.querySelector('.scroll').scrollLeft = 200) && true")
    frame, name = (
        page.run(f"document.querySelector('{which}').getBoundingClientRect().x")
        for which in (".scroll", ".sortable tbody th")
    )
    assert page.run("document.querySelector('.scroll').scrollLeft") == 200
    assert name >= frame
