"""`routewright card`: what a router was fitted on, and where it holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from routewright.router.router import Router
from test_report import Page

BEGINNINGS = {"svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}


@pytest.fixture
def card(routewright, router_folder, tmp_path):
    """Makes the card of a router; returns its figures, its page and what was printed."""

    def make(*words: object, router: Path = router_folder):
        html, json_file = tmp_path / "card.html", tmp_path / "card.json"
        code, said, error = routewright("card", router, *words, "--html", html, "--json", json_file)
        assert code == 0, error
        return json.loads(json_file.read_text()), Page(html.read_text()), " ".join(said.split())

    return make


def test_a_card_states_the_facts_of_the_fit(card, router, outcome_table):
    facts, page, said = card()
    data = router.card["data"]
    assert facts["data"]["sha256"] == data["sha256"]
    assert data["sha256"] in page.text
    assert facts["data"]["prompts"] == len(router.seen)
    assert sum(facts["data"]["domains"].values()) == data["rows"]
    assert facts["data"]["cost"] > 0
    assert f"fitted on {data['rows']:,} rows" in said
    assert facts["experts"].keys() == set(router.experts)
    assert len(facts["curve"]) == len(router.frontier)
    for name, one in facts["experts"].items():
        assert f"{name} {100 * one['quality']:.1f}" in page.text
    half = router.within(max_cost_fraction=0.5)
    assert facts["at_cost_fraction"]["0.5"]["gain"] == half.gain
    assert f"{100 * half.gain:+.1f}" in page.text
    assert facts["method"]["option_style"] is False


def test_a_card_is_one_file_that_names_no_folder(card, router_folder, outcome_table):
    _, page, _ = card(outcome_table)
    assert not page.fetched
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert str(router_folder.parent) not in page.text
    assert str(outcome_table.parent) not in page.text


def test_a_card_tells_which_rows_were_fitted_on(card, outcome_table):
    facts, page, said = card(outcome_table, "--split", "train")
    (overlap,) = facts["overlap"]
    assert overlap["shared"] == overlap["prompts"] == facts["data"]["prompts"]
    assert "do not judge the router by these" in said
    assert "do not judge the router by these" in page.text
    _, _, said = card(outcome_table, "--split", "dev")
    assert "None of the" in said


def test_a_router_of_an_earlier_version_says_what_it_did_not_record(card, router, tmp_path):
    known = {"experts": router.card["experts"]}
    replace(router, card=known).save(tmp_path / "old")
    facts, page, said = card(router=tmp_path / "old")
    assert facts["data"]["rows"] is None
    assert "not recorded" in page.text
    assert "does not record what it was fitted on" in said


def test_a_router_without_points_has_a_card(card, router, tmp_path):
    replace(router, frontier=()).save(tmp_path / "bare")
    facts, page, _ = card(router=tmp_path / "bare")
    assert facts["curve"] == []
    assert "fit it again" in page.text


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_a_picture_for_a_paper_is_drawn_in_the_colours_of_a_light_page(
    routewright, router_folder, outcome_table, tmp_path, ending
):
    picture = tmp_path / f"curve.{ending}"
    code, _, error = routewright("evaluate", router_folder, outcome_table, "--picture", picture)
    assert code == 0, error
    assert picture.read_bytes().startswith(
        {"svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}[ending]
    )
    if ending == "png":
        # The darkest ink is #1c2430; the drawing's own inks, which only a page replaces, are black.
        assert imread(picture)[..., :3].sum(axis=-1).min() > 0.2


def test_compare_and_a_config_draw_a_picture_too(
    routewright, router_folder, outcome_table, tmp_path, other_router
):
    picture = tmp_path / "both.pdf"
    words = ("compare", router_folder, other_router, outcome_table, "--picture", picture)
    assert routewright(*words)[0] == 0
    assert picture.read_bytes().startswith(b"%PDF")


@pytest.fixture
def other_router(router, tmp_path) -> Path:
    replace(router, signal=0.5 * router.signal).save(tmp_path / "other")
    return tmp_path / "other"


def test_a_picture_of_another_kind_is_refused_before_anything_is_measured(
    routewright, router_folder, tmp_path
):
    nothing = tmp_path / "missing.parquet"
    code, _, error = routewright(
        "evaluate", router_folder, nothing, "--picture", tmp_path / "c.gif"
    )
    assert code == 2
    assert "c.gif' must end in .svg, .pdf, .png" in " ".join(error.split())


def test_a_card_of_no_router_is_refused(routewright, tmp_path):
    code, _, error = routewright("card", tmp_path / "none")
    assert code == 2
    assert "none" in error


def test_a_saved_router_keeps_its_card(router_folder):
    assert Router.load(router_folder).card["data"]["prompts"] > 0
