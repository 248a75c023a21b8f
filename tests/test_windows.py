"""Subscriptions of so many requests or tokens per window: no wall, no waste."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from openai import APIStatusError

from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit
from routewright.gateway.windows import Windows
from routewright.records.store import Store
from routewright.types import Answer, Expert, Query, Window
from upstream import Upstream, asked, config_of, front, running


def expert(**window):
    return Expert("plan", window=Window(3600.0, **window))


def answers(count, tokens=0):
    return [Answer("plan", input_tokens=tokens) for _ in range(count)]


@pytest.fixture
def clock(monkeypatch):
    """Seconds since 1970, which the test moves."""
    now = [1e9]
    monkeypatch.setattr("routewright.gateway.windows.time.time", lambda: now[0])
    return now


def test_what_is_left_is_dearer_the_faster_it_is_used(clock):
    windows = Windows([expert(requests=100)])
    pressures = [windows.pressure("plan")]
    for _ in range(9):
        windows.count(answers(10))
        pressures.append(windows.pressure("plan"))
    assert pressures == sorted(pressures)
    assert pressures[0] == 0.0
    clock[0] += 3500  # nearly over: 90 of 100 were just right
    assert windows.pressure("plan") == 0.0
    windows.count(answers(10))
    assert windows.pressure("plan") == 1.0
    assert windows.over() == {"plan": pytest.approx(100)}
    clock[0] += 101
    assert (windows.over(), windows.pressure("plan")) == ({}, 0.0)


def test_tokens_count_too(clock):
    windows = Windows([expert(requests=100, tokens=1000)])
    windows.count(answers(1, tokens=999))
    assert not windows.over()
    windows.count(answers(1, tokens=1))
    assert windows.over()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_gateways_count_together(clock, tmp_path, backend, request):
    url = f"sqlite:///{tmp_path}/books.db"
    if backend == "postgresql":
        url = request.getfixturevalue("postgres_url")
    store = Store(url)
    store.prepare()
    one, two = Windows([expert(requests=10)]), Windows([expert(requests=10)])
    one.count(answers(4))
    two.count(answers(3))
    for windows in (one, two, one):
        windows.exchange(store.update_state)
    assert one.used("plan")[0] == two.used("plan")[0] == 0.7
    one.count(answers(3))
    for windows in (one, two):
        windows.exchange(store.update_state)
    assert one.over()
    assert two.over()
    clock[0] += 3601
    assert two.used("plan") == (0.0, 0.0)
    two.count(answers(1))
    for windows in (two, one):
        windows.exchange(store.update_state)
    assert one.used("plan")[0] == 0.1
    store.close()


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    """`plan` costs nothing; only on hard questions it is better than `metered`, too."""
    rng = np.random.default_rng(0)
    hard = np.arange(240) % 2 == 1
    score = np.column_stack([np.ones(240), np.where(hard, 0.1, 0.9)])
    cost = np.array([1e-6, 1e-3]) * rng.uniform(0.9, 1.1, (240, 1))
    texts = [
        f"Prove rigorously theorem {i} on primes." if h else f"What colour is fruit {i} of mine?"
        for i, h in enumerate(hard)
    ]
    queries = tuple(map(Query.of, texts))
    table = Outcomes(("plan", "metered"), queries, {"score": score, "cost": cost})
    folder = tmp_path_factory.mktemp("routers") / "router"
    fit(table, strategy="single", predictor="knn").save(folder)
    return folder


def test_the_last_requests_of_a_window_are_for_the_queries_that_need_them(router):
    plan, metered = Upstream(), Upstream()
    policy = {"strategy": "single", "router": str(router), "price": 300}

    async def steps():
        names = []
        async with running(plan, metered):
            config = config_of(
                plan.expert("plan", window={"requests": 20, "per": "5h"}),
                metered.expert("metered"),
                policies={"default": policy},
                server={"store": "none"},
            )
            async with front(config) as client:
                for i in range(30):
                    hard = i % 2 == 1
                    text = f"Prove rigorously theorem {i} on primes."
                    text = text if hard else f"What colour is fruit {i} of mine?"
                    reply = await client.chat.completions.create(model="auto", messages=asked(text))
                    names.append((hard, reply.model))
        return names

    names = asyncio.run(steps())
    assert names[:4] == [(False, "plan"), (True, "plan")] * 2
    of_easy = [name for hard, name in names if not hard]
    of_hard = [name for hard, name in names if hard]
    assert of_easy.count("plan") < of_hard.count("plan")
    assert plan.requests <= 20


def test_a_used_window_is_a_429_only_if_nobody_else_may_answer():
    plan, other = Upstream(), Upstream()

    async def steps():
        async with running(plan, other):
            config = config_of(
                plan.expert("plan", window={"requests": 2, "per": "30m"}),
                other.expert("other"),
                policies={
                    "default": {
                        "strategy": "fixed",
                        "options": {"expert": "plan"},
                        "fallback": ["other"],
                    }
                },
                server={"store": "none"},
            )
            async with front(config) as client:
                names = [
                    (await client.chat.completions.create(model="auto", messages=asked())).model
                    for _ in range(4)
                ]
                with pytest.raises(APIStatusError) as direct:
                    await client.chat.completions.create(model="plan", messages=asked())
            alone = config_of(
                plan.expert("plan", window={"requests": 1, "per": "30m"}),
                server={"store": "none"},
            )
            async with front(alone) as client:
                await client.chat.completions.create(model="auto", messages=asked())
                with pytest.raises(APIStatusError) as nobody:
                    await client.chat.completions.create(model="auto", messages=asked())
            return names, direct.value, nobody.value

    names, direct, nobody = asyncio.run(steps())
    assert names == ["plan", "plan", "other", "other"]
    assert direct.status_code == 422
    assert (nobody.status_code, nobody.code) == (429, "window_used_up")
    assert 0 < int(nobody.response.headers["retry-after"]) <= 1800
