"""`compare`: two routers or policies on the same rows, with paired differences."""

import json
import re
from dataclasses import replace

import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.data import outcomes
from routewright.evaluation.evaluate import evaluate

POLICIES = """\
policies:
  half: {strategy: auto, router: new, max_cost_fraction: 0.5}
  dear: {strategy: fixed, options: {expert: sage}}
  cheap: {strategy: fixed, options: {expert: adder}}
  climb: {strategy: cascade, options: {ladder: [adder, sage], trust: 0.6}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, router, outcome_table):
    """A folder with a config, a router `new`, its twin, and `old`, which knows no query's needs."""
    folder = tmp_path_factory.mktemp("compare")
    router.save(folder / "new")
    router.save(folder / "twin")
    plain = replace(router, signal=0.0)
    plain.save(folder / "old")
    entries = ", ".join(
        f"{{name: {name}, base_url: http://localhost:1/v1}}" for name in router.experts
    )
    config = f"version: 1\nexperts: [{entries}]\n{POLICIES}"
    (folder / "routewright.yaml").write_text(config)
    return folder


@pytest.fixture
def compare(place, outcome_table, monkeypatch):
    monkeypatch.chdir(place)

    def run(*words, table=outcome_table):
        line = ["compare", *map(str, words[:2]), str(table), *map(str, words[2:])]
        return CliRunner().invoke(app, line, env={"COLUMNS": "140"})

    return run


def figures(done) -> dict:
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_two_routers_are_compared_at_the_same_cost(compare, router, outcome_table):
    found = figures(compare("old", "new", "--json", "-"))
    rows = outcomes.read(outcome_table, split="dev")
    plain, whole = (evaluate(r, rows).to_json() for r in (replace(router, signal=0.0), router))
    for fraction, at in found["at_cost_fraction"].items():
        old, new = (f["at_cost_fraction"][fraction]["quality"] for f in (plain, whole))
        assert at["a"] == pytest.approx(old)
        assert at["b"] == pytest.approx(new)
        if new is not None and old is not None:
            assert at["difference"] == pytest.approx(new - old)
    half = found["at_cost_fraction"]["0.5"]
    low, high = half["difference_ci"]
    assert 0 < low < half["difference"] < high
    assert half["proven"]
    (a_low, a_high), (b_low, b_high) = (
        f["at_cost_fraction"]["0.5"]["quality_ci"] for f in (plain, whole)
    )
    assert high - low < (a_high - a_low) + (b_high - b_low)
    shown = compare("old", "new").stdout
    gap = (
        f"{100 * half['difference']:+.1f} percentage points ({100 * low:+.1f} … {100 * high:+.1f})"
    )
    assert f"{gap}, a proven gain." in shown


def test_the_table_fits_a_terminal_of_80_columns(place, outcome_table, monkeypatch):
    monkeypatch.chdir(place)
    line = ["compare", "old", "new", str(outcome_table)]
    shown = CliRunner().invoke(app, line, env={"COLUMNS": "80"}).stdout
    for label in ("at 50 %, US$", "mean over costs (AIQ)", "over fixed mix as served"):
        assert re.search(rf"^ *{re.escape(label)}.* (yes|no) *$", shown, re.MULTILINE), shown


def test_a_router_and_its_twin_do_not_differ(compare):
    found = figures(compare("new", "twin", "--json", "-"))
    gaps = [*found["at_cost_fraction"].values(), *found["along"], found["aiq"]]
    gaps += found["as_served"].values()
    known = [gap for gap in gaps if gap["difference"] is not None]
    assert len(known) > 20
    for gap in known:
        assert gap["difference"] == pytest.approx(0)
        assert gap["difference_ci"] == pytest.approx([0, 0])
        assert not gap["proven"]
    assert found["choices"]["rows"] == 0
    assert "which proves no difference" in compare("new", "twin").stdout


def test_policies_are_compared_as_they_are_served(compare, outcome_table):
    found = figures(compare("routewright.yaml:dear", "routewright.yaml:climb", "--json", "-"))
    done = CliRunner().invoke(
        app, ["evaluate", "routewright.yaml", str(outcome_table), "--json", "-"]
    )
    policies = json.loads(done.stdout)["policies"]
    for side, name in (("a", "dear"), ("b", "climb")):
        assert found[side]["name"] == f"routewright.yaml:{name}"
        for key in ("quality", "cost", "cost_fraction", "gain_over_zero_router"):
            assert found[side][key] == pytest.approx(policies[name][key])
    cost = found["as_served"]["cost"]
    assert cost["difference"] == pytest.approx(policies["climb"]["cost"] - policies["dear"]["cost"])
    assert cost["proven"]
    assert found["at_cost_fraction"] == {}
    assert (
        "As served, routewright.yaml:climb reaches"
        in compare("routewright.yaml:dear", "routewright.yaml:climb").stdout
    )


def test_a_router_is_compared_with_a_policy_at_the_cost_of_the_policy(compare):
    found = figures(compare("routewright.yaml:climb", "new", "--json", "-"))
    at = found["at_cost_of"]
    assert at["name"] == "routewright.yaml:climb"
    assert at["cost"] == pytest.approx(found["a"]["cost"])
    assert at["a"] == pytest.approx(found["a"]["quality"])
    assert at["difference"] == pytest.approx(at["b"] - at["a"])
    half = figures(compare("routewright.yaml", "new", "--json", "-"))
    assert half["a"]["name"] == "routewright.yaml:half"
    assert half["as_served"]["quality"]["difference"] == pytest.approx(0)


def test_a_repeated_question_counts_once(compare, outcome_table, tmp_path):
    rows = pl.read_parquet(outcome_table).filter(pl.col("split") == "dev")
    copies = [rows.with_columns(pl.col("id") + f"-{n}") for n in range(9)]
    pl.concat(copies).write_parquet(tmp_path / "copies.parquet")
    once = figures(compare("old", "new", "--json", "-"))
    copied = figures(compare("old", "new", "--json", "-", table=tmp_path / "copies.parquet"))
    assert (copied["n"], copied["questions"]) == (9 * once["n"], once["questions"])
    (low, high), (least, most) = (
        f["at_cost_fraction"]["0.5"]["difference_ci"] for f in (once, copied)
    )
    assert most - least > 0.7 * (high - low), "nine copies are no evidence"


def test_a_few_questions_prove_nothing(compare, outcome_table, tmp_path):
    rows = pl.read_parquet(outcome_table).filter(pl.col("split") == "dev").head(25)
    rows = rows.with_columns(pl.lit(1.0).alias("score::sage"), pl.lit(0.0).alias("score::adder"))
    rows.write_parquet(tmp_path / "few.parquet")
    words = ("routewright.yaml:dear", "routewright.yaml:cheap", "--json", "-")
    served = figures(compare(*words, table=tmp_path / "few.parquet"))["as_served"]["quality"]
    assert served["difference"] == pytest.approx(-1)
    assert not served["proven"]


def test_rows_without_a_score_of_one_side_count_for_neither(compare, outcome_table, tmp_path):
    rows = pl.read_parquet(outcome_table)
    unknown = pl.when(pl.int_range(pl.len()) % 3 == 0).then(None).otherwise(pl.col("score::adder"))
    rows.with_columns(unknown.alias("score::adder")).write_parquet(tmp_path / "holes.parquet")
    words = ("routewright.yaml:dear", "routewright.yaml:cheap")
    found = figures(compare(*words, "--json", "-", table=tmp_path / "holes.parquet"))
    assert 60 < found["n"] < 75
    both = pl.read_parquet(tmp_path / "holes.parquet").filter(
        pl.col("split") == "dev", pl.col("score::adder").is_not_null()
    )
    assert found["n"] == len(both)
    assert found["a"]["quality"] == pytest.approx(both["score::sage"].mean())
    assert found["b"]["quality"] == pytest.approx(both["score::adder"].mean())
    assert any("have no score for one side" in warning for warning in found["warnings"])


def test_without_costs_qualities_are_compared(compare, outcome_table, tmp_path):
    rows = pl.read_parquet(outcome_table)
    free = [column for column in rows.columns if column.startswith("cost::")]
    rows.drop(free).write_parquet(tmp_path / "free.parquet")
    words = ("routewright.yaml:dear", "routewright.yaml:climb")
    page = tmp_path / "page.html"
    done = compare(*words, "--html", page, table=tmp_path / "free.parquet")
    assert done.exit_code == 0, done.exception
    assert "As served," in done.stdout
    assert "nan" not in done.stdout + page.read_text()
    assert "US$" not in page.read_text()


def test_the_page_shows_the_difference_and_no_folder_of_this_machine(
    compare, place, outcome_table, tmp_path
):
    page = tmp_path / "page.html"
    found = figures(compare("old", place / "new", "--html", page, "--json", "-"))
    html = page.read_text(encoding="utf-8")
    half = found["at_cost_fraction"]["0.5"]
    assert f"<strong>{100 * half['difference']:+.1f}</strong>" in html
    assert "B − A at the same cost, percentage points (95 %)" in html
    assert "<script" not in html
    for folder in (place, outcome_table.parent, tmp_path):
        assert str(folder) not in html
    assert not re.search(r"https?:|@import|url\((?!#)", html)


def test_routers_whose_folders_have_one_name_are_told_apart(compare, place, router):
    for parent in ("may", "june"):
        (place / parent).mkdir(exist_ok=True)
        router.save(place / parent / "router")
    found = figures(compare(place / "may" / "router", "june/router", "--json", "-"))
    assert found["a"]["name"] != found["b"]["name"]
    assert str(place) not in found["a"]["name"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("new", "new"), "A and B are both 'new': name two routers, or CONFIG.yaml:POLICY"),
        (("new", "./new/"), "A and B are both"),
        (("new", "TABLE"), "is not a router"),
        (("routewright.yaml:hal", "new"), "no policy 'hal' in this config"),
        (("gone.yaml:half", "new"), "gone.yaml"),
        (("new", "gone"), "gone"),
    ],
)
def test_mistakes_are_named(compare, outcome_table, words, message):
    done = compare(*(outcome_table if word == "TABLE" else word for word in words))
    assert done.exit_code != 0
    assert message in str(done.exception)
