"""From predictions to a choice: the Lagrangian rule, budgets, and the zero router."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from routewright.policies import (
    choose,
    hull_quality,
    meet_budget,
    mix_at_cost,
    ratio_greedy,
    take,
    zero_router,
)
from routewright.types import Prediction


def belief(n: int, e: int, seed: int = 0) -> Prediction:
    rng = np.random.default_rng(seed)
    cost = np.sort(rng.uniform(0.1, 2.0, (n, e)), axis=1)
    quality = np.clip(rng.normal(0.4, 0.2, (n, e)) + 0.2 * cost, 0, 1)
    names = tuple(f"m{i}" for i in range(e))
    return Prediction(names, quality, quality * 0, cost, np.full((n, e), np.nan))


def spent(prediction: Prediction, price: float) -> float:
    return float(take(prediction.cost, choose(prediction, price)).mean())


@pytest.mark.parametrize("seed", range(8))
def test_a_budget_is_spent_as_well_as_by_brute_force_but_for_one_item(seed):
    p = belief(6, 3, seed)
    rows = np.arange(6)
    for budget in np.linspace(p.cost.min(axis=1).mean() + 0.01, p.cost.max(axis=1).mean(), 5):
        every = np.array(list(product(range(3), repeat=6)))
        cost = p.cost[rows, every].mean(axis=1)
        best = p.quality[rows, every].mean(axis=1)[cost <= budget].max()
        mine = take(p.quality, choose(p, meet_budget(p, float(budget)).price)).mean()
        one_item = (p.quality.max(axis=1) - p.quality.min(axis=1)).max() / 6
        assert best - one_item <= mine <= best + 1e-12


@pytest.mark.parametrize("budget", np.linspace(0.5, 1.6, 20))
def test_a_budget_is_met_in_expectation(budget):
    p = belief(500, 4)
    mixture = meet_budget(p, float(budget))
    dear, cheap = spent(p, mixture.lower_price), spent(p, mixture.price)
    expected = mixture.share * dear + (1 - mixture.share) * cheap
    assert expected == pytest.approx(min(budget, spent(p, 0.0)), rel=1e-6)


def test_more_money_never_buys_less_predicted_quality():
    p = belief(300, 4)
    qualities = [
        take(p.quality, choose(p, meet_budget(p, b).price)).mean()
        for b in np.linspace(0.4, 1.6, 30)
    ]
    assert (np.diff(qualities) >= -1e-12).all()


def test_the_order_of_queries_and_of_experts_does_not_matter():
    p = belief(200, 4)
    order, columns = np.random.default_rng(1).permutation(200), [2, 0, 3, 1]
    there = choose(p, 0.3)
    shuffled = Prediction(
        tuple(p.experts[c] for c in columns),
        p.quality[order][:, columns],
        p.spread,
        p.cost[order][:, columns],
        p.latency,
    )
    assert (np.array(columns)[choose(shuffled, 0.3)] == there[order]).all()


def test_ties_go_to_the_cheaper_expert():
    p = belief(1, 3)
    p = Prediction(
        p.experts, np.full((1, 3), 0.5), p.spread, np.array([[3.0, 1.0, 2.0]]), p.latency
    )
    assert choose(p, 0.0).tolist() == [1]


def test_a_forbidden_expert_is_not_chosen_however_good_it_is():
    p = belief(50, 3)
    mask = np.array([True, True, False])
    assert (choose(p, 0.0, admissible=mask) < 2).all()


def test_latency_has_a_price_too():
    p = belief(1, 2)
    p = Prediction(
        p.experts, np.array([[0.8, 0.9]]), p.spread, np.ones((1, 2)), np.array([[0.1, 2.0]])
    )
    assert choose(p, 0.0).tolist() == [1]
    assert choose(p, 0.0, latency_price=0.1).tolist() == [0]


def test_an_unknown_latency_is_taken_to_be_the_worst_one_known():
    """`newest` is the better by 0.1, which nine seconds are not worth at 0.05 a second."""
    p = Prediction(
        ("quick", "slow", "newest"),
        np.array([[0.8, 0.6, 0.9]]),
        np.zeros((1, 3)),
        np.ones((1, 3)),
        np.array([[1.0, 9.0, np.nan]]),
    )
    assert choose(p, 0.0, latency_price=0.05).tolist() == [0]
    assert choose(p, 0.0, latency_price=0.01).tolist() == [2], "it is not taken for endless either"
    nobody_known = replace(p, latency=np.full((1, 3), np.nan))
    assert choose(nobody_known, 0.0, latency_price=0.05).tolist() == [2]


def test_of_two_equally_good_experts_the_dearer_is_no_corner_of_the_zero_router():
    for quality in ([0.4, 0.9, 0.9], [0.9, 0.9, 0.9]):
        hull = zero_router(np.array(quality), np.array([1.0, 2.0, 3.0]))
        assert hull[-1].cost == (2.0 if quality[0] < 0.9 else 1.0)


def test_the_zero_router_is_the_best_mix_of_any_two_experts():
    rng = np.random.default_rng(3)
    quality, cost = rng.random(7), rng.random(7)
    hull = zero_router(quality, cost)
    for at in np.linspace(cost.min(), cost.max(), 25):
        best = max(
            quality[a] + (quality[b] - quality[a]) * w
            for a, b, w in product(range(7), range(7), np.linspace(0, 1, 201))
            if cost[a] + (cost[b] - cost[a]) * w <= at
        )
        assert hull_quality(hull, at) == pytest.approx(best, abs=0.01)


def test_a_fixed_mix_costs_what_was_asked():
    quality, cost = np.array([0.4, 0.6, 0.9]), np.array([1.0, 2.0, 9.0])
    mix = mix_at_cost(zero_router(quality, cost), 5.0)
    assert cost[mix.cheap] * (1 - mix.share) + cost[mix.expensive] * mix.share == pytest.approx(5.0)


def test_the_published_greedy_depends_on_order_and_is_no_better_than_the_lagrangian():
    p = belief(300, 4)
    backwards = Prediction(p.experts, p.quality[::-1], p.spread, p.cost[::-1], p.latency)
    for budget in (0.45, 0.5, 0.55):
        there, back = ratio_greedy(p, budget * 300), ratio_greedy(backwards, budget * 300)[::-1]
        assert (there != back).any()
        mixture = meet_budget(p, float(take(p.cost, there).mean()))
        low, high = (
            take(p.quality, choose(p, price)).mean()
            for price in (mixture.price, mixture.lower_price)
        )
        mine = (1 - mixture.share) * low + mixture.share * high
        assert mine >= take(p.quality, there).mean()
