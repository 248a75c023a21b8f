"""Reports and cards in a real Chromium: on a telephone and a desk, light and dark."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import pytest

import chromium
from routewright.evaluation.report import render_rounds
from routewright.interview import selfplay

LEGIBLE = 10.0  # px, of the smallest letters of a picture
LETTERS = """() => [...document.querySelectorAll('svg.picture text')]
    .map(text => [text.getBoundingClientRect(), text])
    .filter(([box]) => box.width > 0)
    .map(([_, text]) => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a)"""


@pytest.fixture
def made(routewright, router_folder, outcome_table, tmp_path):
    """The page that a command writes."""

    def make(command: str):
        page = tmp_path / f"{command}.html"
        if command == "interview":
            return interviewed(routewright, tmp_path, page)
        if command == "selfplay":
            return played(page)
        routers = [router_folder]
        if command == "compare":
            routers.append(shutil.copytree(router_folder, tmp_path / "another"))
        words = (command, *routers, outcome_table, "--split", "dev", "--html", page)
        code, _, error = routewright(*words)
        assert code == 0, error
        return page

    return make


def interviewed(routewright, place, page):
    experts = [
        {"name": name, "provider": "echo", "input_per_mtok": 1, "output_per_mtok": 1}
        for name in ("small", "a-name-of-an-expert-that-is-too-long-for-one-line")
    ]
    (place / "routewright.yaml").write_text(json.dumps({"version": 1, "experts": experts}))
    queries = [
        {"id": f"q{n}", "prompt": f"Say {n}", "reference": [str(n), "Say 3"][n == 3]}
        for n in range(8)
    ]
    (place / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    words = (place / "routewright.yaml", place / "queries.jsonl")
    words += ("--out", place / "t.parquet", "--html", page, "--grader", "exact")
    code, _, error = routewright("interview", *words)
    assert code == 0, error
    return page


def played(page):
    """The page of three rounds of self-play, which take minutes."""
    facts = asdict(selfplay.Round(0, stopped=None))
    rounds = [
        {**facts, "number": n, "quality": quality, "quality_ci": (quality - 0.04, quality + 0.03)}
        for n, quality in enumerate((0.81, 0.84, 0.83))
    ]
    page.write_text(render_rounds(rounds, 1, 0.5, "Kept: round 1."))
    return page


@pytest.mark.parametrize("command", ["evaluate", "compare", "card", "interview", "selfplay"])
def test_a_page_fits_can_be_read_and_asks_nothing_of_the_network(made, command):
    page_file = made(command)
    with chromium.running() as browser:
        for width, theme in chromium.VIEWS:
            with browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=theme
            ) as context:
                page, problems = context.new_page(), []
                page.on("console", lambda m, said=problems: said.append(m.text))
                page.on("request", lambda r, said=problems: said.append(r.url))
                page.goto(page_file.as_uri())
                for details in page.locator("details > summary").all():
                    details.click()
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                letters = page.evaluate(LETTERS)
                assert min(letters, default=LEGIBLE) >= LEGIBLE
                assert letters or command == "interview"
                assert chromium.barriers(page) == []
                assert problems == [page_file.as_uri()]
