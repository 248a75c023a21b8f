"""Labels equal what a person works out by hand, and keep their shape whatever the rewards."""

from __future__ import annotations

import numpy as np
import pytest

from routewright.prediction.predictors import _labels

# Three queries, two experts: two of tag a (the second of b too), one without tags.
S = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
TAGS, NAMES = _labels.incidence([["a"], ["a", "b"], []])


def random_labels(n=40, e=4, seed=0):
    rng = np.random.default_rng(seed)
    tags = [[f"t{t}" for t in np.flatnonzero(rng.random(6) < 0.3)] for _ in range(n)]
    return _labels.soft(rng.normal(size=(n, e)), 0.7), _labels.incidence(tags)[0]


def test_softmax_with_temperature_by_hand():
    rewards = np.array([[np.log(4.0), np.log(2.0), 0.0]])
    assert np.allclose(_labels.soft(rewards, 1.0), [[4 / 7, 2 / 7, 1 / 7]])
    assert np.allclose(_labels.soft(rewards, 0.5), [[16 / 21, 4 / 21, 1 / 21]])


def test_a_reward_that_everyone_gets_changes_nothing():
    rewards = np.random.default_rng(0).normal(size=(20, 5))
    shifted = rewards + np.random.default_rng(1).normal(size=(20, 1)) * 1e3
    assert np.allclose(_labels.soft(shifted, 0.3), _labels.soft(rewards, 0.3))


def test_tag_means_leave_the_query_itself_out():
    found = _labels.tag_means(S, TAGS, shrinkage=0)
    assert NAMES == ("a", "b")
    # q0: a without q0 is q1. q1: a without q1 is q0; b without q1 is empty, so the mean of q0, q2.
    assert np.allclose(found[0], [0.4, 0.6])
    assert np.allclose(found[1], (S[0] + (S[0] + S[2]) / 2) / 2)
    assert np.allclose(found[2], (S[0] + S[1]) / 2)


def test_tag_means_as_the_paper_has_them():
    found = _labels.tag_means(S, TAGS, shrinkage=0, leave_one_out=False)
    a, b = (S[0] + S[1]) / 2, S[1]
    assert np.allclose(found[:2], [a, (a + b) / 2])


def test_small_tags_are_drawn_towards_the_mean_of_all_by_n_over_n_plus_k():
    found = _labels.tag_means(S, TAGS, shrinkage=3)
    others = (S[1] + S[2]) / 2
    assert np.allclose(found[0], 1 / 4 * S[1] + 3 / 4 * others)
    assert np.allclose(_labels.tag_means(S, TAGS, shrinkage=1e12)[0], others)


def test_beta_mixes_a_label_with_its_tags():
    assert np.allclose(_labels.enhanced(S, TAGS, beta=1), S)
    means = _labels.tag_means(S, TAGS, shrinkage=2)
    all_means = _labels.enhanced(S, TAGS, beta=0, shrinkage=2, untagged="mean")
    assert np.allclose(all_means, means)
    mixed = _labels.enhanced(S, TAGS, beta=0.3, shrinkage=2)
    assert np.allclose(mixed[:2], 0.3 * S[:2] + 0.7 * means[:2])
    assert np.allclose(mixed[2], S[2])  # no tags: its own


def test_rows_sum_to_one_whatever_the_options():
    s, tags = random_labels()
    for beta in (0.0, 0.3, 1.0):
        for shrinkage in (0.0, 1.0, 20.0):
            for own in (True, False):
                found = _labels.enhanced(
                    s, tags, beta=beta, shrinkage=shrinkage, leave_one_out=own, untagged="mean"
                )
                assert np.allclose(found.sum(axis=1), 1)
                assert (found >= -1e-12).all()


def test_leaving_out_equals_computing_without_the_row():
    s, tags = random_labels()
    found = _labels.tag_means(s, tags, shrinkage=5)
    for q in (0, 7, 23):
        mine = tags[q].indices
        rest = np.arange(len(s)) != q
        others = s[rest].mean(axis=0)
        each = []
        for t in mine:
            carriers = rest & (tags[:, [t]].toarray().ravel() > 0)
            each.append((s[carriers].sum(axis=0) + 5 * others) / (carriers.sum() + 5))
        assert np.allclose(found[q], np.mean(each, axis=0) if each else others)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 3.0])
def test_the_temperature_is_recovered_from_the_labels_entropy(temperature, scale):
    rewards = np.random.default_rng(0).normal(size=(200, 6)) * scale
    wanted = _labels.entropy(_labels.soft(rewards, temperature * scale))
    assert _labels.temperature_for(rewards, wanted) == pytest.approx(temperature * scale, rel=1e-4)


def test_entropies_out_of_reach_get_a_usable_temperature():
    rewards = np.array([[0.0, 1.0], [1.0, 1.0]])
    assert np.isfinite(_labels.soft(rewards, _labels.temperature_for(rewards, 0.0))).all()
    assert np.isfinite(_labels.soft(rewards, _labels.temperature_for(rewards, 99.0))).all()
    assert _labels.temperature_for(np.ones((3, 2)), 0.1) == 1.0


def test_a_single_query_is_its_own_label():
    s, tags = S[:1], _labels.incidence([["a"]])[0]
    assert np.allclose(_labels.enhanced(s, tags, beta=0.3, shrinkage=0), s)


def test_unknown_rewards_say_nothing_about_who_is_better():
    rewards = np.array([[1.0, 3.0, np.nan], [5.0, np.nan, np.nan], [np.nan] * 3])
    found = _labels.filled(rewards)
    assert np.allclose(found[0, :2], [1, 3])
    assert np.isnan(found[:, 2]).all()
    # 2 above the first expert's mean of 3, so 2 above the second's mean of 3
    assert np.allclose(found[1, :2], [5, 5])
    assert np.allclose(found[2, :2], [3, 3])
