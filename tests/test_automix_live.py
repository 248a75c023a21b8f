"""AutoMix over HTTP: k verifications per answer, committees, and the same plan replayed."""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import replace

import pytest

from routewright.data import outcomes
from routewright.drive import decide, replay
from routewright.errors import UpstreamError
from routewright.experts.client import Client
from routewright.fitting import automix
from routewright.fitting.automix import Cascade
from routewright.strategies.automix import Automix
from routewright.types import Answer, Ask, Expert, Query
from tables import write
from test_automix import PRICES, table
from test_client import ask
from upstream import Upstream, asked, config_of, expert, front, running, status

QUESTION = Query.of("Which is a vowel?\n(A) a\n(B) b")
VERIFY = Ask("small", "verify", of=Answer("small", "(A)"), samples=8)


def saying(*texts: str):
    """An upstream's texts, in turn."""
    turn = itertools.cycle(texts)
    return lambda body: next(turn)


def test_k_verdicts_come_in_one_request_where_the_endpoint_can():
    upstream = Upstream(says=saying("correct", "correct", "incorrect", "hm"), many=True)
    check = ask(upstream, QUESTION, VERIFY)
    assert upstream.requests == 1
    assert (upstream.bodies[0]["n"], upstream.bodies[0]["temperature"]) == (8, 1.0)
    assert check.confidence == pytest.approx(4 / 6), "two of eight could not be read"
    assert check.choices.count("hm") == 2
    assert check.output_tokens == 8


def test_what_one_request_did_not_bring_is_asked_side_by_side():
    upstream = Upstream(says=saying("correct", "incorrect"))
    check = ask(upstream, QUESTION, VERIFY)
    assert upstream.requests == 8
    assert check.confidence == 0.5
    assert check.output_tokens == 8
    assert [body.get("seed") for body in upstream.bodies[1:]].count(None) == 0
    assert len({body.get("seed") for body in upstream.bodies}) == 8


def test_an_endpoint_that_refuses_several_choices_is_asked_one_by_one_from_then_on():
    upstream = Upstream(says="correct", faults=[status(400, "n must be 1")])

    async def run():
        async with running(upstream), Client([expert(upstream.expert("small"))]) as client:
            return [await client.ask(VERIFY, QUESTION) for _ in range(2)]

    first, second = asyncio.run(run())
    assert first.confidence == second.confidence == 1.0
    assert upstream.requests == 1 + 8 + 8
    assert sum("n" in body for body in upstream.bodies) == 1


def test_verdicts_that_nobody_can_read_are_told_to_the_user(caplog):
    with caplog.at_level(logging.WARNING):
        check = ask(Upstream(says="perhaps", many=True), QUESTION, VERIFY)
    assert check.confidence is None
    assert "none of 8 verifications could be read" in caplog.text
    assert "perhaps" not in caplog.text, "what experts say may repeat the query"


def test_some_failed_verdicts_are_lived_with_and_all_failed_are_an_error():
    upstream = Upstream(says="correct", faults=[status(400), *[status(403)] * 3])
    assert ask(upstream, QUESTION, VERIFY).confidence == 1.0
    dead = Upstream(faults=[status(400), *[status(403)] * 8])
    with pytest.raises(UpstreamError, match="small"):
        ask(dead, QUESTION, VERIFY)


def test_every_verdict_is_paid_for_and_the_money_for_all_of_them_is_kept_in_bounds():
    upstream = Upstream(says="correct", many=True)
    check = ask(upstream, QUESTION, VERIFY)
    sent = check.input_tokens
    assert check.cost == pytest.approx((sent * 1.0 + 8 * 2.0) / 1e6)
    ask(upstream, QUESTION, replace(VERIFY, max_cost=0.01))
    assert upstream.bodies[-1]["max_tokens"] == 64
    ask(upstream, QUESTION, replace(VERIFY, max_cost=0.0018))
    assert upstream.bodies[-1]["max_tokens"] * 8 * 2.0 / 1e6 < 0.0018


def recorded(decision) -> dict:
    """What a live decision paid for, as a record to replay."""
    return {
        answer.expert if answer.kind == "answer" else (answer.expert, answer.kind): answer
        for answer in decision.spent
    }


async def decided(strategy, upstreams):
    async with running(*upstreams.values()):
        experts = [expert(up.expert(name)) for name, up in upstreams.items()]
        async with Client(experts) as client:
            return await decide(strategy, QUESTION, experts, client)


@pytest.mark.parametrize("verdict", ["correct", "incorrect", "who knows"])
def test_a_live_decision_is_the_replayed_one(verdict):
    def small(body):
        return verdict if "Verdict:" in body["messages"][0]["content"] else "(B)"

    upstreams = {"small": Upstream(says=small, many=True), "large": Upstream(says="(A)")}
    strategy = Automix(("small", "large"), samples=3)

    live = asyncio.run(decided(strategy, upstreams))
    both = [Expert("small"), Expert("large")]
    again = replay(strategy, QUESTION, recorded(live), both)
    assert (live.path, live.because, live.cost) == (again.path, again.because, again.cost)
    assert live.answer.expert == ("small" if verdict == "correct" else "large")


@pytest.mark.parametrize("logprob", [-0.1, -2.0, None])
def test_a_live_decision_by_log_probability_is_the_replayed_one(logprob):
    upstreams = {"small": Upstream(says="It is (B)", logprob=logprob), "large": Upstream(says="A")}
    strategy = Automix(("small", "large"), verifier="logprob")
    live = asyncio.run(decided(strategy, upstreams))
    again = replay(strategy, QUESTION, recorded(live), [Expert("small"), Expert("large")])
    assert (live.path, live.because, live.cost) == (again.path, again.because, again.cost)
    assert live.path == ("small" if logprob == -0.1 else "small>large")
    assert [body["logprobs"] for body in upstreams["small"].bodies] == [True]
    assert not any("logprobs" in body for body in upstreams["large"].bodies)


def test_a_fitted_committee_is_asked_side_by_side_and_the_answer_streams_when_it_is_final(tmp_path):
    rows = outcomes.read(write(tmp_path, table()), split="train")
    router = automix.fit(rows, Cascade(("small", "large"), ("x", "y", "z")), prices=PRICES)
    router.save(tmp_path / "router")
    says = {"small": "(B)", "x": "(A)", "y": "(C)", "z": "(D)", "large": "It is (A)"}
    upstreams = {name: Upstream(says=text, delay=0.05) for name, text in says.items()}

    async def run():
        async with running(*upstreams.values()):
            config = config_of(
                *(up.expert(name) for name, up in upstreams.items()),
                policies={
                    "default": {
                        "strategy": "single",
                        "router": str(tmp_path / "router"),
                        "max_cost_fraction": 0.7,
                    }
                },
            )
            async with front(config) as client:
                reply = await client.chat.completions.with_raw_response.create(
                    model="auto", messages=asked("Which?\n(A) a\n(B) b\n(C) c\n(D) d")
                )
                return reply.headers["x-routewright-path"], reply.parse()

    path, completion = asyncio.run(run())
    assert path == "small>x>y>z>large", "nobody agrees with small"
    assert completion.choices[0].message.content == "It is (A)"
    assert completion.model == "large"
