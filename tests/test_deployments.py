"""Several endpoints of one expert, its limits on asks in progress, and rate limits of upstreams."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import openai
import pytest
from aiohttp import web

from routewright.errors import Busy
from routewright.experts.client import Client
from routewright.gateway.breaker import FAILURES
from routewright.types import Ask, Query
from upstream import (
    Upstream,
    asked,
    config_of,
    drop,
    expert,
    front,
    once_all,
    running,
    status,
    until,
)

QUICK = {"routewright": {"max_latency_ms": 400}}
PRICES = {"input_per_mtok": 1.0, "output_per_mtok": 2.0}
FALLBACK = {"default": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]}}


def entry(*upstreams: Upstream, **traits: Any) -> dict[str, Any]:
    """The config entry of one expert with a deployment at each upstream."""
    own = traits.pop("own", [{}] * len(upstreams))
    places = [{"base_url": one.url, **more} for one, more in zip(upstreams, own, strict=True)]
    return {"name": "small", "deployments": places, "api_key": "none", **PRICES, **traits}


def held(gate: asyncio.Event) -> Any:
    """Answers once the gate is open."""

    async def fault(upstream: Upstream, request: web.Request, body: Any) -> web.StreamResponse:
        await gate.wait()
        return await upstream.answer(request, body)

    return fault


def ask_times(count: int, *upstreams: Upstream, **traits: Any) -> list[Any]:
    """The replies, or errors, of requests that follow one another."""

    async def work() -> list[Any]:
        async with running(*upstreams), front(config_of(entry(*upstreams, **traits))) as client:
            replies: list[Any] = []
            for _ in range(count):
                try:
                    replies.append(await chat(client))
                except openai.APIStatusError as error:
                    replies.append(error)
            return replies

    return asyncio.run(work())


async def chat(client: Any, **more: Any) -> Any:
    return await client.chat.completions.create(model="auto", messages=asked(), **more)


# --- which deployment is asked ---------------------------------------------------------------


def test_deployments_share_the_requests_by_weight_and_are_one_expert() -> None:
    heavy, light = Upstream(), Upstream()
    replies = ask_times(9, heavy, light, own=[{"weight": 2}, {"weight": 1}])
    assert (heavy.requests, light.requests) == (6, 3)
    assert {reply.model for reply in replies} == {"small"}


def test_the_least_busy_deployment_is_asked() -> None:
    busy, idle = Upstream(), Upstream()

    async def work() -> None:
        gate = asyncio.Event()
        busy.faults = [held(gate)]
        async with running(busy, idle), front(config_of(entry(busy, idle))) as client:
            first = asyncio.create_task(chat(client))
            await until(lambda: busy.requests)
            for _ in range(3):
                await chat(client)
            gate.set()
            await first

    asyncio.run(work())
    assert (busy.requests, idle.requests) == (1, 3)


def test_each_deployment_has_its_own_key_and_headers() -> None:
    one, other = Upstream(), Upstream()
    own = [{"api_key": "key-of-one"}, {"headers": {"x-team": "b"}}]
    ask_times(2, one, other, own=own, headers={"x-all": "1"})
    (first,), (second,) = one.headers, other.headers
    assert first["Authorization"] == "Bearer key-of-one"
    assert second["Authorization"] == "Bearer none"
    assert (first["x-all"], second["x-all"], second["x-team"]) == ("1", "1", "b")
    assert "x-team" not in first


# --- failover --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [status(500), status(429), status(401), status(404), drop], ids=lambda f: "fault"
)
@pytest.mark.parametrize("stream", [False, True])
def test_another_deployment_answers_for_one_that_fails(fault: Any, stream: bool) -> None:
    broken, sound = Upstream(faults=[fault] * 9), Upstream(says="sound")

    async def work() -> str:
        async with (
            running(broken, sound),
            front(config_of(entry(broken, sound, retries=0))) as client,
        ):
            reply = await chat(client, stream=stream)
            if not stream:
                return str(reply.choices[0].message.content)
            texts = [c.choices[0].delta.content or "" async for c in reply if c.choices]
            return "".join(texts)

    assert asyncio.run(work()) == "sound"
    assert (broken.requests, sound.requests) == (1, 1)


def test_a_deployment_that_fails_is_left_alone_for_a_while() -> None:
    broken, sound = Upstream(faults=[status(500)]), Upstream()
    ask_times(5, broken, sound)
    assert (broken.requests, sound.requests) == (1, 5)


def test_when_all_deployments_have_failed_they_are_still_asked() -> None:
    one, other = Upstream(faults=[status(500)] * 2), Upstream(faults=[status(503)] * 2)
    replies = ask_times(3, one, other, retries=0)
    assert [type(reply) for reply in replies[:2]] == [openai.InternalServerError] * 2
    assert replies[2].choices[0].message.content == "hello there"
    assert one.requests + other.requests == 5


def test_a_single_deployment_that_failed_is_asked_again() -> None:
    only = Upstream(faults=[status(500)])
    failed, answered = ask_times(2, only, retries=0)
    assert (failed.status_code, answered.model) == (502, "small")


def test_a_request_that_is_refused_for_itself_goes_to_nobody_else() -> None:
    one, other = Upstream(faults=[status(400)]), Upstream(faults=[status(400)])
    (reply,) = ask_times(1, one, other)
    assert reply.status_code == 400
    assert one.requests + other.requests == 1


def test_the_failure_of_all_tells_when_the_first_of_them_is_free() -> None:
    one = Upstream(faults=[status(429, Retry_After="40")])
    other = Upstream(faults=[status(429, Retry_After="20")])
    (reply,) = ask_times(1, one, other)
    assert (reply.status_code, reply.response.headers["retry-after"]) == (429, "20")


def test_a_key_that_one_deployment_refuses_does_not_hide_that_the_other_is_busy() -> None:
    busy, refuses = Upstream(faults=[status(429, Retry_After="20")]), Upstream(faults=[status(401)])
    (reply,) = ask_times(1, busy, refuses)
    assert reply.status_code == 429


def test_failed_tries_at_deployments_are_paid() -> None:
    cut = Upstream(faults=[drop], says="four words are here")
    sound = Upstream(says="yes")

    async def work() -> Any:
        async with running(cut, sound):
            noun = expert(entry(cut, sound))
            async with Client([noun]) as client:
                return await client.ask(Ask("small"), Query.of("What is two and two?"))

    answer = asyncio.run(work())
    assert answer.estimated
    assert answer.cost > 7e-6  # of the answer alone: five tokens, and one at double the price


def test_no_key_and_no_address_of_a_deployment_reaches_clients_or_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def tells(upstream: Upstream, key: str) -> Any:
        return status(500, f"the key {key} of {upstream.url} is odd, ask node-7.example.com")

    one, other = Upstream(), Upstream()

    async def work() -> Any:
        async with running(one, other):
            one.faults = [tells(other, "secret-two")] * 9
            other.faults = [tells(one, "secret-one")] * 9
            own = [{"api_key": "secret-one"}, {"headers": {"x-sig": "secret-two"}}]
            async with front(config_of(entry(one, other, own=own, retries=0))) as client:
                with pytest.raises(openai.APIStatusError) as raised:
                    await chat(client)
                return raised.value.response.text

    text = asyncio.run(work())
    assert "is odd" in text
    for secret in ("secret-one", "secret-two", one.url, other.url):
        assert secret not in text + caplog.text
    assert "deployment '1' failed (HTTP 500)" in caplog.text


# --- limits of a deployment ------------------------------------------------------------------


def test_each_deployment_has_its_own_rate_limits() -> None:
    one, other = Upstream(), Upstream()
    replies = ask_times(4, one, other, own=[{"rpm": 1}, {"rpm": 2}])
    assert (one.requests, other.requests) == (1, 2)
    refused = replies[3]
    assert (refused.status_code, "rate limit" in refused.message) == (429, True)
    assert 50 <= int(refused.response.headers["retry-after"]) <= 60


def test_tokens_per_minute_count_what_was_written() -> None:
    talks = Upstream(says="a b c d e f g h")
    other = Upstream()
    ask_times(3, talks, other, own=[{"tpm": 12, "weight": 9}, {}])
    assert (talks.requests, other.requests) == (1, 2)  # 5 tokens and 8 are more than 12 already


def test_a_deployment_has_its_own_limit_on_requests_in_progress() -> None:
    narrow, wide = Upstream(), Upstream()
    together = once_all(3)
    narrow.faults, wide.faults = [together], [together] * 2

    async def work() -> None:
        own = [{"max_concurrency": 1, "weight": 9}, {}]
        async with (
            running(narrow, wide),
            front(config_of(entry(narrow, wide, own=own))) as client,
        ):
            await asyncio.gather(*(chat(client) for _ in range(3)))

    asyncio.run(work())
    assert (narrow.requests, wide.requests) == (1, 2)


# --- max_concurrency of an expert ------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_requests_beyond_max_concurrency_wait_their_turn(stream: bool) -> None:
    small = Upstream()

    async def work() -> None:
        gate = asyncio.Event()
        small.faults = [held(gate)]
        async with running(small):
            config = config_of(small.expert("small", max_concurrency=1))
            async with front(config) as client:

                async def whole() -> None:
                    reply = await chat(client, stream=stream)
                    if stream:
                        assert [chunk async for chunk in reply]

                tasks = [asyncio.create_task(whole()) for _ in range(3)]
                await until(lambda: small.requests)
                await asyncio.sleep(0.1)
                assert small.requests == 1
                gate.set()
                await asyncio.gather(*tasks)

    asyncio.run(work())
    assert small.finished == 3


def test_a_request_that_cannot_wait_goes_to_the_fallback() -> None:
    small, large = Upstream(), Upstream(says="large")

    async def work() -> list[str]:
        gate = asyncio.Event()
        small.faults = [held(gate)]
        async with running(small, large):
            experts = small.expert("small", max_concurrency=1), large.expert("large")
            async with front(config_of(*experts, policies=FALLBACK)) as client:
                first = asyncio.create_task(chat(client))
                await until(lambda: small.requests)
                models = [(await chat(client, extra_body=QUICK)).model]
                gate.set()
                return [*models, (await first).model, (await chat(client)).model]

    assert asyncio.run(work()) == ["large", "small", "small"]


def test_a_busy_expert_has_not_failed_and_the_client_is_told_to_come_back() -> None:
    small = Upstream()

    async def work() -> list[Any]:
        gate = asyncio.Event()
        small.faults = [held(gate)]
        errors = []
        async with running(small):
            config = config_of(small.expert("small", max_concurrency=1))
            async with front(config) as client:
                first = asyncio.create_task(chat(client))
                await until(lambda: small.requests)
                for _ in range(FAILURES + 1):  # so many failures would have it skipped
                    with pytest.raises(openai.RateLimitError) as raised:
                        await chat(client, extra_body=QUICK)
                    errors.append(raised.value)
                gate.set()
                await first
                return errors

    for error in asyncio.run(work()):
        assert error.response.headers["retry-after"] == "1"
        assert "max_concurrency" in error.message


def test_a_client_that_leaves_gives_its_turn_back() -> None:
    small = Upstream()

    async def work() -> str:
        gate = asyncio.Event()
        small.faults = [held(gate)] * 2
        async with (
            running(small),
            front(config_of(small.expert("small", max_concurrency=1))) as client,
        ):
            tasks = [asyncio.create_task(chat(client)) for _ in range(2)]
            await until(lambda: small.requests)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            small.faults.clear()
            return str((await chat(client)).model)

    assert asyncio.run(work()) == "small"


# --- rate limits that replies tell -----------------------------------------------------------


def telling(**headers: str) -> Any:
    """A proper answer that says how much of a rate limit remains."""

    async def fault(upstream: Upstream, request: web.Request, body: Any) -> web.StreamResponse:
        reply = await upstream.answer(request, body)
        reply.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return reply

    return fault


USED_UP = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "6m0s"}


def test_a_deployment_whose_rate_limit_is_used_up_is_left_alone() -> None:
    one, other = Upstream(faults=[telling(**USED_UP)]), Upstream()
    ask_times(4, one, other)
    assert (one.requests, other.requests) == (1, 3)


@pytest.mark.parametrize(
    "limit",
    [
        USED_UP,
        {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "59.5s"},
        {
            "anthropic_ratelimit_requests_remaining": "0",
            "anthropic_ratelimit_requests_reset": "2999-01-27T00:00:00Z",
        },
    ],
    ids=["requests", "tokens", "anthropic"],
)
def test_an_expert_whose_rate_limit_is_used_up_is_not_asked(limit: dict[str, str]) -> None:
    small, large = Upstream(faults=[telling(**limit)]), Upstream()

    async def work() -> list[str]:
        async with running(small, large):
            config = config_of(small.expert("small"), large.expert("large"), policies=FALLBACK)
            async with front(config) as client:
                return [(await chat(client)).model for _ in range(7)]

    assert asyncio.run(work()) == ["small"] + ["large"] * 6


def test_a_short_wait_for_a_rate_limit_is_waited_for() -> None:
    limit = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "120ms"}
    small = Upstream(faults=[telling(**limit)])
    assert [reply.model for reply in ask_times(2, small)] == ["small", "small"]


def test_what_remains_is_used() -> None:
    limit = {"x_ratelimit_remaining_requests": "1", "x_ratelimit_reset_requests": "6m0s"}
    small = Upstream(faults=[telling(**limit)])
    ask_times(2, small)
    assert small.requests == 2


def test_retry_after_ms_is_obeyed_before_retry_after() -> None:
    small = Upstream(faults=[status(429, Retry_After_Ms="50", Retry_After="3000")])
    (reply,) = ask_times(1, small)
    assert (reply.model, small.requests) == ("small", 2)


# --- reloading -------------------------------------------------------------------------------


def test_what_is_in_progress_counts_across_a_reload() -> None:
    small = Upstream()

    async def work() -> None:
        gate = asyncio.Event()
        small.faults = [held(gate)]
        async with running(small):
            noun = expert(small.expert("small", max_concurrency=1))
            async with Client([noun]) as old, Client([noun], predecessors=[old]) as new:
                first = asyncio.create_task(old.ask(Ask("small"), Query.of("one")))
                await until(lambda: small.requests)
                with pytest.raises(Busy):
                    await new.ask(Ask("small", max_latency=0.1), Query.of("two"))
                gate.set()
                await first
                await new.ask(Ask("small", max_latency=60), Query.of("three"))

    asyncio.run(work())
