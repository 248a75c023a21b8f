"""Reported chances hold, and calibrating them changes no choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from routewright import metrics, policies
from routewright.data import outcomes
from routewright.fitting.fit import fit
from routewright.prediction import calibration
from routewright.prediction.calibration import Calibration, log_loss
from routewright.router.router import Router
from routewright.strategies.single import Single
from routewright.types import Query


def forecasts(n: int, slopes: tuple[float, ...], seed: int = 0):
    """Forecasts whose logits are too small by `slopes`, scores drawn as they should be, folds."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1.5, (n, len(slopes)))
    chance = 1 / (1 + np.exp(-logit))
    scores = (rng.random(chance.shape) < chance).astype(float)
    scores[rng.random(chance.shape) < 0.1] = np.nan
    return 1 / (1 + np.exp(-logit / slopes)), scores, np.arange(n) % 5


def test_forecasts_that_are_too_timid_are_made_bolder():
    forecast, scores, fold = forecasts(4000, (1.5, 1.5, 1.5))
    maps, chance = calibration.fit(forecast, scores, fold)
    assert np.allclose(maps.slope, 1.5, atol=0.15)
    for m in range(3):
        assert metrics.ece(chance[:, m], scores[:, m]) < metrics.ece(forecast[:, m], scores[:, m])
    fresh, truth, _ = forecasts(4000, (1.5, 1.5, 1.5), seed=1)
    assert log_loss(maps(fresh), truth) < log_loss(fresh, truth) - 0.005


def test_experts_have_maps_of_their_own_that_few_answers_do_not_bend():
    many = calibration.fit(*forecasts(20_000, (1.0, 2.0)))[0].slope
    few = calibration.fit(*forecasts(200, (1.0, 2.0)))[0].slope
    assert many[1] - many[0] > 0.5
    assert few.size == 0 or abs(few[1] - few[0]) < (many[1] - many[0]) / 3


def test_forecasts_that_hold_already_are_left_alone():
    forecast, scores, fold = forecasts(300, (1.0, 1.0), seed=3)
    maps, chance = calibration.fit(forecast, scores, fold)
    assert maps.slope.size == 0
    assert np.array_equal(chance, forecast)


def test_experts_never_scored_and_newcomers_keep_their_forecast():
    maps = Calibration(np.array([2.0, 2.0]), np.zeros(2))
    assert np.allclose(maps(np.array([[0.8, -1.0, 0.8]])), [[16 / 17, -1.0, 0.8]])


def test_a_routers_choices_are_those_without_calibration(outcome_table, tmp_path: Path):
    rows = outcomes.read(outcome_table, split="train")
    router = fit(rows)
    bold = replace(router, calibration=Calibration(np.array([3.0, 1.0, 0.5]), np.ones(3)))
    bold.save(tmp_path / "R")
    loaded = Router.load(tmp_path / "R").predict(rows.queries)
    plain = replace(router, calibration=Calibration()).predict(rows.queries)
    assert not np.allclose(loaded.chance, plain.chance)
    for price in (0.0, 100.0, 10_000.0):
        assert np.array_equal(policies.choose(loaded, price), policies.choose(plain, price))


def test_limits_on_quality_are_about_chances(router):
    """The cheap experts reach 0.9 once their forecasts are raised, and not before."""
    query = Query.of("add subtract digits", min_quality=0.9, allowed=frozenset(router.experts))
    asked = []
    for offset in (-4.0, 4.0):
        maps = Calibration(np.ones(3), np.array([offset, offset, -4.0 if offset > 0 else 4.0]))
        plan = Single(replace(router, calibration=maps)).plan(query)
        asked.append(next(plan).expert)
    assert asked[0] == "sage"
    assert asked[1] in ("adder", "speller")
