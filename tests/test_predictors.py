"""What single predictors promise beyond the contract."""

from __future__ import annotations

import numpy as np

from routewright.checks import training_data
from routewright.prediction.predictors.factor import Factor
from routewright.prediction.predictors.linear import Linear
from routewright.prediction.predictors.stack import Stack, blend


def test_specialists_win_on_their_topic_but_not_under_rasch():
    x, scores, blocks = training_data(600)
    topic = x[:, blocks["domain"]].argmax(axis=1)
    full = Factor(rank=2).fit(x, scores, blocks=blocks).predict(x).mean
    rasch = Factor(rank=0).fit(x, scores, blocks=blocks).predict(x).mean
    assert (full[topic == 0, 0] > full[topic == 0, 1]).mean() > 0.95
    assert (full[topic == 1, 0] < full[topic == 1, 1]).mean() > 0.95
    order = np.argsort(rasch, axis=1)
    assert (order == order[0]).all()


def test_held_out_beliefs_do_not_know_their_own_scores():
    x, _, blocks = training_data(400)
    noise = (np.random.default_rng(0).random((400, 3)) < 0.5).astype(float)
    fold = np.arange(400) % 5
    belief = Stack().fit_held_out(x, noise, blocks=blocks, fold=fold)
    inside = Stack().fit(x, noise, blocks=blocks).predict(x).mean
    held_out = np.corrcoef(belief.mean.ravel(), noise.ravel())[0, 1]
    assert held_out < 0.08
    assert np.corrcoef(inside.ravel(), noise.ravel())[0, 1] > held_out


def test_a_stack_is_at_least_as_good_as_its_members_are_on_average():
    x, scores, blocks = training_data(800)
    half = slice(0, 400), slice(400, 800)
    stack = Stack().fit(x[half[0]], scores[half[0]], blocks=blocks)
    truth = scores[half[1]]
    errors = [np.nanmean((m.predict(x[half[1]]).mean - truth) ** 2) for m in stack.models]
    assert np.nanmean((stack.predict(x[half[1]]).mean - truth) ** 2) < np.mean(errors)


def test_stacking_weights_find_the_better_forecast():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(2000, 2))
    good, bad = target + rng.normal(0, 0.5, (2000, 2)), rng.normal(size=(2000, 2))
    weights = blend(np.stack([good, bad]), target)
    assert (weights[0] > weights[1] + 0.3).all()


def test_signal_that_is_not_there_is_shrunk_away():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(300, 40)), (rng.random((300, 4)) < 0.5).astype(float)
    mean = Linear().fit(x, noise, blocks={"lexical": slice(0, 40)}).predict(x).mean
    assert np.abs(mean - noise.mean(axis=0)).mean() < 0.05
