"""The command line as a user meets it: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from tables import table, write

KNN = ("fit", "TABLE", "--out", "R", "--predictor", "knn")
SHAPE = {
    "experts": {"quality", "cost"},
    "at_cost_fraction": {"quality", "quality_ci", "gain_over_zero_router", "gain_ci"},
    "predictor": {"auc", "ece"},
    "domains": {"n", "router", "experts"},
}


def test_fit_then_evaluate_writes_the_agreed_figures(routewright, outcome_table, tmp_path: Path):
    router, figures, page = tmp_path / "R", tmp_path / "out.json", tmp_path / "out.html"
    assert routewright("fit", outcome_table, "--out", router)[0] == 0
    code, shown, _ = routewright(
        "evaluate", router, outcome_table, "--json", figures, "--html", page
    )
    assert code == 0
    assert "at 50 % of cost" in shown
    e = json.loads(figures.read_text())
    assert set(e) == {
        *("experts", "references", "curve", "at_cost_fraction", "aiq", "aiq_no_hull"),
        *("aiq_zero_router", "apgr", "predictor", "domains", "tie", "n", "warnings"),
    }
    assert set(e["references"]) == {"best_single", "cheapest", "oracle", "zero_router"}
    assert set(e["at_cost_fraction"]) == {"0.1", "0.25", "0.5", "0.75"}
    for part, keys in SHAPE.items():
        assert all(set(row) == keys for row in e[part].values())
    keys = {"lambda", "cost", "cost_fraction", "quality", "quality_ci", "strategy"}
    assert all(set(point) == keys for point in e["curve"])
    assert e["n"] == 100
    HTMLParser().feed(page.read_text())
    code, printed, _ = routewright("evaluate", router, outcome_table, "--json", "-")
    assert code == 0
    assert json.loads(printed) == e


def test_figures_of_rows_that_were_fitted_on_are_not_to_be_trusted(
    routewright, outcome_table, router_folder
):
    split = json.loads((router_folder / "router.json").read_text())["card"]["data"]["split"]
    fair = routewright("evaluate", router_folder, outcome_table)[1]
    flattering = routewright("evaluate", router_folder, outcome_table, "--split", split)[1]
    assert "Do not trust these figures" in flattering
    assert "trust" not in fair


def test_splits_default_to_train_and_dev_and_can_be_chosen(routewright, outcome_table, tmp_path):
    router = tmp_path / "R"
    code, described, _ = routewright(
        "fit", outcome_table, "--out", router, "--split", "all", "--experts", "adder,sage", "--json"
    )
    assert code == 0
    card = json.loads(described)
    assert card["experts"] == ["adder", "sage"]
    assert card["card"]["data"]["rows"] == 400
    code, _, error = routewright("evaluate", router, outcome_table, "--split", "test")
    assert code == 2
    assert "no row has split 'test'" in error


def test_calibrate_answers_in_dollars_and_in_json(routewright, router_folder):
    code, shown, _ = routewright("calibrate", router_folder, "--max-cost-fraction", "0.5")
    assert code == 0
    assert "expected cost" in shown.lower()
    point = json.loads(
        routewright("calibrate", router_folder, "--max-cost-fraction", 0.5, "--json")[1]
    )
    assert point["cost_fraction"] <= 0.5 + 1e-9


def test_route_names_an_expert_and_explains(routewright, router_folder):
    code, plain, _ = routewright("route", router_folder, "add subtract digits", "--lambda", 1)
    assert code == 0
    assert plain.strip() in ("adder", "speller", "sage")
    told = json.loads(routewright("route", router_folder, "spell a word", "--json")[1])
    assert {row["expert"] for row in told["experts"]} == {"adder", "speller", "sage"}
    assert told["expert"] in told["asks"]
    shown = routewright("route", router_folder, "spell a word", "--explain")[1]
    assert "plan" in shown
    assert "US$ per 1,000" in shown
    best, other = told["experts"][:2]
    if told["strategy"] != "fixed" and told["expert"] == best["expert"]:
        lead = 100 * (best["value"] - other["value"])
        assert f"is {lead:+.1f} points from {other['expert']}'s" in shown


def test_seconds_have_a_price_on_the_command_line(routewright, tmp_path: Path):
    slow = table(200).with_columns(pl.lit(9.0).alias("latency::sage"))
    slow = slow.with_columns(pl.lit(0.5).alias(f"latency::{name}") for name in ("adder", "speller"))
    router = tmp_path / "R"
    words = ("--out", router, "--predictor", "domain", "--split", "all")
    assert routewright("fit", write(tmp_path, slow), *words)[0] == 0
    ask = ("route", router, "add subtract multiply total 500 please", "--explain")
    assert "asks  sage" in routewright(*ask)[1]
    shown = routewright(*ask, "--latency-price", 0.1)[1]
    assert "asks  sage" not in shown
    assert "seconds" in shown
    assert "− 0.1 × seconds" in shown
    calibrated = routewright("calibrate", router, "--max-cost-fraction", 1)[1]
    assert "Its expected latency is" in calibrated


def test_the_help_of_fit_is_grouped_and_fits_a_screen():
    shown = CliRunner().invoke(app, ["fit", "--help"], env={"COLUMNS": "100"}).stdout
    panels = [line.split("─ ")[1].split(" ─")[0] for line in shown.split("\n") if line[:1] == "╭"]
    assert panels == ["Arguments", "Options", "Data", "What to fit", "Saving", "Run"]
    assert shown.count("\n") <= 60
    assert "--ladder" not in shown, "what belongs to one strategy goes under --option"


def test_options_set_the_fields_of_a_predictor(routewright, outcome_table, tmp_path: Path):
    words = ("--predictor", "knn", "--option", "k=9", "--option", "domain=none", "--json")
    code, described, _ = routewright("fit", outcome_table, "--out", tmp_path / "R", *words)
    assert code == 0
    options = json.loads(described)["predictor"]["options"]
    assert options["k"] == 9
    assert options["domain"] in (0.0, 0.5, 1.0), "none leaves the choice to the fit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "nowhere", "TABLE"), "'nowhere' is not a router"),
        (("fit", "nowhere.parquet", "--out", "R"), "no file 'nowhere.parquet'"),
        (("fit", "TABLE", "--out", "R", "--experts", "sagee"), "did you mean 'sage'"),
        (
            ("fit", "none.parquet", "--out", "R", "--predictor", "magic"),
            "no predictor is called 'magic'",
        ),
        (("fit", "none.parquet", "--out", "TABLE"), "it is a file; name a folder"),
        (("fit", "none.parquet", "--out", "R", "--option", "k=9"), "name it with --predictor"),
        ((*KNN, "--option", "q=9"), "has no option q: choose one of k, domain, surface"),
        ((*KNN, "--option", "k"), "--option takes KEY=VALUE, not 'k'"),
        ((*KNN, "--option", "k=many"), "option k of predictor 'knn' must be a whole number"),
        ((*KNN, "--option", "k=-3"), "option k of predictor 'knn' must be more than 0"),
        (("fit", "none.parquet", "--out", "R", "--encoder", "surfac"), "did you mean 'surface'?"),
        ((*KNN, "--encoder", "surface=3"), "encoder 'surface' takes nothing after '='"),
        ((*KNN, "--encoder", "static=./nowhere"), "the encoder's model is not at './nowhere'"),
        ((*KNN, "--experts", ","), "',' names no expert"),
        ((*KNN, "--seed", "-1"), "greater than or equal to 0"),
        (
            ("fit", "TABLE", "--out", "R", "--predictor", "trees", "--option", "leaf=0"),
            "must be more than 0",
        ),
        (("evaluate", "ROUTER", "TABLE", "--json", "."), "'.' cannot be written"),
        (("fit", "none.parquet", "--out", "TABLE/router"), "is a file; name another place"),
        (("evaluate", "nowhere", "none.parquet", "--json", "TABLE/x/f.json"), "name another place"),
        (("evaluate", "nowhere", "none.parquet", "--html", "."), "it is a folder; name a file"),
        (("compare", "a", "b", "none.parquet", "--html", "TABLE/x.html"), "cannot be written"),
        (("dedicate", "build", "none.parquet", "--expert", "a", "--out", "."), "cannot be written"),
        (("selfplay", "c.yaml", "nowhere", "--out", "TABLE"), "it is a file; name a folder"),
        (("demo", "--folder", "TABLE"), "it is a file; name a folder"),
        (("evaluate", "ROUTER", "TABLE", "--html", "TABLE/page.html"), "cannot be written"),
        (("evaluate", "ROUTER", "TABLE", "--seed", "-1"), "greater than or equal to 0"),
        (("route", "ROUTER", "x", "--lambda", "-1"), "greater than or equal to 0"),
        (("route", "ROUTER", "x", "--lambda", "inf"), "--lambda must be a finite number, not inf"),
        (("route", "ROUTER", "x", "--max-cost-fraction", "half"), "'half' is not understood"),
        (("route", "ROUTER", "x", "--out", "d.parquet"), "--out needs --queries"),
        (("calibrate", "ROUTER"), "exactly one"),
        (("route", "ROUTER", "x", "--lambda", "1", "--max-cost-fraction", ".5"), "not both"),
        (("route", "ROUTER", "x", "--latency-price", "0.1"), "the router knows none"),
        (
            ("fit", "none.parquet", "--out", "x", "--strategy", "cascade"),
            "cannot be fitted",
        ),
        (("fit", "none.parquet", "--out", "x", "--strategy", "sinlge"), "did you mean 'single'?"),
        (("serve", "nowhere.yaml"), "nowhere.yaml"),
        (("check", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_2(
    routewright, outcome_table, router_folder, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    given = (w.replace("TABLE", str(outcome_table)) for w in words)
    code, out, error = routewright(*(w.replace("ROUTER", str(router_folder)) for w in given))
    assert code == 2
    assert message in " ".join((out + error).split())
    assert "Traceback" not in error


def test_a_table_that_lacks_one_of_the_routers_experts_is_refused(
    routewright, router_folder, tmp_path: Path
):
    path = write(tmp_path, table(60).select("id", "prompt", "score::sage", "cost::sage"))
    code, _, error = routewright("evaluate", router_folder, path)
    assert code == 2
    assert "the router knows adder, speller, the table does not" in " ".join(error.split())


@pytest.mark.parametrize("measure", ["score", "cost"])
def test_an_expert_of_whom_the_rows_know_nothing_cannot_be_evaluated(
    routewright, router_folder, tmp_path: Path, measure
):
    unknown = pl.lit(float("nan")).alias(f"{measure}::sage")
    path = write(tmp_path, table(60).with_columns(unknown))
    code, _, error = routewright("evaluate", router_folder, path, "--json", tmp_path / "e.json")
    assert code == 2
    assert f"no {measure} is known for sage in split 'dev'" in " ".join(error.split())


def test_figures_without_costs_are_json_of_the_same_shape(routewright, tmp_path: Path):
    path, figures = write(tmp_path, table(120, costs=False)), tmp_path / "deep" / "e.json"
    rare = pl.when(pl.col("id") == "q0").then(pl.lit("rare")).otherwise(pl.col("domain"))
    lost = pl.when(pl.col("id") == "q0").then(None).otherwise(pl.col("score::sage"))
    lost = lost.alias("score::sage")
    write(tmp_path, pl.read_parquet(path).with_columns(rare.alias("domain"), lost))
    assert routewright("fit", path, "--out", tmp_path / "R", "--predictor", "prior")[0] == 0
    assert routewright("evaluate", tmp_path / "R", path, "--json", figures)[0] == 0
    e = json.loads(figures.read_text(), parse_constant=pytest.fail)
    assert e["aiq"] is None
    assert all(set(at.values()) == {None} for at in e["at_cost_fraction"].values())
    assert set(e["at_cost_fraction"]) == {"0.1", "0.25", "0.5", "0.75"}
    assert e["domains"]["rare"]["router"] is None, "the expert asked there was not scored"


def test_points_of_one_price_decide_differently_about_a_query_set(
    routewright, router, outcome_table, tmp_path: Path
):
    folder, decided = tmp_path / "R", tmp_path / "d.parquet"
    alike = tuple(replace(point, price=1.0) for point in router.frontier)
    replace(router, frontier=alike).save(folder)
    shares = []
    for fraction in ("10.1%", "1"):
        at = ("--max-cost-fraction", fraction)
        words = ("route", folder, "--queries", outcome_table, "--out", decided, *at)
        assert routewright(*words)[0] == 0
        shares.append((pl.read_parquet(decided)["expert"] == "sage").mean())
    assert shares[0] == 0
    assert shares[1] > 0.3


def test_help_starts_without_heavy_imports():
    heavy = ("numpy", "polars", "sklearn", "torch", "starlette", "aiohttp", "matplotlib")
    script = (
        "import sys; from typer.testing import CliRunner; from routewright.cli.main import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
