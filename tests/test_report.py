"""The report of a simulation: one page that loads nothing, says what was measured and whose data it is."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy_data import CUTOFF, DAY, toy_dataset

from edgerec_tools.comparison import document, table
from edgerec_tools.report import html, write_report
from edgerec_tools.simulate import Period, Simulation, simulate

ARMS = ("popular", "frozen", "fresh", "personalised", "central/ease-fresh")


@pytest.fixture(scope="module")
def found(bundle_path: Path) -> Simulation:
    return simulate(toy_dataset("retail", n_users=20), bundle_path, Period(CUTOFF), arms=ARMS, workers=1)


@pytest.fixture(scope="module")
def result(found: Simulation) -> dict[str, Any]:
    return document(found)


@pytest.fixture(scope="module")
def page(found: Simulation, result: dict[str, Any]) -> str:
    return html(found, result)


class Tags(HTMLParser):
    """Every tag with its attributes, and the tags that were opened and not closed."""

    VOID = ("meta", "use", "path", "rect", "br", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_loads_nothing(page: str) -> None:
    parsed = Tags(page)
    assert not parsed.open
    loading = {"src", "srcset", "data", "poster", "background", "action", "xlink:href"}
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            if name in loading or (name == "href" and tag != "a"):
                assert (value or "").startswith("#"), (tag, name, value)
    assert "@import" not in page
    assert all(address.startswith("#") for address in re.findall(r"url\(\s*['\"]?([^)'\"]*)", page))
    links = [attributes["href"] for tag, attributes in parsed.tags if tag == "a"]
    assert re.findall(r"https?://[^\"<\s]+", page) == [address for link in links for address in (link, link)]


def test_ids_are_unique_and_what_refers_to_them_finds_them(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'xlink:href="#([^"]+)"', page)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_the_page_holds_the_figures(page: str, result: dict[str, Any]) -> None:
    assert page.count("<svg") == 3
    for arm in result["arms"]:
        assert f"<td>{arm['name']}<small>" in page
        for view in ("novel", "all"):
            assert f"{arm['views'][view]['ndcg@10']:.4f}" in page
    assert result["bundle"]["digest"] in page
    assert "Test period from 2020-10-23 to the end of the data" in page


def test_the_page_says_whose_data_it_shows(page: str) -> None:
    assert "Chen, D. (2015). Online Retail [Dataset]. UCI Machine Learning Repository." in page
    assert "10.24432/C5BW33" in page
    assert "CC BY 4.0" in page


def test_a_short_run_of_a_single_arm_makes_a_page(bundle_path: Path, tmp_path: Path) -> None:
    period = Period(CUTOFF, CUTOFF + 6 * DAY)
    one = simulate(toy_dataset("<b>&", n_users=3), bundle_path, period, arms=["personalised"], workers=1)
    write_report(tmp_path / "one.html", one, document(one))
    page = (tmp_path / "one.html").read_text("utf-8")
    assert page.count("<svg") == 2
    assert not Tags(page).open
    assert "&lt;b&gt;&amp;" in page
    assert list(tmp_path.iterdir()) == [tmp_path / "one.html"]


def test_a_figure_that_does_not_exist_is_a_dash(result: dict[str, Any], found: Simulation) -> None:
    nothing = {"ndcg@10": None, "ci95": [None, None], "worse_share": None, "worst_decile": None, "n_users": 0}
    arms = [
        {**arm, "vs": {name: dict.fromkeys(("novel", "all"), nothing) for name in arm["vs"]}} for arm in result["arms"]
    ]
    assert "<td>–<small>0 users</small></td>" in html(found, {**result, "arms": arms})
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table({**result, "arms": arms}))
    assert "– –" in shown.get()
