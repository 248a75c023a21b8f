"""The budget of a month lasts until the month ends."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pytest

from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit
from routewright.gateway.budgets import DAY, HOUR, Hour, outlook, point_within
from routewright.gateway.pacing import Pacer
from routewright.gateway.policies import Policy
from routewright.router.router import Router
from routewright.types import Query

PRICES = np.array([1e-4, 1e-3])  # of small and large
BEGINS = datetime(2026, 6, 1, tzinfo=UTC).timestamp()  # a Monday
ENDS = datetime(2026, 7, 1, tzinfo=UTC).timestamp()
STEP = 1800  # seconds between two choices of the point


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    rng = np.random.default_rng(0)
    score = (rng.random((300, 2)) < [0.6, 0.9]).astype(float)
    cost = PRICES * rng.uniform(0.8, 1.2, (300, 1))
    queries = tuple(Query.of(f"What is {i}?") for i in range(300))
    folder = tmp_path_factory.mktemp("routers") / "router"
    table = Outcomes(("small", "large"), queries, {"score": score, "cost": cost})
    fit(table, strategy="single", predictor="prior").save(folder)
    return Router.load(folder)


def policy_at(router, **goal):
    point = router.within(**goal)
    return Policy("default", router.strategy_at(point), router=router, point=point)


class Month(NamedTuple):
    spent: float  # US$
    over: float  # the day on which the first request was refused; inf: none was
    shares: list[float]  # of the large expert, by step


def traffic(seed):
    """The requests of each step: office hours, quiet weekends, and bursts."""
    rng = np.random.default_rng(seed)
    at = np.arange(BEGINS, ENDS, STEP)
    hour, weekday = at % DAY / HOUR, ((at - BEGINS) // DAY) % 7
    rate = 4 + 60 * np.exp(-(((hour - 13) / 4) ** 2))
    rate[weekday >= 5] *= 0.2
    for begin in rng.integers(0, len(at), 6):
        rate[begin : begin + 8] *= 6
    return rng.poisson(rate)


def month(policy, budget, seed, *, steer, overrun=1.0, history=()):
    """A month of requests that are refused as soon as the budget is used up."""
    rng = np.random.default_rng(seed)
    hours = {hour.at: hour for hour in history}
    spent, over, shares = 0.0, math.inf, []
    for k, count in enumerate(traffic(seed)):
        now = BEGINS + k * STEP
        point = policy.point
        if steer:
            allowed = outlook(budget, ENDS, now, spent, list(hours.values())).allowed
            point = point_within(policy, allowed) or point
        shares.append(point.shares.get("large", 0.0))
        costs = PRICES[(rng.random(count) < shares[-1]).astype(int)]
        costs = costs * overrun * rng.uniform(0.8, 1.2, count)
        fits = np.cumsum(costs) <= budget - spent
        if not fits.all():
            over = min(over, (now - BEGINS) / DAY)
        cost = float(costs[fits].sum())
        spent += cost
        hour = hours.get(at := now // HOUR * HOUR, Hour(at, 0, 0.0))
        hours[at] = Hour(at, hour.queries + int(fits.sum()), hour.usd + cost)
    return Month(spent, over, shares)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("overrun", [1.0, 1.3])
def test_a_monthly_budget_lasts_until_the_last_day(router, seed, overrun):
    policy = policy_at(router, max_cost=6e-4)
    budget = 0.65 * overrun * 6e-4 * traffic(seed).sum()
    wall = month(policy, budget, seed, steer=False, overrun=overrun)
    assert wall.over < 22, "without steering, the money is gone three weeks into the month"
    steered = month(policy, budget, seed, steer=True, overrun=overrun)
    assert steered.over >= 29
    assert 0.97 * budget <= steered.spent <= budget
    by_day = np.reshape(steered.shares, (-1, DAY // STEP))
    days = 30 if overrun == 1 else 26  # where everything costs more than the router promises
    assert by_day[:days].max(axis=1).min() > 0, "the large expert is asked on every day"


def test_a_budget_that_suffices_changes_nothing(router):
    policy = policy_at(router, max_cost=6e-4)
    budget = 1.5 * 6e-4 * traffic(0).sum()
    steered = month(policy, budget, 0, steer=True)
    assert steered.shares == month(policy, budget, 0, steer=False).shares


def hours(days, queries, *, until=BEGINS, weekend=1.0):
    """So many queries in each hour of the days before, at US$ 0.001 each."""
    begins = (until - age * HOUR for age in range(1, 24 * days + 1))
    factors = (
        (at, weekend if datetime.fromtimestamp(at, UTC).weekday() >= 5 else 1.0) for at in begins
    )
    return [Hour(at, round(queries * f), 1e-3 * round(queries * f)) for at, f in factors]


def test_the_last_month_tells_what_the_first_hour_of_this_one_may_cost():
    view = outlook(36.0, ENDS, BEGINS, 0.0, hours(28, 100))
    assert view.queries == pytest.approx(30 * 24 * 100, rel=0.01)
    assert view.allowed == pytest.approx(0.0005, rel=0.01)
    assert view.forecast == pytest.approx(72.0, rel=0.01)


def test_weekends_are_as_quiet_as_they_were():
    friday = BEGINS + 4 * DAY
    history = hours(28, 100, until=friday, weekend=0.1)
    view = outlook(10.0, friday + 3 * DAY, friday, 0.0, history)  # until Sunday ends
    assert view.queries == pytest.approx(24 * 100 * (1 + 2 * 0.1), rel=0.1)


def test_the_rest_of_a_day_is_that_of_other_days():
    at_ten, at_six = BEGINS + 10 * HOUR, BEGINS + 18 * HOUR
    mornings = [hour for hour in hours(28, 100, until=at_six) if hour.at % DAY < 12 * HOUR]
    view = outlook(1.0, BEGINS + DAY, at_ten, 0.0, mornings)
    assert view.queries == pytest.approx(200, rel=0.05)
    assert outlook(1.0, BEGINS + DAY, at_six, 0.0, mornings).allowed == math.inf


def test_a_new_key_is_not_throttled_by_its_first_busy_hours():
    history = hours(28, 100, until=BEGINS + 2 * HOUR)[:2]
    view = outlook(12.0, ENDS, BEGINS + 2 * HOUR, 0.2, history)
    assert view.queries == pytest.approx(30 * 200, rel=0.05), "such two hours on every day"
    assert view.allowed == pytest.approx(11.8 / 6000, rel=0.05)


def test_without_requests_nothing_is_steered():
    view = outlook(10.0, ENDS, BEGINS, 2.0, [])
    assert (view.queries, view.allowed, view.forecast) == (0.0, math.inf, 2.0)
    assert math.isnan(view.mean_cost)


def test_a_used_up_budget_allows_nothing():
    assert outlook(10.0, ENDS, BEGINS + DAY, 10.5, hours(28, 100)).allowed == 0.0


def test_shortly_before_the_end_a_query_costs_no_more_than_is_left():
    view = outlook(10.0, ENDS, ENDS - 5, 9.0, hours(28, 100, until=ENDS))
    assert 0 < view.queries < 1
    assert view.allowed == 1.0


def test_a_policy_is_never_more_expensive_than_its_own_goal(router):
    policy = policy_at(router, max_cost=5e-4)
    assert point_within(policy, math.inf) is None
    assert point_within(policy, policy.point.cost) is None
    assert point_within(policy, 3e-4).cost == pytest.approx(3e-4, rel=0.01)
    cheapest = min(point.cost for point in router.frontier)
    assert point_within(policy, 0.0).cost == cheapest
    paced = Policy(
        "default", policy.strategy, (), router, policy.point, pacer=Pacer(router, max_cost=5e-4)
    )
    assert point_within(paced, 5.1e-4) is None
    assert point_within(paced, 3e-4).cost == pytest.approx(3e-4, rel=0.01)
    assert policy.at(point_within(policy, 3e-4)).point.cost == pytest.approx(3e-4, rel=0.01)


def test_a_policy_without_a_router_stays_as_it_is(router):
    assert point_within(Policy("direct", router.strategy()), 0.0) is None
