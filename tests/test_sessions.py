"""Conversations: who goes on in them, what a switch costs, and how secret they stay."""

from __future__ import annotations

import asyncio
import itertools
import json

import numpy as np
import pytest
from openai import APIStatusError

from routewright import turns
from routewright.data.outcomes import Outcomes
from routewright.experts.histories import readable
from routewright.fitting.fit import fit
from routewright.types import Conversation, Query
from upstream import Upstream, asked, config_of, front, running, status

EASY = "What colour is fruit number {} in my basket?"
HARD = "Prove rigorously and at full length theorem {} on primes."
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    """Small is right on easy questions only; large always is."""
    rng = np.random.default_rng(0)
    hard = np.arange(240) % 2 == 1
    score = np.column_stack([np.where(hard, 0.0, 1.0), np.ones(240)])
    cost = np.array([1e-4, 1e-3]) * rng.uniform(0.9, 1.1, (240, 1))
    texts = [(HARD if h else EASY).format(i) for i, h in enumerate(hard)]
    table = Outcomes(
        ("small", "large"), tuple(map(Query.of, texts)), {"score": score, "cost": cost}
    )
    folder = tmp_path_factory.mktemp("routers") / "router"
    fit(table, strategy="single", predictor="knn").save(folder)
    return folder


class Caller(Upstream):
    """An expert that asks for a tool while it gets tools, with an id that nobody else makes."""

    ids = itertools.count()
    calls = True

    async def answer(self, request, body):
        call = {"name": "look", "arguments": "{}"}
        calls = [{"id": f"call-{next(self.ids)}", "type": "function", "function": call}]
        self.message = None
        if body.get("tools") and self.calls:
            self.message = {"role": "assistant", "content": None, "tool_calls": calls}
        return await super().answer(request, body)


def two(router, small, large, **policy):
    policy = {"strategy": "single", "router": str(router), "price": 100, **policy}
    prices = {"input_per_mtok": 2.0, "cached_input_per_mtok": 0.2}
    return {
        "experts": (
            small.expert("small", input_per_mtok=1.8, cached_input_per_mtok=0.18),
            large.expert("large", **prices),
        ),
        "policies": {"default": policy},
    }


def setup(router, small, large, *, store="none", policy=None, **server):
    parts = two(router, small, large, **(policy or {}))
    return config_of(
        *parts["experts"], policies=parts["policies"], server={"store": store, **server}
    )


async def turn(client, history, text=None, **options):
    """Adds a user's turn, or the results of tools, and what is answered; returns the headers."""
    last = history[-1] if history else {}
    for call in last.get("tool_calls") or ():
        history.append({"role": "tool", "tool_call_id": call["id"], "content": "blue"})
    if text is not None:
        history.append({"role": "user", "content": text})
    raw = await client.chat.completions.with_raw_response.create(
        model="auto", messages=history, **options
    )
    message = raw.parse().choices[0].message
    history.append(message.model_dump(exclude_none=True))
    return raw.headers


def run(steps, *upstreams):
    async def all_steps():
        async with running(*upstreams):
            return await steps()

    return asyncio.run(all_steps())


# --- who goes on ---------------------------------------------------------------------------


@pytest.mark.parametrize(("sticky", "switches"), [("session", 0), ("none", 8)])
def test_a_tool_loop_never_changes_its_expert(router, sticky, switches):
    """Every result of a tool comes with a turn of the user that the other expert would get."""
    small, large = Caller(), Caller()

    async def steps():
        config = setup(router, small, large, policy={"sticky": sticky})
        async with front(config) as client:
            history = []
            await turn(client, history, EASY.format(0), tools=TOOLS)
            experts = []
            for i in range(1, 9):
                text = (HARD if i % 2 else EASY).format(i)
                headers = await turn(client, history, text, tools=TOOLS)
                experts.append(headers["x-routewright-expert"])
            return experts

    experts = run(steps, small, large)
    changes = sum(a != b for a, b in itertools.pairwise(["small", *experts]))
    assert changes == switches, experts


def test_the_loop_ends_with_the_expert_s_own_answer(router):
    small, large = Caller(), Caller()

    async def steps():
        async with front(setup(router, small, large)) as client:
            history = []
            first = await turn(client, history, EASY.format(1), tools=TOOLS)
            small.calls = False
            await turn(client, history, tools=TOOLS)
            after = await turn(client, history, HARD.format(2), tools=TOOLS)
            return first["x-routewright-expert"], after["x-routewright-expert"]

    assert run(steps, small, large) == ("small", "large")


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_loop_goes_on_at_another_gateway(router, tmp_path, backend, request):
    url = f"sqlite:///{tmp_path}/books.db"
    if backend == "postgresql":
        url = request.getfixturevalue("postgres_url")
    small, large = Caller(), Caller()

    async def steps():
        history = []
        async with front(setup(router, small, large, store=url)) as client:
            await turn(client, history, EASY.format(1), tools=TOOLS)
        async with front(setup(router, small, large, store=url)) as client:
            headers = await turn(client, history, HARD.format(1), tools=TOOLS)
        async with front(setup(router, small, large, store="none")) as client:
            forgotten = await turn(client, history[:-1], HARD.format(2), tools=TOOLS)
        return headers["x-routewright-expert"], forgotten["x-routewright-expert"]

    assert run(steps, small, large) == ("small", "large")


def test_a_fallback_that_asked_for_tools_gets_their_results(router):
    small, large = Caller(), Caller()

    async def steps():
        config = setup(router, small, large, policy={"fallback": ["large"]})
        async with front(config) as client:
            history = []
            small.faults = [status(401)]
            first = await turn(client, history, EASY.format(1), tools=TOOLS)
            second = await turn(client, history, tools=TOOLS)
            return first["x-routewright-expert"], second["x-routewright-expert"]

    assert run(steps, small, large) == ("large", "large")


def test_always_keeps_the_expert_of_a_session(router):
    small, large = Upstream(), Upstream()

    async def steps():
        config = setup(router, small, large, policy={"sticky": "always"})
        async with front(config) as client:
            history = []
            return [
                (await turn(client, history, text.format(i)))["x-routewright-expert"]
                for i, text in enumerate((EASY, HARD, HARD))
            ]

    assert run(steps, small, large) == ["small"] * 3


def test_a_mix_draws_once_for_a_conversation():
    a, b = Upstream(), Upstream()
    parts = [{"strategy": "fixed", "expert": name} for name in "ab"]
    options = {"first": parts[0], "second": parts[1], "share": 0.5}

    async def steps():
        config = config_of(
            a.expert("a"),
            b.expert("b"),
            policies={"default": {"strategy": "mix", "options": options}},
            server={"store": "none"},
        )
        async with front(config) as client:
            drawn = []
            for i in range(12):
                history = []
                names = {
                    (await turn(client, history, f"{word} {i}"))["x-routewright-expert"]
                    for word in ("Begin", "Go on", "End")
                }
                drawn.append(names)
            return drawn

    drawn = run(steps, a, b)
    assert all(len(names) == 1 for names in drawn)
    assert {"a"} in drawn
    assert {"b"} in drawn


# --- what a switch costs -------------------------------------------------------------------

LONG = "Here is a file. " * 2000


class Caching(Upstream):
    """An expert that says how much of its input it had cached: all but the last message."""

    caches = True

    def count(self, body, text):
        usage = super().count(body, text)
        sent = sum(len(str(m.get("content"))) // 4 for m in body["messages"])
        kept = sum(len(str(m.get("content"))) // 4 for m in body["messages"][:-1])
        cached = {"cached_tokens": kept if self.caches else 0}
        return {**usage, "prompt_tokens": sent, "prompt_tokens_details": cached}


@pytest.mark.parametrize(
    ("sticky", "cached", "experts"),
    [
        ("session", True, ["large", "large", "large"]),  # its cache is cheaper than small's price
        ("session", False, ["large", "large", "small"]),  # the second answer told that it has none
        ("none", True, ["large", "small", "small"]),
    ],
)
def test_what_a_cache_saves_counts_against_a_switch(router, sticky, cached, experts):
    small, large = Caching(), Caching()
    large.caches = cached

    async def steps():
        config = setup(router, small, large, policy={"sticky": sticky})
        async with front(config) as client:
            history = [{"role": "system", "content": LONG}]
            return [
                (await turn(client, history, text))["x-routewright-expert"]
                for text in (HARD.format(1), EASY.format(2), EASY.format(3))
            ]

    assert run(steps, small, large) == experts


def test_a_better_answer_is_worth_a_switch(router):
    small, large = Caching(), Caching()

    async def steps():
        async with front(setup(router, small, large)) as client:
            history = [{"role": "system", "content": LONG[:6000]}]
            texts = EASY.format(1), HARD.format(2)
            return [(await turn(client, history, t))["x-routewright-expert"] for t in texts]

    assert run(steps, small, large) == ["small", "large"]


# --- what only the maker can read ----------------------------------------------------------


def test_thoughts_go_back_to_their_maker_and_to_nobody_else(router):
    thought = {"reasoning_content": "It is blue.", "reasoning_details": [{"signature": "s"}]}
    small = Upstream(message={"role": "assistant", "content": "blue", **thought})
    large = Upstream(message={"role": "assistant", "content": "proven"})

    async def steps():
        async with front(setup(router, small, large)) as client:
            history = []
            for text in (EASY.format(1), EASY.format(2), HARD.format(3)):
                await turn(client, history, text)

    run(steps, small, large)
    sent = small.bodies[1]["messages"][1]
    assert {name: sent.get(name) for name in thought} == thought
    assert [m for m in large.bodies[0]["messages"] if m["role"] == "assistant"] == [
        {"role": "assistant", "content": "blue"}
    ] * 2


def test_an_expert_reads_its_own_thoughts_after_those_of_another():
    history = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "a", "reasoning": "by small"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "by large"}]},
    ]
    read = readable(history, "large", Conversation("c", "large", others=1))
    assert read == [history[0], {"role": "assistant", "content": "a"}, history[2]]
    read = readable(history, "small", Conversation("c", "large", others=1))
    assert "by large" not in json.dumps(read)
    assert read[2]["content"], "a message without content would be refused"
    assert readable(history, "small", None) == history


# --- how secret ----------------------------------------------------------------------------


def secret(upstream):
    return config_of(upstream.expert("cloud"), server={"store": "none"})


@pytest.mark.parametrize(
    "named",
    [
        {"extra_headers": {"x-session-id": "abc"}},
        {"extra_headers": {"x-claude-code-session-id": "abc"}},
        {"extra_headers": {"x-routewright-session": "abc"}},
        {"extra_body": {"prompt_cache_key": "abc"}},
        {"extra_body": {"metadata": {"user_id": "user_1_session_abc"}}},
        {},
    ],
)
def test_a_restricted_text_makes_all_that_follows_restricted(named):
    """Even after a refusal: the client sends the text again with its next turn."""
    cloud = Upstream()
    body = named.get("extra_body", {})
    restricted = {**body, "routewright": {"data_class": "restricted"}}

    async def steps():
        async with front(secret(cloud)) as client:
            history = asked("my diagnosis")
            with pytest.raises(APIStatusError, match="restricted"):
                await client.chat.completions.create(
                    model="auto", messages=history, **{**named, "extra_body": restricted}
                )
            history += [{"role": "assistant", "content": "Hm."}, *asked("And now?")]
            with pytest.raises(APIStatusError, match="restricted") as caught:
                await client.chat.completions.create(model="auto", messages=history, **named)
            other = await client.chat.completions.create(model="auto", messages=asked("2 + 2?"))
            return caught.value.status_code, other.model

    assert run(steps, cloud) == (422, "cloud")
    assert cloud.requests == 1


# --- what decides --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "read"),
    [
        ([("user", "Write a parser for dates, please, in Rust.")], 1),
        ([("user", "Write a parser."), ("assistant", "Done."), ("user", "Go on.")], 2),
        ([("user", "a" * 50), ("assistant", "Done."), ("user", "b" * 50)], 1),
        ([("user", f"turn {i}") for i in range(9)], turns.MOST_TURNS),
    ],
)
def test_a_short_turn_is_read_with_those_before_it(messages, read):
    query = Query(tuple({"role": role, "content": text} for role, text in messages))
    said = [text for role, text in messages if role == "user"]
    assert query.turns == tuple(said[-read:])
    assert query.excerpt == "\n".join(said[-read:])


WRAPPED = [
    "<system-reminder>\nThe plan is empty.\n</system-reminder>\n{}",
    "{}\n<environment_details>\n# Open Tabs\na.py\n</environment_details>",
    "<task>{}</task>",
    "<system-reminder>a</system-reminder><user_query>{}</user_query><git_status>M</git_status>",
]


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_agents_wrap_around_a_prompt_does_not_decide(router, wrapper):
    small, large = Upstream(), Upstream()
    plain = HARD.format(7)

    async def steps():
        async with front(setup(router, small, large)) as client:
            both = [await turn(client, [], text) for text in (plain, wrapper.format(plain))]
            return {headers["x-routewright-expert"] for headers in both}

    assert Query.of(wrapper.format(plain)).excerpt == plain
    assert run(steps, small, large) == {"large"}
    assert large.bodies[1]["messages"][0]["content"] == wrapper.format(plain), (
        "it was sent as it is"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("if a < b and c > d: pass", "<task>unclosed", "</system-reminder> alone", "<p>HTML</p>"),
        *("<system-reminder> never ends", "<context>My essay.</context> Grade it."),
    ],
)
def test_a_text_that_no_agent_wrote_stays_as_it_is(text):
    assert turns.plain(text).replace("<task>", "") == text.replace("<task>", "")
