"""Routoo's published decoding is fitted, evaluated and served as any other strategy is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from routewright import checks
from routewright.data import outcomes
from routewright.drive import replay
from routewright.evaluation import evaluate as evaluation
from routewright.fitting.fit import fit
from routewright.policies import best_ratio
from routewright.router.router import Router
from routewright.strategies import build
from routewright.strategies._recorded import Recorded, run
from routewright.strategies.mix import Mix
from routewright.types import Query
from tables import table, write
from test_gateway import create, served
from test_gateway_router import RIDDLE, SUM
from test_gateway_router import table as riddles
from test_policies import belief
from upstream import Upstream


def test_the_rule_is_the_papers():
    p = belief(200, 5)
    average = p.cost.mean(axis=0)
    for budget in (0.0, 0.3, 0.5, 2.0):
        for i, chosen in enumerate(best_ratio(p, average, budget)):
            fits = [m for m in range(5) if p.cost[i, m] <= budget]
            best = max(fits, key=lambda m: p.quality[i, m] / average[m], default=p.cost[i].argmin())
            assert chosen == best


def test_an_expert_that_was_never_scored_is_not_chosen_however_cheap():
    p = belief(50, 3)
    p.quality[:, 1], p.cost[:, 1] = -1.0, 1e-9
    assert 1 not in best_ratio(p, p.cost.mean(axis=0), 0.0)
    assert set(best_ratio(p, p.cost.mean(axis=0), 0.0, np.array([False, True, False]))) == {1}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ratio")
    rows = outcomes.read(write(folder, table(400)), split="train")
    fit(rows, strategy="ratio_greedy", predictor="linear").save(folder / "R")
    return folder


def test_it_is_fitted_and_evaluated_from_the_command_line(
    routewright,
    outcome_table,
    tmp_path: Path,
):
    words = ("--strategy", "ratio_greedy", "--predictor", "linear", "--out", tmp_path / "R")
    assert routewright("fit", outcome_table, *words)[0] == 0
    figures = tmp_path / "e.json"
    assert routewright("evaluate", tmp_path / "R", outcome_table, "--json", figures)[0] == 0
    e = json.loads(figures.read_text())
    assert "ratio_greedy" in {point["strategy"] for point in e["curve"]}
    assert e["aiq_no_hull"] > e["aiq_zero_router"], "the cheap specialists are told apart"


def test_where_prompts_say_nothing_it_does_no_harm(tmp_path: Path):
    rows = outcomes.read(write(tmp_path, table(400, signal=0.0)), split="train")
    router = fit(rows, strategy="ratio_greedy", predictor="linear")
    assert {point.strategy for point in router.frontier} == {"fixed"}
    fresh = outcomes.read(write(tmp_path, table(400, seed=7, signal=0.0), "fresh.parquet"))
    e = evaluation.evaluate(router, fresh).to_json()
    assert e["at_cost_fraction"]["0.5"]["gain_over_zero_router"] > -0.01


def test_what_its_points_promise_is_what_their_strategies_do(fitted: Path):
    router = Router.load(fitted / "R")
    rows = outcomes.read(fitted / "outcomes.parquet", split="dev").pool(router.experts)
    prediction = router.predict(rows.queries)
    learned = [point for point in router.frontier if point.strategy == "ratio_greedy"]
    assert learned
    for point in learned:
        strategy = router.strategy_at(point)
        part = strategy.first if isinstance(strategy, Mix) else strategy
        choice = part.choose(rows.queries, prediction)
        for i in range(0, len(rows), 7):
            decision = replay(part, rows.queries[i], rows.record(i))
            assert decision.answer.expert == router.experts[choice[i]]
        measured = run(strategy, Recorded(rows, router))
        assert np.mean(measured[0]) == pytest.approx(point.quality, abs=0.12)
        assert np.mean(measured[1]) == pytest.approx(point.cost, rel=0.15)


def test_a_budget_and_a_querys_own_limits_are_kept():
    router = checks.ROUTER
    strategy = build({"strategy": "ratio_greedy", "budget": 0.05}, router)
    query = Query.of("a question")
    record = checks.record(query)
    assert replay(strategy, query, record).answer.expert == "small"
    forbidden = replace(query, allowed=frozenset({"middle", "large"}))
    assert replay(strategy, forbidden, record).answer.expert == "middle"
    only = replace(query, allowed=frozenset({"large"}))
    assert replay(strategy, only, record).answer.expert == "large", "the cheapest where none fits"
    good = replace(query, min_quality=0.79)
    chosen = replay(strategy, good, record).answer.expert
    assert router.predict([good]).quality[0, checks.EXPERTS.index(chosen)] >= 0.79


@pytest.mark.parametrize(
    ("messages", "budget", "expert"),
    [(SUM, 1.0, "small"), (RIDDLE, 1.0, "large"), (RIDDLE, 5e-5, "small")],
)
def test_a_config_serves_it(tmp_path: Path, messages, budget, expert):
    """`small` cannot solve riddles at all, so that a tenfold price is the better ratio."""
    fit(riddles(), strategy="ratio_greedy", encoder="lexical", predictor="knn").save(tmp_path / "R")
    mine = {
        "strategy": "ratio_greedy",
        "router": str(tmp_path / "R"),
        "options": {"budget": budget},
    }
    work = create(messages=messages)
    assert served(work, Upstream(), Upstream(), policies={"mine": mine}).model == expert
