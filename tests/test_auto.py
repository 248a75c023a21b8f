"""One policy for routing and cascading: ask, look at the answers, ask on only while it pays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest

from routewright.answers import equivalence
from routewright.answers.evidence import Evidence, Rung
from routewright.data import outcomes
from routewright.drive import replay
from routewright.errors import NoAdmissibleExpert, UpstreamError
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.report import Study, expert_rows
from routewright.experts.limits import recorded
from routewright.fitting import ladder
from routewright.fitting.fit import fit
from routewright.fitting.sample import draw
from routewright.prediction.forest import Forest
from routewright.router.router import Router
from routewright.strategies._recorded import Recorded, replayed, run
from routewright.strategies.auto import Auto
from routewright.strategies.fixed import Fixed
from routewright.strategies.frugal import Frugal
from routewright.strategies.mix import Mix
from routewright.types import Answer, Expert, Prediction, Query
from tables import swept_as_replayed, write
from upstream import Upstream, asked, config_of, front, paths_live_as_replayed, running

CHEAP = ("ada", "bob", "cyd")
EVERYBODY = (*CHEAP, "sage")


def exam(n: int = 700, seed: int = 0) -> pl.DataFrame:
    """Multiple choice: three cheap experts who err apart from each other, and a dear good one.

    Prompts say nothing about who is right; a few answers cannot be read and score nothing.
    """
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 8, n)
    easy = rng.random(n) < 0.6
    rows: dict[str, object] = {
        "id": [f"q{i}" for i in range(n)],
        "prompt": [f"Question {i}: which of these is it? {rng.integers(1000)}" for i in range(n)],
        "split": ["dev" if i % 3 == 0 else "train" for i in range(n)],
    }
    for name in EVERYBODY:
        chance = np.full(n, 0.85) if name == "sage" else np.where(easy, 0.85, 0.2)
        wrong = (gold + rng.integers(1, 8, n)) % 8
        said = np.where(rng.random(n) < chance, gold, wrong)
        silent = rng.random(n) < 0.06
        rows[f"answer::{name}"] = [
            None if s else "ABCDEFGH"[a] for a, s in zip(said, silent, strict=True)
        ]
        rows[f"score::{name}"] = ((said == gold) & ~silent).astype(float)
        rows[f"cost::{name}"] = rng.uniform(0.8, 1.2, n) * (0.02 if name == "sage" else 0.0005)
    return pl.DataFrame(rows)


def test_half_numbers_and_half_words_are_compared_as_texts_in_every_process(tmp_path):
    """The kind hung on the order of a set of words, which differs from process to process."""
    said = ["7", "8", "Paris", "Rome"]
    frame = pl.DataFrame(
        {"id": said, "prompt": said, "answer::a": said, "score::a": [1.0] * 4, "cost::a": [1.0] * 4}
    )
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert ladder.kind_of(outcomes.read(write(tmp_path, frame[order]))) == "text"


def checked(frame: pl.DataFrame, *signs: str, seed: int = 0) -> pl.DataFrame:
    """The same, with what else is known of every answer; it is right nine times in ten."""
    rng = np.random.default_rng(seed)
    columns = {}
    for name in EVERYBODY:
        right = frame[f"score::{name}"].to_numpy() > 0
        told = np.where(rng.random(len(frame)) < 0.9, right, ~right)
        if "verify" in signs:
            columns[f"verify::{name}"] = np.where(told, 0.75, 0.25)
            columns[f"verify_cost::{name}"] = 0.1 * frame[f"cost::{name}"].to_numpy()
            columns[f"verdicts::{name}"] = np.full(len(frame), 4)
        if "logprob" in signs:
            columns[f"logprob::{name}"] = np.where(told, -0.1, -0.9)
    return frame.with_columns(**columns)


def learned(folder, frame):
    """A router that a table gives, and the rows that it was not fitted on."""
    path = write(folder, frame)
    fitted = fit(outcomes.read(path, split="train"), encoder="surface", predictor="prior")
    fitted.save(folder / "router")
    return Router.load(folder / "router"), outcomes.read(path, split="dev")


@pytest.fixture(scope="module")
def verifying(tmp_path_factory):
    return learned(tmp_path_factory.mktemp("verify"), checked(exam(), "verify"))


@pytest.fixture(scope="module")
def weighing(tmp_path_factory):
    return learned(tmp_path_factory.mktemp("logprob"), checked(exam(), "logprob"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exam"), exam())


@pytest.fixture(scope="module")
def router(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("router") / "router"
    fit(outcomes.read(table, split="train"), encoder="surface", predictor="prior").save(folder)
    return Router.load(folder)


@pytest.fixture(scope="module")
def dev(table):
    return outcomes.read(table, split="dev")


def test_agreement_buys_the_dear_experts_quality_for_a_part_of_its_cost(table, router, dev):
    assert {point.strategy for point in router.frontier} >= {"auto"}
    prompt_only = fit(
        outcomes.read(table, split="train"),
        encoder="surface",
        predictor="prior",
        strategy="single",
    )
    seen, blind = (evaluate(r, dev).to_json() for r in (router, prompt_only))
    at = seen["at_cost_fraction"]["0.5"]
    assert at["gain_ci"][0] > 0.02, "better than mixing fixed experts, with confidence"
    assert at["quality"] > blind["at_cost_fraction"]["0.5"]["quality"] + 0.03
    assert at["quality"] > seen["experts"]["sage"]["quality"], "and than the dear expert itself"


def test_an_answer_of_unknown_cost_is_not_free(router, dev):
    lost = np.random.default_rng(0).random(dev.cost.shape) < 0.3
    gaps = replace(dev, measures={**dev.measures, "cost": np.where(lost, np.nan, dev.cost)})
    whole, partly = (evaluate(router, rows).to_json() for rows in (dev, gaps))
    for point, other in zip(whole["curve"], partly["curve"], strict=True):
        assert other["cost"] == pytest.approx(point["cost"], rel=0.05)
    assert partly["aiq"] == pytest.approx(whole["aiq"], abs=0.01)
    swept_as_replayed(Auto(router, 5.0), gaps, router)


def test_verifications_and_log_probabilities_buy_more_quality_where_they_tell(
    router, dev, verifying, weighing
):
    def half(router, rows):
        return evaluate(router, rows).to_json()["at_cost_fraction"]["0.1"]["quality"]

    assert verifying[0].evidence.verdicts == 4, "as the table says"
    assert any(rung.checked for rung in verifying[0].evidence.rungs)
    assert weighing[0].evidence.logprobs
    assert half(*verifying) > half(router, dev) + 0.02
    assert half(*weighing) > half(router, dev) + 0.03


@pytest.mark.parametrize("sign", ["verifying", "weighing"])
@pytest.mark.parametrize("price", [0.0, 5.0, 30.0, 150.0])
def test_plans_that_look_at_more_replay_as_over_arrays(sign, price, request):
    router, rows = request.getfixturevalue(sign)
    if sign == "verifying":  # some verifications are missing
        told = rows.measures["verify"].copy()
        told[::4] = np.nan
        rows = replace(rows, measures={**rows.measures, "verify": told})
    swept_as_replayed(Auto(router, price), rows, router)


def test_the_report_tells_how_often_each_expert_is_asked_as_replays_do(verifying):
    router, rows = verifying
    found = Study(e := evaluate(router, rows, replicates=20), e.to_json())
    strategy, table = Auto(router, 30.0), Recorded(rows, router)
    decided = [replay(strategy, q, rows.record(i)) for i, q in enumerate(rows.queries)]
    asked = [{answer.expert for answer in decision.spent} for decision in decided]
    often = {name: np.mean([name in some for some in asked]) for name in router.experts}
    shares = run(strategy, table).shares(router.experts)
    assert shares == pytest.approx({name: share for name, share in often.items() if share})
    assert sum(shares.values()) > 1, "a committee"
    mixed = run(Mix(strategy, Fixed("sage"), share=0.25), table).shares(router.experts)
    assert mixed["sage"] == pytest.approx(0.75 * shares.get("sage", 0.0) + 0.25)
    assert mixed["ada"] == pytest.approx(0.75 * shares["ada"])
    assert found.several
    assert all(row.half is not None and row.whole is not None for row in expert_rows(found))


def test_a_point_that_verifies_says_so_and_its_path_shows_it(verifying):
    router, rows = verifying
    points = [p for p in router.frontier if "verify the likeliest answer" in p.plan]
    assert points
    strategy = router.strategy_at(points[len(points) // 2])
    paths = [replay(strategy, q, rows.record(i)).path for i, q in enumerate(rows.queries)]
    assert any(":verify" in path or ">verify" in path for path in paths)


def test_a_verification_that_fails_is_paid_and_tells_nothing(verifying):
    router, rows = verifying
    price = 30.0
    for i, query in enumerate(rows.queries):
        record = rows.record(i)
        path = replay(Auto(router, price), query, record).path
        if "verify" in path:
            break
    record = {
        key: replace(answer, status="failed", reason="is down", cost=0.7)
        if "verify" in key
        else answer
        for key, answer in record.items()
    }
    decision = replay(Auto(router, price), query, record)
    assert decision.cost > 0.7
    assert decision.answer.status == "ok"


@pytest.mark.parametrize("price", [0.0, 1.0, 5.0, 30.0, 1e4])
def test_replaying_a_plan_equals_its_decisions_over_arrays(router, dev, price):
    swept_as_replayed(Auto(router, price), dev, router)


def test_calls_that_were_not_recorded_replay_as_over_arrays(router, dev):
    holes = dev.measures["score"].copy()
    holes[::5, 0] = holes[1::7, 2] = np.nan
    dev = replace(dev, measures={**dev.measures, "score": holes})
    swept_as_replayed(Auto(router, 5.0), dev, router)


def test_a_higher_price_of_quality_never_spends_more(router, dev):
    rows = Recorded(dev, router)
    prices = router.evidence.prices
    costs = [run(Auto(router, float(p)), rows).cost.mean() for p in prices]
    # Decisions follow what is expected, and a learned worth may wobble between two prices.
    assert costs[0] > 2 * costs[-1]
    assert max(np.diff(costs)) < 0.05 * costs[0]


def test_an_answer_that_cannot_be_read_never_replaces_one_that_can(router, dev):
    record = {name: Answer(name, "(A)", cost=0.001, score=1.0) for name in CHEAP}
    record["ada"] = Answer("ada", "(B)", cost=0.001, score=0.0)
    record["cyd"] = Answer("cyd", "(C)", cost=0.001, score=0.0)
    record["sage"] = Answer("sage", "", cost=0.02, score=0.0)
    decision = replay(Auto(router), dev.queries[0], record)
    assert "sage" in decision.path, "three different answers call for the dear expert"
    assert decision.answer.expert in CHEAP
    assert "no readable answer" in decision.because
    assert decision.cost == pytest.approx(0.023), "and is paid for all the same"


def test_a_last_word_that_fails_leaves_the_best_answer_so_far(router, dev):
    record = {n: Answer(n, t, cost=0.001) for n, t in zip(CHEAP, "ABC", strict=True)}
    record["sage"] = Answer("sage", status="failed", reason="is down")
    decision = replay(Auto(router), dev.queries[0], record)
    assert decision.answer.expert in CHEAP
    assert "best effort" in decision.because


def test_a_restricted_query_is_not_sent_to_a_committee_that_may_not_see_it(router, dev):
    record = {name: Answer(name, "(A)", cost=0.001) for name in EVERYBODY}
    query = replace(dev.queries[0], data_class="restricted")
    experts = [Expert(name) for name in ("bob", "cyd", "sage")] + [recorded("ada")]
    decision = replay(Auto(router), query, record, experts)
    assert {answer.expert for answer in decision.spent} == {"ada"}
    with pytest.raises(NoAdmissibleExpert):
        replay(Auto(router), query, record, experts[:3])


def test_a_committee_that_is_too_dear_for_the_query_is_not_asked(router, dev):
    record = {name: Answer(name, "(A)", cost=0.0005) for name in EVERYBODY}
    query = replace(dev.queries[0], max_cost=0.0008)
    decision = replay(Auto(router), query, record)
    assert len(decision.spent) == 1
    assert decision.cost <= 0.0008


def test_a_last_word_that_is_too_dear_for_the_query_is_not_asked(router, dev):
    record = {n: Answer(n, t, cost=0.0005) for n, t in zip(EVERYBODY, "ABCD", strict=True)}
    free = replay(Auto(router), dev.queries[0], record)
    assert "sage" in free.path, "they differ, so the dear expert is worth its price"
    bound = replay(Auto(router), replace(dev.queries[0], max_cost=0.005), record)
    assert bound.answer.expert in CHEAP
    assert bound.cost <= 0.005


@pytest.mark.parametrize("make", [Auto, partial(Frugal, trust=0.99)], ids=["auto", "frugal"])
def test_a_last_word_for_which_the_committee_has_left_no_money_is_not_asked(make, router, dev):
    """Alone `sage` would be within the limit; it is not beside the three that have answered."""
    record = {n: Answer(n, t, cost=0.0005) for n, t in zip(CHEAP, "ABC", strict=True)}
    record["sage"] = Answer("sage", "D", cost=0.02)
    allowed, too_little = (replace(dev.queries[0], max_cost=cost) for cost in (0.0225, 0.021))
    assert replay(make(router), allowed, record).path == "bob>cyd>ada>sage"
    decision = replay(make(router), too_little, record)
    assert decision.path == "bob>cyd>ada"
    assert decision.answer.expert in CHEAP
    assert decision.cost <= 0.021


@pytest.mark.parametrize("make", [Auto, partial(Frugal, trust=0.99)], ids=["auto", "frugal"])
def test_what_answers_have_really_cost_counts_before_more_are_asked(make, router, dev):
    """`bob` and `cyd` wrote twice as much as was expected of them, so `ada` is too much."""
    record = {n: Answer(n, t, cost=0.001) for n, t in zip(CHEAP, "ABC", strict=True)}
    limited = replace(dev.queries[0], max_cost=0.0023)
    assert replay(make(router), limited, record).path == "bob>cyd"
    usual = {name: replace(answer, cost=0.0005) for name, answer in record.items()}
    assert replay(make(router), limited, usual).path == "bob>cyd>ada"


class Doubting:
    """A router whose evidence asks `small` first, then expects 0.3 more of anybody else, were it
    not that `unknown` was never scored."""

    experts = ("small", "large", "unknown")
    mean = np.array([0.5, 0.8, np.nan])
    evidence = Evidence(
        kind="letter",
        prices=np.array([0.0, 10.0]),
        rungs=(
            Rung(onward=Forest.constant([0.1, 0.1])),
            Rung((0,), candidates=Forest.constant([0.5]), gains=Forest.constant([0.3, 0.3])),
        ),
    )

    def __init__(self, *cost, latency=(np.nan, np.nan, np.nan)):
        self.cost, self.latency = np.array([cost]), np.array([latency])

    def predict(self, queries):
        quality = np.array([[0.5, 0.8, -1.0]])
        return Prediction(self.experts, quality, quality * 0, self.cost, self.latency)


@pytest.mark.parametrize("first", ["A", "I cannot tell"])
def test_an_expert_that_was_never_scored_is_never_given_the_last_word(first):
    record = {name: Answer(name, "(B)") for name in Doubting.experts}
    record["small"] = Answer("small", first)
    decision = replay(Auto(Doubting(0.02, 0.2, 0.001)), Query.of("A or B?"), record)
    assert decision.path == "small>large"
    assert decision.answer.expert == "large"


@pytest.mark.parametrize("cost", [(0.02, 0.2, 0.001), (0.02, 0.001, 0.2), (0.001, 0.02, 0.2)])
@pytest.mark.parametrize("others", [(), ("unknown",)])
def test_an_answer_that_cannot_be_read_stands_where_nobody_may_have_the_last_word(others, cost):
    record = {name: Answer(name, "(B)") for name in Doubting.experts}
    record["small"] = Answer("small", "I cannot tell", cost=0.02)
    closed = [Expert(n, data_classes=frozenset()) for n in ("large", "unknown") if n not in others]
    experts = [*closed, recorded("small"), *map(recorded, others)]
    decision = replay(Auto(Doubting(*cost)), Query.of("A or B?"), record, experts)
    assert (decision.path, decision.answer) == ("small", record["small"])
    record["small"] = Answer("small", status="failed", reason="is down")
    with pytest.raises(UpstreamError, match="is down"):
        replay(Auto(Doubting(*cost)), Query.of("A or B?"), record, experts)


@pytest.mark.parametrize("price", [0.0, 5.0, 1e4])
def test_rows_where_nobody_said_anything_that_can_be_read_replay_as_over_arrays(router, dev, price):
    """On some the dear expert is not recorded either, and on some nobody is."""
    answers, score = dev.answers.copy(), dev.measures["score"].copy()
    answers[::4] = None
    score[::8, 3] = score[::24] = np.nan
    silent = replace(dev, answers=answers, measures={**dev.measures, "score": score})
    rows, strategy = Recorded(silent, router), Auto(router, price)
    ran, plans = strategy.over(rows), replayed(strategy, rows)
    np.testing.assert_array_equal(ran.score, plans.score)
    np.testing.assert_allclose(ran.cost[::8][1::3], plans.cost[::8][1::3], rtol=1e-12)


def test_waiting_can_be_priced(router, dev):
    slow = replace(router, latency=np.array([30.0, 30.0, 30.0, 1.0]))
    record = {name: Answer(name, "(A)", cost=0.001) for name in EVERYBODY}
    patient, hurried = (
        replay(Auto(slow, 1.0, latency_price=μ), dev.queries[0], record) for μ in (0.0, 0.1)
    )
    assert {a.expert for a in patient.spent} >= set(CHEAP[:2])
    assert [a.expert for a in hurried.spent] == ["sage"]


def test_nobody_is_asked_who_cannot_answer_in_time(router, dev):
    """Each of two committees takes 2 s, whatever was predicted; sage, who is last, 5 s."""
    timed = replace(router, latency=np.array([1.0, 1.0, 1.0, 5.0]))
    texts = zip(EVERYBODY, "ABCD", strict=True)
    record = {name: Answer(name, text, cost=1e-4, latency=2.0) for name, text in texts}

    def asked(seconds):
        query = replace(dev.queries[0], max_latency=seconds)
        return [answer.expert for answer in replay(Auto(timed), query, record).spent]

    first = [EVERYBODY[m] for m in router.evidence.rungs[1].members]
    assert asked(None) == asked(9.5) == [*first, "ada", "sage"]
    assert asked(8.5) == [*first, "ada"], "the time that the committees took counts"
    assert asked(2.5) == first


@pytest.mark.parametrize("unknown", [9.0, np.nan])
def test_a_committee_of_unknown_latency_is_taken_to_be_as_slow_as_the_slowest_known(unknown):
    """Asking `small` first is worth 0.1, so nine seconds must cost less than that."""
    slow = Doubting(0.02, 0.2, 0.001, latency=(unknown, 9.0, 1.0))
    record = {name: Answer(name, "(B)") for name in Doubting.experts}
    patient, hurried = (
        replay(Auto(slow, latency_price=μ), Query.of("A or B?"), record).spent[0].expert
        for μ in (0.01, 0.02)
    )
    assert (patient, hurried) == ("small", "large")


def test_a_table_without_answers_gives_a_prompt_only_router(table):
    rows = replace(outcomes.read(table, split="train"), answers=None)
    plain = fit(rows, encoder="surface", predictor="prior")
    assert plain.evidence is None
    assert all(point.strategy != "auto" for point in plain.frontier)


def test_a_point_says_its_plan_in_words(router):
    plans = [point.plan for point in router.frontier if point.strategy == "auto"]
    assert any("keep the best answer (" in plan and "or ask sage" in plan for plan in plans)
    assert any("p ≥ 0." in plan for plan in plans)


def test_members_are_those_who_add_most_for_their_cost(table):
    rows = outcomes.read(table, split="train")
    belief = fit(rows, encoder="surface", predictor="prior", strategy="single")
    labels = equivalence.labels("letter", rows.answers)
    imagined = draw(rows, labels)
    order = ladder.order_members(rows, belief.predict(rows.queries), labels, imagined)
    assert sorted(rows.experts[m] for m in order) == sorted(CHEAP)


def test_live_decisions_over_http_are_those_that_were_replayed(router, dev):
    strategies = [Auto(router, price) for price in (0.0, 5.0, 30.0)]
    paths = paths_live_as_replayed(strategies, dev.rows(np.arange(20)))
    assert len(paths) >= 3, "the queries went different ways"


@pytest.mark.parametrize("stream", [False, True])
def test_the_gateway_asks_for_log_probabilities_and_keeps_them_to_itself(
    stream, weighing, tmp_path
):
    """A committee's answer that is kept comes whole, and a header says so."""
    router, _ = weighing
    router.save(tmp_path / "router")
    surely = {name: -0.9 if name == "sage" else -0.1 for name in EVERYBODY}
    upstreams = {n: Upstream(says="(B)", logprob=surely[n]) for n in EVERYBODY}
    policy = {"strategy": "auto", "router": str(tmp_path / "router"), "max_cost_fraction": 0.3}

    async def run():
        async with running(*upstreams.values()):
            entries = [upstream.expert(name) for name, upstream in upstreams.items()]
            async with front(config_of(*entries, policies={"default": policy})) as client:
                reply = await client.chat.completions.with_raw_response.create(
                    model="auto",
                    messages=asked("Question 3: which of these is it? 500"),
                    stream=stream,
                )
                return reply.headers, [piece async for piece in reply.parse()] if stream else [
                    reply.parse()
                ]

    headers, pieces = asyncio.run(run())
    asks = [body for upstream in upstreams.values() for body in upstream.bodies]
    assert asks
    assert all(body["logprobs"] is True for body in asks)
    assert all(not getattr(piece.choices[0], "logprobs", None) for piece in pieces)
    assert headers["x-routewright-path"]
    assert headers.get("x-routewright-streamed") == ("false" if stream else None)


@pytest.mark.parametrize("pool", [CHEAP[:2], EVERYBODY], ids=["two", "four"])
def test_a_pool_that_costs_nothing_is_fitted_and_within_every_budget(routewright, tmp_path, pool):
    frame = exam(150).with_columns(*(pl.lit(0.0).alias(f"cost::{name}") for name in EVERYBODY))
    folder = tmp_path / "router"
    words = ("--out", folder, "--experts", ",".join(pool), "--predictor", "prior")
    code, printed, error = routewright("fit", write(tmp_path, frame), *words)
    assert code == 0, error
    assert "every expert costs 0" in " ".join(printed.split())
    point = Router.load(folder).at(max_cost_fraction=0.5)
    assert point == Router.load(folder).at(max_cost=0.001)
    assert point.quality == max(p.quality for p in Router.load(folder).frontier)
