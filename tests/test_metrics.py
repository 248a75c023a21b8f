"""Metrics against values worked out by hand and against scikit-learn."""

from __future__ import annotations

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
