"""Threshold cascades and cascade routing, as others publish them, beside our own policy."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from typer.testing import CliRunner

from routewright.answers import votes
from routewright.answers.evidence import NOBODY
from routewright.cli.main import app
from routewright.data import outcomes
from routewright.drive import live, replay
from routewright.errors import BadInput, BadTable, NoAdmissibleExpert, UpstreamError
from routewright.evaluation.evaluate import evaluate
from routewright.experts.client import Client
from routewright.experts.limits import recorded
from routewright.fitting.fit import fit, fit_each
from routewright.policies import choose
from routewright.router.router import Router
from routewright.strategies._recorded import Recorded, StandIn, run
from routewright.strategies.cascade_routing import CascadeRouting
from routewright.strategies.frugal import Frugal
from routewright.types import Answer, Delta, Expert, Prediction, Query
from tables import swept_as_replayed, write
from test_auto import CHEAP, EVERYBODY, exam
from upstream import Upstream, expert, paths_live_as_replayed, running

COSTS = np.array([0.0005, 0.0005, 0.0005, 0.02])
PRICES = [0.0, 1.0, 5.0, 30.0, 1e4]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exam"), exam())


@pytest.fixture(scope="module")
def routers(table):
    rows = outcomes.read(table, split="train")
    strategies = ("single", "frugal", "cascade_routing")
    return fit_each(rows, strategies, encoder="surface", predictor="prior")


@pytest.fixture(scope="module")
def dev(table):
    return outcomes.read(table, split="dev")


def believes(*quality: float, spread: float = 0.2) -> StandIn:
    """A router that believes the same of every query, and has never weighed answers."""
    quality = quality or (0.6, 0.6, 0.6, 0.85)

    def beliefs(queries):
        n, e = len(queries), len(quality)
        return Prediction(
            EVERYBODY,
            np.tile(quality, (n, 1)),
            np.full((n, e), spread),
            np.tile(COSTS, (n, 1)),
            np.full((n, e), np.nan),
        )

    return StandIn(beliefs, mean=np.array(quality))


def say(**texts):
    return {n: Answer(n, t, cost=float(COSTS[EVERYBODY.index(n)])) for n, t in texts.items()}


def asked(decision):
    return [answer.expert for answer in decision.spent]


def both(router):
    """Every way in which a cascade may decide: with evidence, without, and at several settings."""
    thresholds = (0.0, 0.5, 0.8, (0.9, 0.7), 2.0)
    return [
        *(Frugal(router, trust) for trust in thresholds),
        *(Frugal(replace(router, evidence=None), trust, "sage", "letter") for trust in thresholds),
        *(CascadeRouting(router, price, "letter") for price in PRICES),
    ]


# --- what is replayed is what is evaluated, and what is served --------------------------------


@pytest.mark.parametrize("holes", [False, True], ids=["whole", "with holes"])
def test_replaying_a_plan_equals_its_decisions_over_arrays(routers, dev, holes):
    if holes:
        score = dev.score.copy()
        score[::5, 0] = score[1::7, 2] = score[2::9, 3] = np.nan
        dev = replace(dev, measures={**dev.measures, "score": score})
    ways = set()
    for strategy in both(routers["frugal"]):
        ran = swept_as_replayed(strategy, dev, routers["frugal"])
        ways |= {tuple(row) for row in ran.asked.tolist()}
    assert len(ways) >= 6, "the queries went different ways"


def test_live_decisions_over_http_are_those_that_were_replayed(routers, dev):
    strategies = [Frugal(routers["frugal"], 0.8), CascadeRouting(routers["single"], 5.0, "letter")]
    paths = paths_live_as_replayed(strategies, dev.rows(np.arange(15)))
    assert len(paths) >= 3, "the queries went different ways"


# --- frugal --------------------------------------------------------------------------------


def test_an_answer_is_kept_as_soon_as_it_is_trusted(dev):
    record = say(ada="(A)", bob="(A)", cyd="(B)", sage="(C)")
    paths = {
        trust: asked(replay(Frugal(believes(), trust, answers="letter"), dev.queries[0], record))
        for trust in (0.5, 0.75, 0.95, 2.0)
    }
    assert paths[0.5] == ["ada"], "a forecast of 0.6 is enough"
    assert paths[0.75] == ["ada", "bob"], "two who agree are right with probability 0.8"
    assert paths[0.95] == paths[2.0] == list(EVERYBODY), "nothing is; sage has the last word"


def test_each_rung_may_have_its_own_threshold(dev):
    record = say(ada="(A)", bob="(A)", cyd="(A)", sage="(C)")
    strategy = Frugal(believes(), (2.0, 2.0, 0.5), answers="letter")
    assert asked(replay(strategy, dev.queries[0], record)) == list(CHEAP)


def test_a_higher_threshold_never_spends_less(routers, dev):
    router = routers["frugal"]
    rows = Recorded(dev, router)
    costs = [run(Frugal(router, t), rows).cost.mean() for t in np.linspace(0, 1.1, 12)]
    assert min(np.diff(costs)) >= 0
    assert costs[-1] > 3 * costs[0]


def test_a_minimum_quality_raises_the_threshold(dev):
    record = say(ada="(A)", bob="(A)", cyd="(B)", sage="(C)")
    query = replace(dev.queries[0], min_quality=0.75)
    assert asked(replay(Frugal(believes(), 0.1, answers="letter"), query, record)) == ["ada", "bob"]


def test_an_unreadable_last_word_leaves_the_best_answer_and_is_paid_for(dev):
    record = say(ada="(A)", bob="(B)", cyd="(C)", sage="")
    decision = replay(Frugal(believes(), 0.9, answers="letter"), dev.queries[0], record)
    assert asked(decision) == list(EVERYBODY)
    assert decision.answer.text == "(A)"
    assert "no readable answer" in decision.because
    assert decision.cost == pytest.approx(COSTS.sum())


def test_a_ladder_that_says_nothing_leads_to_whoever_is_left(dev):
    record = say(ada="", bob="", cyd="(C)", sage="(D)")
    record["cyd"] = replace(record["cyd"], status="failed", reason="is down")
    record["sage"] = replace(record["sage"], status="failed", reason="is down")
    decision = replay(Frugal(believes(), 0.5, answers="letter"), dev.queries[0], record)
    assert decision.answer.expert == "ada"
    assert "best effort" in decision.because


def test_a_worse_expert_does_not_have_the_last_word_in_place_of_the_best(dev):
    record = say(ada="(A)", bob="(A)", cyd="(C)")
    strategy = Frugal(believes(0.6, 0.6, 0.3, 0.85), (2.0,), "sage", "letter")
    decision = replay(strategy, dev.queries[0], record)
    assert decision.answer.text == "(A)"
    assert "no other expert may be asked" in decision.because


def test_an_expert_who_is_not_there_cannot_have_the_last_word(dev):
    with pytest.raises(BadInput, match="no expert 'gpt-9': the router has ada, bob"):
        replay(Frugal(believes(), last="gpt-9"), dev.queries[0], say(ada="A", sage="B"))


# --- cascade routing -----------------------------------------------------------------------


def brute_force(router, price, here, done, draws=40_000):
    """The best set of further experts by simulation, all of them looked at; (sets, values)."""
    rng = np.random.default_rng(0)
    (quality,), (spread,) = (
        getattr(router.predict([Query.of("?")]), name) for name in ("quality", "spread")
    )
    drawn = np.clip(quality + spread * rng.standard_normal((draws, len(quality))), 0, 1)
    rest = [m for m in range(len(quality)) if m not in done]
    sets = [s for k in range(len(rest) + 1) for s in combinations(rest, k)]
    values = []
    for members in sets:
        best = np.maximum(drawn[:, list(members)].max(axis=1, initial=0.0), here)
        values.append(best.mean() - price * COSTS[list(members)].sum())
    return sets, np.array(values)


@pytest.mark.parametrize("price", [0.5, 2.0, 10.0, 40.0, 200.0, 1000.0])
@pytest.mark.parametrize("here", [0.3, 0.6, 0.9])
def test_the_next_expert_belongs_to_a_best_set_of_all(price, here):
    router = believes(0.55, 0.4, 0.62, 0.8, spread=0.15)
    prediction = router.predict([Query.of("?")])
    done = np.array([True, False, False, False])
    strategy = CascadeRouting(router, price)
    (m,) = strategy.decide(done, np.array([here]), prediction, price, np.ones((1, 4), bool))
    sets, values = brute_force(router, price, here, [0])
    nearly = [s for s, v in zip(sets, values, strict=True) if v > values.max() - 2e-3]
    assert any(m in s if m != NOBODY else not s for s in nearly)


def test_before_anybody_has_answered_a_set_of_one_is_single_shot_routing():
    rng = np.random.default_rng(1)
    shape = (200, 4)
    prediction = Prediction(
        EVERYBODY,
        rng.uniform(0.3, 0.7, shape),
        np.full(shape, 0.06),
        np.tile(COSTS, (200, 1)),
        np.full(shape, np.nan),
    )
    strategy = CascadeRouting(believes(), ahead=1)
    nobody, alone = np.zeros(4, bool), np.full(200, -1.0)
    for price in (0.0, 5.0, 20.0):
        first = strategy.decide(nobody, alone, prediction, price, np.ones(shape, bool))
        np.testing.assert_array_equal(first, choose(prediction, price))


def test_agreement_stops_the_cascade_and_disagreement_goes_on(dev):
    strategy = CascadeRouting(believes(), 8.0, "letter")
    agree, differ = (
        replay(strategy, dev.queries[0], say(ada="(A)", bob=b, cyd=c, sage="(D)"))
        for b, c in (("(A)", "(A)"), ("(B)", "(C)"))
    )
    assert "sage" not in asked(agree)
    assert asked(agree)[:2] == ["ada", "bob"]
    assert asked(differ)[-1] == "sage"
    assert differ.answer.expert == "sage"


def test_an_expert_that_fails_is_replaced_and_is_not_asked_again(dev):
    record = say(ada="(A)", bob="(A)", cyd="(A)", sage="(A)")
    record["ada"] = replace(record["ada"], status="failed", reason="is down", cost=0.001)
    decision = replay(CascadeRouting(believes(), 8.0, "letter"), dev.queries[0], record)
    assert asked(decision)[:2] == ["ada", "bob"]
    assert len(set(asked(decision))) == len(asked(decision))
    assert decision.answer.text == "(A)"


def test_a_query_that_may_cost_little_is_not_sent_further(dev):
    record = say(ada="(A)", bob="(B)", cyd="(C)", sage="(D)")
    for strategy in (CascadeRouting(believes(), 0.0, "letter"), Frugal(believes(), 2.0)):
        decision = replay(strategy, replace(dev.queries[0], max_cost=0.0011), record)
        assert decision.cost <= 0.0011
        assert len(decision.spent) == 2


# --- both ----------------------------------------------------------------------------------


def test_who_agrees_is_right_more_often_and_what_cannot_be_read_never_is():
    forecasts = np.full((1, 4), 0.6)
    alone = votes.chances(np.array([[0, -1, -1, -1]]), forecasts)[0]
    together = votes.chances(np.array([[0, 0, 1, -1]]), forecasts)[0]
    assert alone.tolist() == pytest.approx([0.6, 0, 0, 0])
    assert together[0] == together[1] > alone[0] > together[2] > together[3] == 0
    assert together[0] + together[2] < 1, "the truth may not have been said"


def test_prose_agrees_with_its_own_repetition_only():
    texts = np.array([["The cat sat on the mat. " * 9, "A dog barked all night. " * 9, ""]])
    assert votes.labels("auto", texts.astype(object)).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize(
    "strategy", [Frugal(believes(), 0.9), CascadeRouting(believes(), 1.0)], ids=["frugal", "eth"]
)
def test_limits_hold_and_nobody_else_is_asked(dev, strategy):
    record = say(ada="(A)", bob="(A)", cyd="(A)", sage="(A)")
    query = replace(dev.queries[0], data_class="restricted")
    experts = [Expert(name) for name in ("ada", "cyd", "sage")] + [recorded("bob")]
    assert set(asked(replay(strategy, query, record, experts))) == {"bob"}
    with pytest.raises(NoAdmissibleExpert):
        replay(strategy, query, record, experts[:3])
    with pytest.raises(UpstreamError, match="is down"):
        replay(strategy, query, {"bob": Answer("bob", status="failed", reason="is down")}, experts)


def test_only_an_answer_that_cannot_be_rejected_is_streamed():
    upstreams = {name: Upstream(says=lambda body: "(A) is the answer") for name in EVERYBODY}
    # Cascades that may go on, and two that cannot: nobody else is worth it, or permitted.
    waits = [Frugal(believes(), 0.5), CascadeRouting(believes(), 8.0)]
    streams = [CascadeRouting(believes(), 1e5), Frugal(believes(), 2.0)]

    async def pieces(strategy, query, experts, client):
        events = [e async for e in live(strategy, query, experts, client, stream=True)]
        return [event for event in events if isinstance(event, Delta)], events[-1]

    async def run():
        async with running(*upstreams.values()):
            experts = [expert(upstream.expert(name)) for name, upstream in upstreams.items()]
            async with Client(experts) as client:
                query = Query.of("Which is it?")
                whole = [await pieces(s, query, experts, client) for s in waits]
                alone = [await pieces(s, query, experts[:1], client) for s in streams]
                return whole, alone

    whole, alone = asyncio.run(run())
    assert all(len(deltas) == 1 for deltas, _ in whole)
    assert all(len(deltas) > 1 for deltas, _ in alone)


# --- fitting -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["frugal", "cascade_routing"])
def test_fitting_finds_points_that_beat_one_call_per_query(routers, dev, strategy, tmp_path):
    routers[strategy].save(tmp_path / "router")
    router = Router.load(tmp_path / "router")
    assert strategy in {point.strategy for point in router.frontier}
    seen, blind = (evaluate(r, dev).to_json() for r in (router, routers["single"]))
    at = {name: e["at_cost_fraction"]["0.5"] for name, e in (("seen", seen), ("blind", blind))}
    assert at["seen"]["quality"] > at["blind"]["quality"] + 0.03
    assert at["seen"]["gain_ci"][0] > 0
    plans = [point.plan for point in router.frontier if point.strategy == strategy]
    assert any("sage" in plan and "%" in plan for plan in plans)


def test_dearer_points_have_gentler_prices_and_higher_quality(routers):
    points = routers["frugal"].frontier
    assert points[0].price == 0, "the best there is"
    assert all(a.price <= b.price and a.cost >= b.cost for a, b in pairwise(points))


def test_routers_fitted_together_are_those_fitted_alone(table, routers):
    rows = outcomes.read(table, split="train")
    alone = fit(rows, encoder="surface", predictor="prior", strategy="frugal")
    assert alone.frontier == routers["frugal"].frontier


@pytest.mark.parametrize("strategy", ["frugal", "cascade_routing"])
def test_a_table_without_answers_is_refused(table, strategy):
    rows = replace(outcomes.read(table, split="train"), answers=None)
    with pytest.raises(BadTable, match=f"'{strategy}' compares answers and the table has none"):
        fit(rows, encoder="surface", predictor="prior", strategy=strategy)


def test_how_far_answers_move_a_belief_is_chosen_on_held_out_rows(routers):
    """A forecast that hardly moves makes no second answer worth its cost."""
    points = [p for p in routers["cascade_routing"].frontier if p.strategy == "cascade_routing"]
    (stretch,) = {point.spec["stretch"] for point in points}
    assert stretch > 1


def test_the_command_line_fits_them(table, tmp_path):
    quick = ["--predictor", "prior", "--encoder", "surface", "--out", str(tmp_path / "router")]
    done = CliRunner().invoke(app, ["fit", str(table), "--strategy", "cascade_routing", *quick])
    assert done.exit_code == 0, done.output
    assert "cascade_routing" in {p.strategy for p in Router.load(tmp_path / "router").frontier}
