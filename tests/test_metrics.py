"""Metrics against values worked out by hand and against scikit-learn."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from routewright import metrics

CURVE = np.array([0.0, 1.0, 2.0]), np.array([0.2, 0.8, 0.6])


def test_aiq_by_hand():
    # hull: (0, .2) (1, .8), then flat: .5 over the first unit, .8 over the second
    assert metrics.aiq(*CURVE, 0.0, 2.0) == pytest.approx((0.5 + 0.8) / 2)
    assert metrics.aiq(*CURVE, 0.0, 2.0, with_hull=False) == pytest.approx((0.5 + 0.7) / 2)


def test_aiq_beyond_the_curve_is_flat_above_and_nothing_below():
    assert metrics.aiq(*CURVE, 0.0, 4.0) == pytest.approx((0.5 + 0.8 * 3) / 4)
    late = np.array([1.0, 2.0]), np.array([0.5, 0.5])
    assert metrics.aiq(*late, 0.0, 2.0) == pytest.approx(0.25)


def test_a_vertical_step_counts_on_both_of_its_sides():
    step = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert metrics.aiq(*step, 0.0, 2.0, with_hull=False) == pytest.approx(0.5)


def test_apgr_is_half_for_the_straight_line_between_weak_and_strong():
    line = np.array([1.0, 3.0]), np.array([0.4, 0.8])
    assert metrics.apgr(*line, weak=(1.0, 0.4), strong=(3.0, 0.8)) == pytest.approx(0.5)
    assert np.isnan(metrics.apgr(*line, weak=(1.0, 0.4), strong=(3.0, 0.4)))


@pytest.mark.parametrize("start", [1.0, 1.5, 2.9, 3.0, 7.0])
def test_apgr_of_a_curve_that_starts_late_recovers_nothing_before(start: float):
    curve = np.array([start, 8.0]), np.array([0.8, 0.8])
    late = metrics.apgr(*curve, weak=(1.0, 0.4), strong=(3.0, 0.8))
    assert late == pytest.approx(max(3.0 - start, 0.0) / 2)
    assert np.isnan(metrics.apgr(*curve, weak=(1.0, 0.9), strong=(3.0, 0.8)))


def test_auc_agrees_with_scikit_learn_with_ties_and_gaps():
    rng = np.random.default_rng(0)
    score = (rng.random(300) < 0.4).astype(float)
    forecast = np.round(score * 0.3 + rng.random(300), 1)
    assert metrics.auc(forecast, score) == pytest.approx(roc_auc_score(score, forecast))
    score[:50] = np.nan
    assert metrics.auc(forecast, score) == pytest.approx(roc_auc_score(score[50:], forecast[50:]))


def test_calibration_error_by_hand():
    forecast = np.array([0.2] * 10 + [0.8] * 10)
    score = np.array([0.0] * 10 + [1.0] * 5 + [0.0] * 5)
    assert metrics.ece(forecast, score, bins=2) == pytest.approx((0.2 + 0.3) / 2)
    assert metrics.brier(forecast, score) == pytest.approx((0.04 + 0.5 * 0.04 + 0.5 * 0.64) / 2)


def test_calibration_error_does_not_depend_on_the_order_of_equal_forecasts():
    rng = np.random.default_rng(0)
    half, right = np.full(100, 0.5), np.repeat([0.0, 1.0], 50)
    assert metrics.ece(half, right) == 0.0
    forecast = np.round(rng.random(200), 1)
    score = (rng.random(200) < 0.5).astype(float)
    orders = [rng.permutation(200) for _ in range(5)]
    assert (
        len({metrics.ece(forecast, score), *(metrics.ece(forecast[o], score[o]) for o in orders)})
        == 1
    )
    levels, scores = np.repeat([0.2, 0.8], 100), np.repeat([0.0, 1.0, 0.0, 1.0], [80, 20, 20, 80])
    assert metrics.ece(levels, scores) == pytest.approx(0.0, abs=1e-12)


def test_means_leave_out_what_is_unknown_in_every_replicate():
    table = np.array([[1.0, np.nan], [3.0, 4.0]])
    assert metrics.mean(table).tolist() == [2.0, 4.0]
    twice_first = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert metrics.mean(table, twice_first)[1].tolist() == [3.0, 4.0]
    assert np.isnan(metrics.mean(table, twice_first)[0, 1])


def test_bootstrap_draws_as_many_rows_and_keeps_groups_together():
    weights = metrics.resample(6, 50, groups=["a", "a", "b", "b", "c", "c"])
    assert (weights[:, 0] == weights[:, 1]).all()
    assert metrics.resample(6, 50).sum(axis=1).tolist() == [6.0] * 50


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        sample = rng.normal(0.3, 1.0, 80)
        low, high = metrics.interval(metrics.mean(sample, metrics.resample(80, 300, seed)))
        hits += low <= 0.3 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_oracle_takes_the_cheapest_of_the_best():
    score = np.array([[1.0, 1.0, 0.0], [0.0, np.nan, 0.0]])
    cost = np.array([[5.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
    assert metrics.oracle(score, cost).tolist() == [1, 2]


# --- curves: gaps recovered ----------------------------------------------------------------


def test_the_gap_recovered_is_nothing_at_the_weak_expert_and_all_at_the_strong_one():
    assert [metrics.pgr(q, 0.4, 0.8) for q in (0.4, 0.5, 0.8)] == pytest.approx([0, 0.25, 1])
    assert np.isnan(metrics.pgr(0.5, 0.4, 0.4))


def test_cpt_of_a_rising_curve_is_routellms_interpolation():
    share, quality = np.array([0.0, 0.3, 0.6, 1.0]), np.array([0.2, 0.5, 0.7, 0.8])
    for x in (0.2, 0.5, 0.8):
        expected = np.interp(0.2 + x * 0.6, quality, share)
        assert metrics.cpt(share, quality, x, (0, 0.2), (1, 0.8)) == pytest.approx(expected)


def test_cpt_of_a_curve_that_falls_again_is_its_first_crossing():
    share, quality = np.array([0.0, 0.2, 0.6, 1.0]), np.array([0.2, 0.7, 0.3, 0.8])
    assert metrics.cpt(share, quality, 0.5, (0, 0.2), (1, 0.8)) == pytest.approx(0.2 * 0.3 / 0.5)
    order = [3, 1, 0, 2]
    assert metrics.cpt(share[order], quality[order], 0.5, (0, 0.2), (1, 0.8)) == pytest.approx(0.12)


def test_cpt_is_unknown_where_the_curve_never_crosses_and_waits_at_a_vertical_step():
    flat = np.array([1.0, 3.0]), np.array([0.4, 0.5])
    assert np.isnan(metrics.cpt(*flat, 0.8, (1.0, 0.4), (3.0, 0.8)))
    assert np.isnan(metrics.cpt(*flat, 0.5, (1.0, 0.8), (3.0, 0.4)))
    step = np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0])
    assert metrics.cpt(*step, 0.5, (0.0, 0.0), (2.0, 1.0)) == pytest.approx(0.5)


# --- RouterArena ---------------------------------------------------------------------------


def test_the_arena_score_by_hand():
    middle = np.sqrt(0.0044 * 200) / 1000  # halfway on the logarithmic scale: C = 1/2
    assert metrics.arena_score(0.8, middle) == pytest.approx(1.1 * 0.8 * 0.5 / (0.08 + 0.5))
    assert metrics.arena_score(0.8, middle, beta=0.0) == pytest.approx(0.8)
    assert metrics.arena_score(0.7, 1e-9) == pytest.approx(1.1 * 0.7 / (0.07 + 1))
    assert metrics.arena_score(0.7, 0.0) == metrics.arena_score(0.7, 0.0044 / 1000)


def test_the_arena_score_is_nothing_for_the_dearest_and_unknown_without_a_cost():
    assert metrics.arena_score(0.9, 1.0) == 0
    assert metrics.arena_score(0.0, 1.0) == 0
    assert np.isnan(metrics.arena_score(0.9, float("nan")))


def test_optimality_by_hand():
    score = np.array([[1, 1], [1, 1], [0, 1], [0, 0]], dtype=float)
    cost = np.array([[1, 4]] * 4, dtype=float)
    found = metrics.optimality(score, cost, np.array([0, 1, 0, 1]))
    # decided: rows 0 to 2; ideal there: 0, 0, 1; right in rows 0 and 1, spending 1 + 4 for 1 + 1
    assert found == pytest.approx((1 / 3, 2 / 3, 2 / 5))


def test_optimal_accuracy_can_be_below_one_and_the_ideal_router_has_three_ones():
    rng = np.random.default_rng(0)
    score, cost = (rng.random((200, 3)) < 0.5).astype(float), rng.random((200, 3))
    ideal = metrics.oracle(score, cost)
    assert metrics.optimality(score, cost, ideal) == pytest.approx((1, 1, 1))
    assert metrics.optimality(score, cost, np.zeros(200, int)).accuracy < 0.8


def test_equally_cheap_right_experts_are_equally_ideal():
    score, cost = np.ones((1, 2)), np.ones((1, 2))
    assert metrics.optimality(score, cost, np.array([1])).selection == 1


# --- choices -------------------------------------------------------------------------------

SCORES = np.array([[1.0, 0.0], [0.5, 1.0], [0.0, 0.0]])
PRICES = np.array([[3.0, 1.0]] * 3)


def test_regret_by_hand():
    worst = np.array([1, 0, 0])
    assert metrics.regret(SCORES, PRICES, worst) == pytest.approx((1 + 0.5 + 0) / 3)
    # λ = 0.1, u = [.7 −.1] [.2 .9] [−.3 −.1]
    assert metrics.regret(SCORES, PRICES, worst, 0.1) == pytest.approx((0.8 + 0.7 + 0.2) / 3)


def test_regret_without_a_price_needs_no_costs_and_leaves_out_unknown_choices():
    unknown = np.full((3, 2), np.nan)
    assert metrics.regret(SCORES, unknown, np.array([0, 0, 0])) == pytest.approx(0.5 / 3)
    holes = np.where([[True, False], [True, True], [True, True]], SCORES, np.nan)
    assert metrics.regret(holes, unknown, np.array([1, 0, 0])) == pytest.approx(0.25)


def test_routereval_values_by_hand():
    choice = np.array([0, 1, 0])  # mean 2/3; best single 1/2
    assert metrics.reference_value(SCORES, choice, 0.8) == pytest.approx(2 / 3 / 0.8)
    assert metrics.best_single_value(SCORES, choice) == pytest.approx(4 / 3)
    assert np.isnan(metrics.reference_value(SCORES, choice, 0.0))
    certain, torn = [1.0, 0.0, 0.0, 0.0], [0.25] * 4
    assert metrics.routing_entropy(np.array([certain, torn])) == pytest.approx(1.0)


# --- tasks ---------------------------------------------------------------------------------


def test_task_ranks_and_uplift_share_ties():
    quality = np.array([[0.9, 0.5, 0.3], [0.9, 0.4, 0.6], [0.1, 0.4, 0.7]])
    assert metrics.task_rank(quality) == pytest.approx([(1.5 + 1 + 3) / 3, 2, (3 + 2.5 + 1) / 3])
    assert metrics.uplift(quality) == pytest.approx([1.5 / 3, 0.5 / 3, 1 / 3])


def test_a_task_with_an_unknown_quality_counts_for_nobody():
    quality = np.array([[0.9, np.nan], [0.1, 0.5]])
    assert metrics.task_rank(quality).tolist() == [1, 2]
    assert metrics.uplift(quality).tolist() == [1, 0]
    assert np.isnan(metrics.uplift(quality[:, 1:])).all()


# --- cascades ------------------------------------------------------------------------------

SMALL, LARGE = (1.0, 0.4), (11.0, 0.8)  # 0.04 quality per dollar


def test_ibc_lift_by_hand():
    assert metrics.ibc_lift(6.0, 0.7, SMALL, LARGE) == pytest.approx(50.0)
    assert metrics.ibc_lift(6.0, 0.6, SMALL, LARGE) == pytest.approx(0.0)
    assert metrics.ibc_lift(6.0, 0.4, SMALL, LARGE) == pytest.approx(-100.0)


@pytest.mark.parametrize(
    ("cost", "large"), [(1.0, LARGE), (0.5, LARGE), (6.0, (11.0, 0.4)), (6.0, (11.0, 0.3))]
)
def test_ibc_lift_is_unknown_where_it_means_nothing(cost, large):
    assert np.isnan(metrics.ibc_lift(cost, 0.7, SMALL, large))


def test_mean_ibc_lift_judges_every_region_at_its_middle():
    line = np.array([1.0, 11.0]), np.array([0.4, 0.8])
    assert metrics.mean_ibc_lift(*line, SMALL, LARGE) == pytest.approx(0.0)
    bent = np.array([1.0, 6.0, 11.0]), np.array([0.4, 0.7, 0.8])
    # middles 2, 4, 6 lie on slope .06: +50; 8: (.34/7)/.04 − 1; 10: (.38/9)/.04 − 1
    by_hand = [50, 50, 50, 100 * (0.34 / 7 / 0.04 - 1), 100 * (0.38 / 9 / 0.04 - 1)]
    assert metrics.mean_ibc_lift(*bent, SMALL, LARGE) == pytest.approx(np.mean(by_hand))
    late = np.array([7.0, 11.0]), np.array([0.64, 0.8])
    assert metrics.mean_ibc_lift(*late, SMALL, LARGE) == pytest.approx(0.0)


# --- controls ------------------------------------------------------------------------------


def test_the_shuffled_control_is_the_mean_over_permutations():
    rng = np.random.default_rng(0)
    table, choice = rng.random((6, 3)), np.array([0, 0, 0, 1, 1, 2])
    every = [table[np.arange(6), choice[list(p)]].mean() for p in permutations(range(6))]
    assert metrics.shuffled(table, np.eye(3)[choice[None]]) == pytest.approx([np.mean(every)])


def test_the_shuffled_control_of_a_replicate_is_that_of_its_rows():
    rng = np.random.default_rng(1)
    table, asked = rng.random((5, 2)), np.eye(2)[rng.integers(0, 2, (3, 5))]
    drawn = [0, 0, 3, 4, 4]
    weights = np.bincount(drawn, minlength=5)[None].astype(float)
    expected = metrics.shuffled(table[drawn], asked[:, drawn])
    assert metrics.shuffled(table, asked, weights)[0] == pytest.approx(expected)


def test_nothing_is_gained_over_the_shuffled_control_by_choosing_blindly():
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 2, 4000)
    score = (rng.random((4000, 2)) < np.where(np.eye(2)[topic] > 0, 0.9, 0.3)).astype(float)
    cost = np.ones_like(score)
    blind, knowing = rng.permutation(topic), topic
    gains = metrics.over_shuffled(score, cost, np.array([blind, knowing]))
    assert gains == pytest.approx([0.0, 0.3], abs=0.03)


def test_the_control_is_read_off_at_the_routers_own_cost():
    # expert 1 is asked one row of two, the cheap one: the shuffled control would cost more
    score = np.array([[0.0, 1.0], [0.0, 1.0]])
    cost = np.array([[0.0, 1.0], [0.0, 3.0]])
    choices = np.array([[0, 0], [1, 0], [1, 1]])
    # control: (0, 0) (1, .5) (2, 1); router: (0, 0) (.5, .5) (2, 1)
    assert metrics.over_shuffled(score, cost, choices) == pytest.approx([0.0, 0.25, 0.0])


def test_the_domain_table_chooses_by_means_and_price():
    score = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], dtype=float)
    cost = np.array([[1.0, 2.0]] * 4)
    domains = ["sums", "sums", "words", "words"]
    asked = ["words", "sums", "unseen"]
    choose = partial(metrics.domain_table, score, cost, domains, asked)
    assert choose(prior=0.0).tolist() == [1, 0, 1]
    assert choose(price=2.0, prior=0.0).tolist() == [0, 0, 0]


def test_a_domains_mean_is_drawn_towards_the_overall_mean():
    table = np.array([[1.0], [1.0], [0.0], [np.nan]])
    found = metrics.domain_means(table, ["a", "a", "b", "b"], ["a", "b", "c"], prior=1.0)
    overall = 2 / 3
    assert found[:, 0] == pytest.approx([(2 + overall) / 3, overall / 2, overall])


# --- the table -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", metrics.METRICS)
def test_every_metric_says_what_it_is(name):
    metric = metrics.METRICS[name]
    assert getattr(metrics, metric.__name__) is metric
    assert (metric.__doc__ or "").splitlines()[0].strip()


def test_the_lift_has_an_interval_from_paired_replicates_and_a_reason_where_it_is_undefined():
    rng = np.random.default_rng(0)
    n = 2000
    needy = rng.random(n) < 0.4
    small = np.stack([np.full(n, 1.0), 1.0 - needy])
    large = np.stack([np.full(n, 50.0), np.ones(n)])
    up = needy & (rng.random(n) < 0.9)
    rows = np.stack([2.0 + 50.0 * up, np.where(up, 1.0, small[1])])
    weights = metrics.resample(n, 500)
    lifts = metrics.ibc_lifts(rows, small, large, weights)
    ends = [(float(t[0].mean()), float(t[1].mean())) for t in (small, large)]
    point = metrics.ibc_lift(float(rows[0].mean()), float(rows[1].mean()), *ends)
    low, high = metrics.interval(lifts)
    assert low < point < high
    assert high - low < 40
    assert metrics.ibc_undefined(20.0, *ends) is None
    assert "the cascade costs no more" in metrics.ibc_undefined(1.0, *ends)
    assert "is no better" in metrics.ibc_undefined(20.0, (1.0, 0.7), (50.0, 0.7))
    assert "the large model costs no more" in metrics.ibc_undefined(20.0, (1.0, 0.7), (1.0, 0.9))
    assert np.isnan(metrics.ibc_lifts(small, small, large, weights)).all()
