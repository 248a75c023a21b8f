"""What clients of the gateway see when experts fail."""

import asyncio
import json
import logging
from types import SimpleNamespace

import openai
import pytest

import faults
from test_gateway import create, pieces, raw, served
from upstream import (
    Upstream,
    asked,
    break_off,
    config_of,
    drop,
    front,
    hang,
    running,
    stall,
    status,
    until,
)

BACKED = {
    "default": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large", "third"]}
}
ONE_TRY = ({"retries": 0},)
HASTY = ({"retries": 0, "timeout": 0.5},)


@pytest.mark.parametrize("how", [create, pieces])
@pytest.mark.parametrize("fault", [status(500), status(429), drop])
def test_a_failure_before_the_first_byte_is_retried(how, fault):
    upstream = Upstream(faults=[fault])
    served(how(), upstream)
    assert upstream.requests == 2


@pytest.mark.parametrize("how", [create, pieces])
@pytest.mark.parametrize("fault", [status(500), status(401), drop, hang])
def test_an_expert_that_stays_down_is_replaced(how, fault):
    broken, healthy = Upstream(faults=[fault]), Upstream(says="from large")
    said = served(
        how(), broken, healthy, traits=HASTY if fault is hang else ONE_TRY, policies=BACKED
    )
    assert (said[0] if isinstance(said, list) else said).model == "large"
    assert (broken.requests, healthy.requests) == (1, 1)


def test_the_path_tells_of_the_replacement():
    reply = served(
        raw(), Upstream(faults=[status(500)]), Upstream(), traits=ONE_TRY, policies=BACKED
    )
    assert reply.headers["x-routewright-path"] == "small:failed>large"


def test_an_expert_that_nobody_serves_is_replaced():
    traits = ({"base_url": "http://127.0.0.1:9/v1", "retries": 0},)
    assert served(create(), Upstream(), Upstream(), traits=traits, policies=BACKED).model == "large"


def test_a_stream_that_breaks_ends_with_an_error_and_no_second_answer():
    broken, second = Upstream(faults=[break_off]), Upstream(says="from large")
    texts = []

    async def work(client):
        stream = await client.chat.completions.create(model="auto", messages=asked(), stream=True)
        async for piece in stream:
            texts.append(piece.choices[0].delta.content)

    with pytest.raises(openai.APIError, match=r"ended before|connection"):
        served(work, broken, second, policies=BACKED)
    assert "".join(texts) == "half"
    assert (broken.requests, second.requests) == (1, 0)


def test_a_broken_stream_has_no_done():
    async def work(client):
        url = f"{client.base_url}chat/completions"
        body = {"messages": asked(), "stream": True}
        return (await client._client.post(url, json=body)).text

    events = served(work, Upstream(faults=[break_off])).strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: ")).keys() == {"error"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (status(500), 502),
        (status(503), 503),
        (status(429), 429),
        (status(401), 502),
        (status(404), 502),
        (status(400), 400),
        (drop, 502),
        (hang, 504),
    ],
)
@pytest.mark.parametrize("how", [create, pieces])
def test_when_everybody_fails_the_status_says_how(how, fault, code):
    with pytest.raises(openai.APIStatusError) as error:
        served(how(), Upstream(faults=[fault]), traits=HASTY if fault is hang else ONE_TRY)
    assert error.value.status_code == code
    assert error.value.message


def test_retry_after_is_passed_on():
    upstream = Upstream(faults=[status(429, Retry_After="70")] * 3)
    with pytest.raises(openai.RateLimitError) as error:
        served(create(), upstream)
    assert error.value.response.headers["retry-after"] == "70"
    assert upstream.requests == 1


@pytest.mark.parametrize(
    "value",
    [
        "Wed, 21 Oct 2015 07:28:00 +9999999999999999",
        "Wed, 21 Oct 99999 07:28:00 GMT",
        "1e999",
        "nan",
        "soon",
    ],
)
def test_a_retry_after_that_says_nothing_is_left_out(value):
    with pytest.raises(openai.RateLimitError) as error:
        served(create(), Upstream(faults=[status(429, Retry_After=value)]), traits=ONE_TRY)
    assert "retry-after" not in error.value.response.headers


@pytest.mark.parametrize("how", [create, pieces])
def test_the_deadline_holds(how):
    """Without it the expert would be given up after a minute."""
    upstream = Upstream(faults=[hang])
    with pytest.raises(openai.APIStatusError, match="max_latency") as error:
        served(how(extra_body={"routewright": {"max_latency_ms": 200}}), upstream)
    assert error.value.status_code == 504
    assert upstream.cancelled == upstream.requests


def test_an_error_never_shows_a_key():
    upstream = Upstream(faults=[status(401, "bad key my-secret-key")])
    traits = ({"api_key": "my-secret-key"},)
    with pytest.raises(openai.APIStatusError) as error:
        served(create(), upstream, traits=traits)
    assert "my-secret-key" not in error.value.response.text


@pytest.mark.parametrize(("stream", "fault"), [(False, hang), (True, hang), (True, stall)])
def test_a_client_that_goes_away_cancels_the_work(stream, fault, caplog):
    caplog.set_level(logging.INFO, "routewright")
    upstream = Upstream(faults=[fault])

    async def run():
        async with running(upstream), front(config_of(upstream.expert("small"))) as client:
            work = client.chat.completions.create(model="auto", messages=asked(), stream=stream)
            task = asyncio.ensure_future(work)
            await until(lambda: upstream.requests)
            if fault is stall:  # the first word is there
                await (await task).close()
            task.cancel()
            await asyncio.wait({task})
            await until(lambda: upstream.cancelled)

    asyncio.run(run())
    assert (upstream.requests, upstream.cancelled, upstream.finished) == (1, 1, 0)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("routewright")]
    told = json.loads(lines[-1])
    assert (told["status"], told["path"]) == ("cancelled", "small:cancelled")
    assert told["cost"] > 0


def test_the_log_tells_how_an_upstream_failed_and_not_what_it_wrote(caplog):
    caplog.set_level(logging.INFO, "routewright")
    for how in (create(), pieces()):
        with pytest.raises(openai.RateLimitError):
            served(how, Upstream(faults=[status(429, "you said: my secret")]), traits=ONE_TRY)
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("routewright")]
    told = [json.loads(line) for line in lines]
    assert [(line["status"], line["upstream_status"]) for line in told] == [
        ("UpstreamError", 429)
    ] * 2
    assert "secret" not in caplog.text


@pytest.mark.parametrize("how", [create, pieces])
def test_an_option_that_is_null_takes_a_field_away(how):
    upstream = Upstream()
    options = {"stream_options": None, "max_tokens": None, "max_completion_tokens": 9}
    served(how(max_tokens=5), upstream, traits=({"options": options},))
    assert {"stream_options", "max_tokens"}.isdisjoint(upstream.bodies[0])
    assert upstream.bodies[0]["max_completion_tokens"] == 9


# --- experts that keep failing -------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """The breaker's, which the test turns: a rest takes no time, and none is over too early."""
    hands = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        "routewright.gateway.breaker.time",
        SimpleNamespace(monotonic=lambda: hands.now, time=lambda: hands.now),
    )
    return hands


async def whom(client, **options):
    """Who answers, or the status of the failure."""
    try:
        reply = await client.chat.completions.create(model="auto", messages=asked(), **options)
        models = [piece.model async for piece in reply] if options else [reply.model]
        return models[0]
    except openai.APIStatusError as error:
        return error.status_code


async def in_turn(client, times, **options):
    return [await whom(client, **options) for _ in range(times)]


@pytest.mark.parametrize("options", [{}, {"stream": True}])
def test_nobody_waits_for_an_expert_that_keeps_failing(options, clock):
    """It is asked five times in vain, then not for five seconds, and then again."""
    dead, healthy = Upstream(faults=[status(500), drop, status(503), drop, status(500)]), Upstream()

    async def work(client):
        first = await in_turn(client, 8, **options)
        health = await client._client.get(str(client.base_url).replace("/v1/", "/health"))
        assert health.json()["left_alone"] == ["small"]
        clock.now += 4.9
        first.append(await whom(client, **options))
        assert dead.requests == 5
        clock.now += 0.2
        return first, await in_turn(client, 2, **options)

    first, later = served(work, dead, healthy, traits=ONE_TRY, policies=BACKED)
    assert first == ["large"] * 9
    assert later == ["small", "small"]
    assert dead.requests == 7


def test_an_expert_that_still_fails_is_tried_by_one_request_and_left_alone_for_longer(clock):
    """The one that tries it after five seconds is told of the failure last, and then nobody asks
    for ten seconds."""
    refused = []

    async def once_the_others_are_refused(upstream, request, body):
        await until(lambda: len(refused) == 3)
        return await status(500)(upstream, request, body)

    upstream = Upstream(faults=[status(500)] * 5 + [once_the_others_are_refused])

    async def counted(client):
        if (who := await whom(client)) == 503:
            refused.append(who)
        return who

    async def work(client):
        burst = await asyncio.gather(*(whom(client) for _ in range(5)))
        clock.now += 5.1
        second = await asyncio.gather(*(counted(client) for _ in range(4)))
        assert upstream.requests == 6, "one of four tried it"
        clock.now += 9.8
        third = await whom(client)
        clock.now += 0.4
        return burst, sorted(second), third, await whom(client)

    told = served(work, upstream, traits=ONE_TRY)
    assert told == ([502] * 5, [502, 503, 503, 503], 503, "small")


def test_requests_that_an_expert_refuses_do_not_count_against_it():
    upstream = Upstream(faults=[status(400)] * 8)
    found = served(lambda client: in_turn(client, 9), upstream, traits=({"retries": 0},))
    assert found == [400] * 8 + ["small"]


def test_failures_with_answers_between_them_do_not_add_up():
    upstream = Upstream(faults=[status(500), status(500), None] * 4)
    found = served(lambda client: in_turn(client, 12), upstream, traits=({"retries": 0},))
    assert found == [502, 502, "small"] * 4


def test_an_expert_that_defers_is_well():
    """A stream that opens with the tag is not heard to its end."""
    small, large = Upstream(says="<DEFER> and more", faults=[status(500), None] * 6), Upstream()
    policy = {"strategy": "dedicated", "options": {"expert": "small", "then": ["large"]}}
    served(
        lambda client: in_turn(client, 12, stream=True),
        *(small, large),
        traits=({"retries": 0},),
        policies={"default": policy},
    )
    assert (small.requests, large.requests) == (12, 12)


# --- the table of faults -------------------------------------------------------------------


def trial(fault, stream):
    """A request that only the faulty expert may answer, one that another may, and one after."""
    small, large = Upstream(faults=[fault.inject] * 2), Upstream(says="from large")
    fixed = {"strategy": "fixed", "options": {"expert": "small"}}
    policies = {"alone": fixed, "backed": {**fixed, "fallback": ["large"]}}
    body = {"messages": asked(), "stream": stream}

    async def work(client):
        url = f"{client.base_url}chat/completions"
        names = ("alone", "backed", "alone")
        return [await client._client.post(url, json={**body, "model": name}) for name in names]

    traits = ({"retries": 0, "timeout": 60, **fault.traits},)
    return served(work, small, large, traits=traits, policies=policies)


def outcome(reply, stream):
    """The text of a reply, and its error; either may be None."""
    if not stream or reply.status_code != 200:
        body = reply.json()
        texts = [choice["message"]["content"] for choice in body.get("choices", [])]
        return (texts or [None])[0], body.get("error")
    lines = [line for line in reply.text.split("\n") if line.startswith("data: ")]
    events = [line.removeprefix("data: ") for line in lines]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    error = next((chunk["error"] for chunk in chunks if "error" in chunk), None)
    assert (error is None) == (events[-1] == "[DONE]")
    choices = [choice for chunk in chunks for choice in chunk.get("choices", [])]
    return "".join(choice["delta"].get("content") or "" for choice in choices), error


FAULTS = pytest.mark.parametrize("fault", faults.UPSTREAM, ids=lambda fault: fault.happens)


@pytest.mark.parametrize("stream", [False, True])
@FAULTS
def test_a_fault_has_the_consequences_of_the_table(fault, stream):
    alone, backed, after = trial(fault, stream)
    broken = stream and fault.in_answer
    assert alone.status_code == (200 if broken else fault.status)
    assert ("retry-after" in alone.headers) == ("Retry-After" in fault.client)
    text, error = outcome(alone, stream)
    assert error["message"]
    assert text == ("half" if broken else None)
    text, error = outcome(backed, stream)
    assert text == ("half" if broken else "from large")
    assert (error is None) != broken
    assert outcome(after, stream) == ("hello there", None)


BEFORE_THE_ANSWER = [fault for fault in faults.UPSTREAM if not fault.in_answer]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE_THE_ANSWER, ids=lambda fault: fault.happens)
def test_a_fault_is_billed_as_the_table_says(fault, stream):
    """Later the headers have been sent, and tell no cost."""
    alone, *_ = trial(fault, stream)
    cost = float(alone.headers["x-routewright-cost"])
    assert (cost > 0) == (fault.billed == faults.ESTIMATE)
