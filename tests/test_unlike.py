"""What is unlike the training rows goes to the fixed mix, within the budget of the point."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from routewright.data import outcomes
from routewright.drive import replay
from routewright.evaluation.evaluate import evaluate
from routewright.fitting.fit import fit
from routewright.fitting.left_out import steady
from routewright.router.router import Router
from routewright.types import Answer, Query
from tables import swept_as_replayed, write
from upstream import Upstream, asked, config_of, front, running

EXPERTS = ("ada", "bob", "sage")
PRICE = {"ada": 0.001, "bob": 0.001, "sage": 0.01}
NOUNS = ("lamp", "river", "engine", "candle", "bridge", "planet", "forest", "window")
CHATS = [
    f"Write a {kind} about {what}, please!"
    for kind in ("poem", "story", "song", "letter", "joke", "speech")
    for what in ("spring", "my cat", "a long winter", "the sea", "trains", "two friends", "tea")
]


def exam(n: int = 300, seed: int = 0) -> pl.DataFrame:
    """Multiple choice on two cheap experts who err apart from each other, and an expensive one.

    Some answers cannot be read and score nothing."""
    rng = np.random.default_rng(seed)
    gold, easy = rng.integers(0, 4, n), rng.random(n) < 0.6
    lines = [
        f"Which of these belongs to the {rng.choice(NOUNS)} of the {rng.choice(NOUNS)}?\n"
        + "\n".join(f"{'ABCD'[k]}. the {rng.choice(NOUNS)} {rng.integers(90)}" for k in range(4))
        for _ in range(n)
    ]
    columns: dict[str, object] = {
        "prompt": lines,
        "split": ["dev" if i % 3 == 0 else "train" for i in range(n)],
    }
    for name in EXPERTS:
        chance = np.full(n, 0.9) if name == "sage" else np.where(easy, 0.9, 0.2)
        answer = np.where(rng.random(n) < chance, gold, (gold + rng.integers(1, 4, n)) % 4)
        silent = rng.random(n) < 0.15
        columns[f"answer::{name}"] = [
            "I would rather not say" if s else "ABCD"[a]
            for a, s in zip(answer, silent, strict=True)
        ]
        columns[f"score::{name}"] = ((answer == gold) & ~silent).astype(float)
        columns[f"cost::{name}"] = rng.uniform(0.9, 1.1, n) * PRICE[name]
    return pl.DataFrame(columns)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exam"), exam())


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("routers") / "router"
    fit(outcomes.read(table, split="train"), predictor="linear").save(path)
    return path


@pytest.fixture(scope="module")
def router(folder):
    return Router.load(folder)


def spent(strategy, queries):
    """The cost of chat answers, relative to always asking `sage`, and the decisions."""
    record = {name: Answer(name, "Well, once upon a time", cost=PRICE[name]) for name in EXPERTS}
    decisions = [replay(strategy, query, record) for query in queries]
    return sum(d.cost for d in decisions) / (PRICE["sage"] * len(queries)), decisions


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7])
def test_chat_costs_no_more_than_the_budget_of_a_router_of_multiple_choice(router, fraction):
    point = router.at(max_cost_fraction=fraction)
    assert point.strategy == "auto"
    queries = [Query.of(f"{text} {letter}") for text in CHATS for letter in "abcdefghijkl"]
    cost, decisions = spent(router.strategy_at(point), queries)
    assert {decision.unlike for decision in decisions} == {"query"}
    assert all(len(decision.spent) == 1 for decision in decisions)
    assert cost == pytest.approx(point.cost_fraction, abs=0.1), "a mix draws lots"
    assert all("unlike the training rows" in decision.because for decision in decisions)


@pytest.mark.parametrize("fraction", [0.5, 0.7])
def test_unreadable_answers_of_the_first_committee_end_the_climb(router, fraction):
    point = router.at(max_cost_fraction=fraction)
    familiar = replace(router, novelty=replace(router.novelty, limit=np.inf, usual=0.0))
    queries = [Query.of(f"{text} {letter}") for text in CHATS for letter in "abcdefghijkl"]
    cost, decisions = spent(familiar.strategy_at(point), queries)
    assert {decision.unlike for decision in decisions} <= {"answers", ""}
    assert any(decision.unlike for decision in decisions)
    assert cost <= point.cost_fraction + 0.08, "what the committee took counts"
    without = {k: v for k, v in point.spec.items() if k != "budget"}
    older, _ = spent(familiar.strategy_at(replace(point, spec=without)), queries)
    assert older > point.cost_fraction + 0.3, "everybody was asked"


def test_plans_decide_about_unlike_rows_as_over_arrays(router, table):
    rows = outcomes.read(table, split="dev")
    chats = [
        replace(q, messages=Query.of(CHATS[i % 42]).messages) for i, q in enumerate(rows.queries)
    ]
    half = [
        chat if i % 2 else query
        for i, (chat, query) in enumerate(zip(chats, rows.queries, strict=True))
    ]
    rows = replace(rows, queries=tuple(half))
    score = rows.measures["score"].copy()
    score[::7, 0] = score[3::11, 2] = np.nan  # these were not asked
    rows = replace(rows, measures={**rows.measures, "score": score})
    for point in router.frontier[::6]:
        if point.strategy == "auto":
            swept_as_replayed(router.strategy_at(point), rows, router)


def test_a_router_of_the_prompt_alone_hands_over_unfamiliar_queries_too(table, tmp_path):
    rows = replace(outcomes.read(table, split="train"), answers=None)
    rng = np.random.default_rng(0)
    good = np.array(["lamp" in query.text for query in rows.queries])
    score = np.column_stack([good, ~good, rng.random(len(rows)) < 0.9]).astype(float)
    rows = replace(rows, measures={**rows.measures, "score": score})
    fit(rows, predictor="linear").save(tmp_path / "router")
    router = Router.load(tmp_path / "router")
    points = [point for point in router.frontier if point.strategy == "single"]
    assert points
    point = points[len(points) // 2]
    cost, decisions = spent(router.strategy_at(point), [Query.of(text) for text in CHATS])
    assert {decision.unlike for decision in decisions} == {"query"}
    assert cost <= point.cost_fraction + 0.1
    chats = replace(rows.rows(np.arange(42)), queries=tuple(map(Query.of, CHATS)))
    swept_as_replayed(router.strategy_at(point), chats, router)


def ask(folder, text, upstreams, stream=False, **policy):
    """The headers of one request, the explanation in its body, and the metrics after it."""
    chosen = {"strategy": "auto", "router": str(folder), **policy}

    async def run():
        async with running(*upstreams.values()):
            entries = [upstream.expert(name) for name, upstream in upstreams.items()]
            async with front(config_of(*entries, policies={"default": chosen})) as client:
                reply = await client.chat.completions.with_raw_response.create(
                    model="auto", messages=asked(text), stream=stream
                )
                parsed = reply.parse()
                last = [piece async for piece in parsed][-1] if stream else parsed
                metrics = await client._client.get(str(client.base_url).replace("/v1/", "/metrics"))
                return reply.headers, last.model_dump()["routewright"], metrics.text

    return asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("policy", [{"max_cost_fraction": 0.3}, {"price": 20.0}])
def test_header_log_and_metrics_say_that_the_query_is_unlike(folder, caplog, stream, policy):
    upstreams = {name: Upstream(says="Sun on the meadow") for name in EXPERTS}
    with caplog.at_level(logging.INFO, logger="routewright"):
        headers, explanation, metrics = ask(folder, CHATS[0], upstreams, stream, **policy)
    assert sum(upstream.requests for upstream in upstreams.values()) == 1
    assert headers["x-routewright-unlike"] == "query"
    assert explanation["unlike"] == "query"
    assert "unlike the training rows" in explanation["because"]
    assert 'routewright_unlike_total{policy="default",what="query"} 1.0' in metrics
    lines = [json.loads(r.message) for r in caplog.records if r.message.startswith("{")]
    assert [line["unlike"] for line in lines if line["event"] == "decision"] == ["query"]


def test_a_familiar_question_says_nothing_of_the_kind(folder):
    upstreams = {name: Upstream(says="B") for name in EXPERTS}
    question = exam()["prompt"][1]
    headers, explanation, metrics = ask(folder, question, upstreams, max_cost_fraction=0.3)
    assert "x-routewright-unlike" not in headers
    assert "unlike" not in explanation
    assert "routewright_unlike_total{" not in metrics


# --- topics that were left out --------------------------------------------------------------

WORDS = {
    topic: [f"{topic[:2]}{a}{b}" for a in "bcdfg" for b in ("la", "mo", "ri", "tu")]
    for topic in ("algebra", "botany", "chess", "drama", "ethics", "fishing", "geology", "history")
}


def topics(rows: int = 480, seed: int = 0) -> pl.DataFrame:
    """Eight topics in words of their own; `adder` is better at the first three, `speller` at the
    others, but which it is says nothing about another topic."""
    rng = np.random.default_rng(seed)
    names = list(WORDS)
    topic = [names[i % 8] for i in range(rows)]
    first = np.array([names.index(name) in (0, 3, 5) for name in topic])
    cheap = np.where(first, 0.9, 0.3), np.where(first, 0.3, 0.9)
    columns = {
        "prompt": [" ".join(rng.choice(WORDS[name], 12)) + " ?" for name in topic],
        "domain": topic,
        "split": ["dev" if (i // 8) % 4 == 0 else "train" for i in range(rows)],
    }
    for name, chance, price in zip(
        ("adder", "speller", "sage"),
        (*cheap, np.full(rows, 0.8)),
        (1e-4, 1.2e-4, 1e-3),
        strict=True,
    ):
        columns[f"score::{name}"] = (rng.random(rows) < chance).astype(float)
        columns[f"cost::{name}"] = np.full(rows, price)
    return pl.DataFrame(columns)


def test_a_router_that_pays_only_where_it_has_been_says_so_everywhere(routewright, tmp_path):
    table = write(tmp_path, topics())
    code, printed, error = routewright(
        "fit", table, "--out", tmp_path / "router", "--predictor", "linear", "--strategy", "single"
    )
    assert code == 0, error
    assert "On domains left out of the fit (8 of them)" in " ".join(printed.split())
    left_out = json.loads((tmp_path / "router" / "router.json").read_text())["card"]["left_out"]
    assert left_out["by"] == "domain"
    assert left_out["topics"] == 8
    assert not left_out["pays"]
    assert left_out["gain"] < left_out["gain_where_fitted"] / 2
    code, printed, _ = routewright("evaluate", tmp_path / "router", table, "--json", "-")
    assert code == 0
    (warning,) = [w for w in json.loads(printed)["warnings"] if "left out" in w]
    assert "fixed mix" in warning


def test_other_topics_get_the_fixed_mix_and_lose_nothing(tmp_path):
    known = topics().filter(pl.col("domain").is_in(list(WORDS)[:6]))
    fit(
        outcomes.read(write(tmp_path, known), split="train"), predictor="linear", strategy="single"
    ).save(tmp_path / "router")
    router = Router.load(tmp_path / "router")
    everything = outcomes.read(write(tmp_path, topics()), split="all")
    other = np.isin(everything.domains, list(WORDS)[6:])
    trust = router.predict(everything.queries).trust
    assert np.mean(trust[other] < 0.5) > 0.9
    assert np.mean(trust[~other] < 0.5) < 0.15
    elsewhere = evaluate(router, everything.rows(np.flatnonzero(other)))
    for point, run in zip(elsewhere.points, elsewhere.runs, strict=True):
        assert run.cost.mean() <= point.cost + 0.1 * 1e-3


def test_an_expert_that_is_good_at_some_topics_is_not_steady(tmp_path):
    rows = outcomes.read(write(tmp_path, topics()), split="all")
    assert steady(rows, rows.domains) == ("adder", "sage")


# --- ties at λ = 0 ---------------------------------------------------------------------------


def nearly_equal(rows: int = 400) -> pl.DataFrame:
    """`mid` is as good as `sage` for a quarter of its cost; `tiny` is worse than both."""
    rng = np.random.default_rng(0)
    columns: dict[str, object] = {
        "prompt": [f"What is the meaning of word {i}?" for i in range(rows)],
        "split": ["dev" if i % 4 == 0 else "train" for i in range(rows)],
    }
    ease = rng.random(rows)
    for name, skill, price in (("tiny", 0.4, 1e-5), ("mid", 0.8, 2.5e-4), ("sage", 0.805, 1e-3)):
        columns[f"score::{name}"] = (ease + rng.normal(0, 0.02, rows) < skill).astype(float)
        columns[f"cost::{name}"] = np.full(rows, price)
    return pl.DataFrame(columns)


def test_the_cheapest_expert_within_noise_of_the_best_is_an_option(routewright, tmp_path):
    path, folder = write(tmp_path, nearly_equal()), tmp_path / "router"
    code, _, error = routewright("fit", path, "--out", folder, "--predictor", "prior")
    assert code == 0, error
    router = Router.load(folder)
    assert router.nearest(0.0).plan == "always sage"
    assert router.tied().spec == {"strategy": "fixed", "expert": "mid"}
    code, printed, _ = routewright("evaluate", folder, path, "--split", "dev", "--json", "-")
    tie = json.loads(printed)["tie"]
    assert (tie["expert"], tie["saves"]) == ("mid", pytest.approx(0.75))
    assert tie["difference_ci"][0] <= tie["difference"] <= tie["difference_ci"][1]
    code, printed, _ = routewright("evaluate", folder, path, "--split", "dev")
    assert "serves mid, which saves 75 % of the cost" in " ".join(printed.split())
    upstreams = {name: Upstream() for name in ("tiny", "mid", "sage")}
    text = "What is the meaning of word 3?"
    headers, _, _ = ask(folder, text, upstreams, price=0.0, tie="cheapest")
    assert headers["x-routewright-expert"] == "mid"
    headers, _, _ = ask(folder, text, upstreams, max_cost_fraction=1.0)
    assert headers["x-routewright-expert"] == "sage"


def test_nothing_ties_with_an_expert_that_is_clearly_better(tmp_path):
    rows = outcomes.read(
        write(tmp_path, nearly_equal().drop("score::mid", "cost::mid")), split="all"
    )
    router = fit(rows, predictor="prior")
    assert "tie" not in router.card
    assert router.tied() == router.nearest(0.0)
