"""Meta-verifiers: bins, tables, and the POMDP against brute force."""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import pytest

from routewright import metrics
from routewright.answers import metaverifiers as meta
from routewright.answers.metaverifiers import Trials
from routewright.answers.observations import About, Linear, Observations, agreement
from routewright.types import Query

COSTS = (1.0, 10.0, 50.0)


def trials(
    n: int = 600, models: int = 2, seed: int = 0, k: int = 8, graded: bool = False
) -> Trials:
    """A ladder whose models get better and dearer, and verifiers that know a little."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    chance = np.column_stack([0.8 - 0.6 * hard, 0.85 - 0.5 * hard, 0.95 - 0.25 * hard])
    quality = (rng.random((n, 3)) < chance).astype(np.float64)
    if graded:
        quality = np.clip(chance + rng.normal(0, 0.2, (n, 3)), 0, 1).round(2)
    seen = rng.binomial(k, 0.25 + 0.5 * quality[:, :2]) / k
    kept = [0, 2] if models == 2 else [0, 1, 2]
    cost = np.tile(np.array(COSTS)[kept], (n, 1))
    return Trials(quality[:, kept], cost, np.ones((n, len(kept) - 1)), seen[:, : len(kept) - 1])


@pytest.mark.parametrize("k", [*range(1, 33), 48, 64, 100])
def test_every_share_falls_into_its_own_bin_at_any_number_of_bins(k):
    shares = np.repeat([sum([1 / k] * i) for i in range(k + 1)], 10)  # sums that rounding spoils
    edges = meta.bins(shares, most=200)
    assert meta.place(shares, edges).tolist() == np.repeat(np.arange(k + 1), 10).tolist()
    exact = np.repeat(np.arange(k + 1) / k, 10)
    assert (meta.place(exact, edges) == meta.place(shares, edges)).all()


def test_bins_are_never_emptier_than_asked():
    rng = np.random.default_rng(0)
    for n in (8, 50, 51, 400):
        for seen in (rng.integers(0, 9, n) / 8, rng.random(n), rng.beta(0.3, 0.3, n).round(1)):
            edges = meta.bins(seen)
            counts = np.bincount(meta.place(seen, edges), minlength=len(edges) + 1)
            assert counts.min() >= 8
            assert len(counts) <= 17


def binned(gains: list[list[float]], large: float = 10.0) -> Trials:
    """Two models; bin by bin what the large one adds on each row of it."""
    seen = np.concatenate([np.full(len(gain), float(b)) for b, gain in enumerate(gains)])
    added = np.concatenate(gains)
    small = np.full(len(added), 0.5)
    cost = np.tile([1.0, large], (len(added), 1))
    quality = np.column_stack([small, small + added])
    return Trials(quality, cost, np.ones((len(added), 1)), seen[:, None])


def escalated(rule, price: float, count: int) -> list[bool]:
    """Which of the bins 0 … count − 1 the policy sends to the large model."""
    seen = np.arange(count, dtype=np.float64)[:, None]
    return (meta.walk(rule(price), seen).final == 1).tolist()


@pytest.mark.parametrize("name", ["threshold", "double_threshold", "lookup", "pomdp"])
def test_few_rows_are_believed_as_if_two_more_had_shown_the_mean_of_all(name):
    """Eight rows gain 0.4 each, ninety-two gain nothing: 0.32 + 0.0064 of it is believed."""
    rows = binned([[0.4] * 8, [0.0] * 46, [0.0] * 46])
    believed = (8 * 0.4 + 2 * 0.032) / 10
    rule = meta.METAVERIFIERS[name](rows)
    assert escalated(rule, 0.99 * believed / 10.0, 3) == [True, False, False]
    assert escalated(rule, 1.01 * believed / 10.0, 3) == [False, False, False]


def test_greedy_escalates_by_gains_that_are_smoothed_over_neighbouring_bins():
    """Each is the mean of all around it, by a bell whose width is two bins; beyond the ends the
    bins come again, mirrored."""
    rng = np.random.default_rng(0)
    gains = [rng.uniform(-0.4, 0.5, 10).tolist() for _ in range(9)]
    rows = binned(gains)
    mean = np.concatenate(gains).mean()
    believed = np.array([(sum(gain) + 2 * mean) / 12 for gain in gains])
    mirrored = np.concatenate([believed[::-1], believed, believed[::-1]])
    away = np.arange(27)[None] - np.arange(9, 18)[:, None]
    bell = np.where(np.abs(away) <= 8, np.exp(-(away**2) / (2 * 2**2)), 0.0)
    smooth = (bell * mirrored).sum(axis=1) / bell.sum(axis=1)
    rule = meta.greedy(rows)
    for price in np.linspace(0.0, smooth.max() / 10.0, 40, endpoint=False):
        assert escalated(rule, price, 9) == (smooth > 10.0 * price).tolist()
    jagged = meta.lookup(rows)
    assert any(escalated(rule, p, 9) != escalated(jagged, p, 9) for p in np.linspace(0, 0.02, 9))


def test_with_two_models_the_pomdp_is_the_argmax_table():
    for seed in range(5):
        rows = trials(400, seed=seed)
        table, exact = meta.lookup(rows), meta.pomdp(rows)
        for price in meta.prices(rows):
            assert exact(price) == table(price)


@pytest.mark.parametrize("price", [0.0, 0.001, 0.003, 0.006, 0.01, 0.02, 0.05])
def test_with_three_models_the_pomdp_equals_brute_force(price):
    """Every deterministic policy on a grid of three bins, valued by summing over all states."""
    rows = trials(500, models=3, k=2)
    solved = meta.solve(rows, most=3)
    assert [len(edges) for edges in solved.edges] == [2, 2]
    best = max(valued(policy, solved, price) for policy in all_policies(solved))
    assert solved.value(price) == pytest.approx(best, abs=1e-12)
    assert valued(solved.rule(price), solved, price) == pytest.approx(best, abs=1e-12)


def all_policies(solved):
    """After the first look each bin may keep, go to the top, to the middle unseen, or to the
    middle and then, bin by bin, keep or go to the top."""
    top = {"expert": 2}
    middles = [
        {"expert": 1, "edges": solved.edges[1].tolist(), "then": list(then)}
        for then in product([None, top], repeat=3)
    ]
    actions = [None, top, {"expert": 1}, *middles]
    yield {"expert": 0}
    for then in product(actions, repeat=3):
        yield {"expert": 0, "edges": solved.edges[0].tolist(), "then": list(then)}


def valued(policy, solved, price: float) -> float:
    """Expected quality − λ cost: the sum over states and observations, nothing clever."""
    total = 0.0
    for s, weight in enumerate(solved.weight):
        for seen in product(range(3), repeat=2):
            chance = weight * solved.chance[0][s, seen[0]] * solved.chance[1][s, seen[1]]
            node, cost = policy, 0.0
            while True:
                j = node["expert"]
                cost += solved.cost[j]
                if "then" not in node:
                    break
                cost += solved.verifying[j]
                at = len(node["then"]) - len(solved.edges[j]) - 1  # merged bins are fewer
                where = seen[j] if at == 0 else merged_bin(node, solved.edges[j], seen[j])
                if node["then"][where] is None:
                    break
                node = node["then"][where]
            total += chance * (solved.quality[s, j] - price * cost)
    return total


def merged_bin(node, edges, b: int) -> int:
    """Where a bin of the full grid lies among a node's merged ones."""
    inside = [-1.0, *((edges[:-1] + edges[1:]) / 2), 2.0][b]
    return int(meta.place(np.array([inside]), node["edges"])[0])


def test_a_bad_middle_model_is_skipped():
    rows = trials(800, models=3)
    bad = rows.quality.copy()
    bad[:, 1] = 0.0
    mute = np.column_stack([rows.confidence[:, 0], np.full(len(rows), 0.5)])
    poor = Trials(bad, rows.cost, rows.verifying, mute)
    for price in meta.prices(poor):
        asked = meta.walk(meta.pomdp(poor)(price), poor.confidence).asked
        assert not asked[:, 1].any()


def test_a_cheap_good_middle_model_makes_the_ladder_worth_more():
    rows, ends = trials(3000, models=3), trials(3000)
    fresh, fresh_ends = trials(3000, models=3, seed=1), trials(3000, seed=1)
    price = 0.004
    with_middle, without = meta.pomdp(rows)(price), meta.pomdp(ends)(price)
    gained = [
        (score - price * cost).mean()
        for score, cost in (meta.outcome(with_middle, fresh), meta.outcome(without, fresh_ends))
    ]
    assert gained[0] > gained[1] + 0.03


@pytest.mark.parametrize("name", [n for n in meta.METAVERIFIERS if n != "self_consistency"])
@pytest.mark.parametrize("models", [2, 3])
def test_a_higher_price_never_spends_more(name, models):
    rows = trials(600, models=models, graded=True)
    rule = meta.METAVERIFIERS[name](rows)
    spent = [meta.outcome(rule(price), rows)[1].mean() for price in np.linspace(0, 0.03, 25)]
    assert (np.diff(spent) <= 1e-9).all()
    assert spent[0] > spent[-1]


def test_a_target_cost_is_met_by_bisection():
    rows = trials(2000, models=3)
    rule = meta.pomdp(rows)
    for goal in (2.0, 5.0, 12.0, 30.0):
        price = meta.meet_cost(rule, rows, goal)
        spent = meta.outcome(rule(price), rows)[1].mean()
        assert spent <= goal + 1e-9
        if price > 0:
            assert meta.outcome(rule(price * 0.999 - 1e-9), rows)[1].mean() > goal


def test_the_lookup_beats_every_threshold_where_nobody_can_help():
    """Low confidence means a hopeless question here: one threshold escalates the wrong ones."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 3000)  # hopeless, needy, good
    quality = np.column_stack([kind == 2, kind >= 1]).astype(np.float64)
    seen = np.choose(kind, [0.1, 0.5, 0.9])[:, None] + rng.normal(0, 0.02, (3000, 1))
    rows = Trials(quality, np.tile([1.0, 50.0], (3000, 1)), np.ones((3000, 1)), seen)
    price = 0.005
    worth = {}
    for name, fit in meta.METAVERIFIERS.items():
        score, cost = meta.outcome(fit(rows)(price), rows)
        worth[name] = (score - price * cost).mean()
    assert worth["lookup"] == pytest.approx(worth["double_threshold"], abs=1e-9)
    assert worth["lookup"] > worth["threshold"] + 0.04
    policy = meta.double_threshold(rows)(price)
    assert [then is not None for then in policy["then"]] == [False, True, False]


def test_self_consistency_keeps_what_more_than_half_trust():
    rows = trials(100)
    way = meta.walk(meta.self_consistency(rows)(0.1), np.array([[0.0], [0.5], [0.500001], [1.0]]))
    assert way.final.tolist() == [1, 1, 0, 0]


def test_fifty_rows_are_enough_to_gain_on_others():
    """Mean of many draws of 50 labelled rows, judged on rows not seen."""
    fresh = trials(4000, seed=99)
    lifts = []
    for seed in range(40):
        rows = trials(50, seed=seed)
        rule = meta.lookup(rows)
        score, cost = meta.outcome(rule(meta.steepest(rule, rows)), fresh)
        ends = [(fresh.cost[:, m].mean(), fresh.quality[:, m].mean()) for m in (0, -1)]
        lifts.append(metrics.ibc_lift(cost.mean(), score.mean(), *ends))
    assert np.nanmean(lifts) > 15


def calls(work) -> int:
    """How many functions it calls, Python's own included."""
    count = 0

    def seen(frame, event, argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_fitting_goes_over_no_rows_one_by_one():
    """So a ladder of three is fitted on 66,000 rows in less than a tenth of a second."""
    rows = trials(66_000, models=3)
    meta.greedy(rows)  # imports SciPy
    for fit in meta.METAVERIFIERS.values():
        assert calls(lambda fit=fit: fit(rows)(0.003)) < 2_000


def test_the_steepest_price_buys_most_per_dollar():
    rows = trials(3000)
    rule = meta.lookup(rows)
    small, large = ((rows.cost[:, m].mean(), rows.quality[:, m].mean()) for m in (0, -1))

    def lift(price: float) -> float:
        score, cost = meta.outcome(rule(price), rows)
        return metrics.ibc_lift(cost.mean(), score.mean(), small, large)

    best = np.nanmax([lift(price) for price in np.linspace(0, 0.03, 400)])
    assert lift(meta.steepest(rule, rows)) == pytest.approx(best, rel=0.02)


# --- evidence beyond one number ---------------------------------------------------------------


def panel(n: int = 1500, seed: int = 0) -> tuple[Observations, np.ndarray]:
    """One of three others is an expert, and a domain in which the large model is of no use."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.5
    labels = np.column_stack([np.zeros(n), *(rng.integers(0, 4, n) for _ in range(3))]).astype(int)
    labels[:, 1] = np.where(rng.random(n) < 0.9, np.where(right, 0, 1), labels[:, 1])
    domains = rng.choice(["law", "maths"], n)
    queries = [Query.of(f"q{i}\n(A) x\n(B) y", domain=d) for i, d in enumerate(domains)]
    gain = np.where(right, 0.0, np.where(domains == "law", 0.9, 0.1))
    return agreement(labels, np.ones((n, 3), dtype=bool), About.of(queries)), gain


def test_evidence_knows_whose_agreement_counts_and_where():
    observations, gain = panel()
    fresh, truth = panel(seed=1)
    line = Linear.fit(observations, gain)
    explained = 1 - np.mean((line.predict(fresh) - truth) ** 2) / truth.var()
    share = Linear.fit(Observations(observations.share, observations.query), gain)
    alone = Observations(fresh.share, fresh.query)
    assert explained > 0.55
    assert explained > 0.15 + 1 - np.mean((share.predict(alone) - truth) ** 2) / truth.var()


def test_evidence_of_one_row_does_not_depend_on_its_batch_and_survives_json():
    import json

    observations, gain = panel(300)
    line = Linear.fit(observations, gain)
    again = Linear.from_json(json.loads(json.dumps(line.to_json())))
    alone = [again.predict(observations.rows(np.array([i])))[0] for i in range(20)]
    assert alone == pytest.approx(line.predict(observations)[:20], abs=1e-12)


def test_evidence_believes_little_where_there_is_nothing_to_learn():
    observations, gain = panel(50)
    noise = np.random.default_rng(3).permutation(gain)
    assert Linear.fit(observations, noise).predict(observations).std() < 0.35 * noise.std()


def test_a_domain_never_seen_counts_as_the_average_one():
    observations, gain = panel()
    line = Linear.fit(observations, gain)
    unknown = [Query.of("q\n(A) x\n(B) y", domain=d) for d in (None, "poetry", "law", "maths")]
    seen = agreement(np.tile([0, 1, 2, 3], (4, 1)), np.ones((4, 3), dtype=bool), About.of(unknown))
    nobody, poetry, law, maths = line.predict(seen)
    assert nobody == poetry
    assert min(law, maths) < nobody < max(law, maths)


def test_nobody_who_answered_means_nothing_speaks_for_the_answer():
    observations = agreement(
        np.array([[0, -1, -1]]), np.zeros((1, 2), dtype=bool), About.of([Query.of("q")])
    )
    assert observations.share.tolist() == [0.0]
