"""Streams through the gateway: what is silent, what is alive, and what is passed on unread."""

import asyncio
import json
import logging
from itertools import pairwise

import aiohttp
import openai
import pytest
from aiohttp import web

from routewright.experts.client import Client
from routewright.experts.providers._events import EventReader
from routewright.types import Ask, Query
from test_gateway import served
from upstream import (
    Upstream,
    asked,
    begin,
    config_of,
    event,
    expert,
    gateway,
    hang,
    in_thread,
    running,
    send,
    status,
    until,
)

QUICK = {"keep_alive_seconds": 0.05}
LADDER = {"default": {"strategy": "cascade", "options": {"ladder": ["small", "large"]}}}


def streamed(upstream, work, server=QUICK, **traits):
    """Runs `work(response)` on a raw stream of the gateway."""

    async def run():
        async with running(upstream), aiohttp.ClientSession() as session:
            config = config_of(upstream.expert("small", retries=0, **traits), server=server)
            async with gateway(config) as url:
                body = {"messages": asked(), "stream": True}
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    return await work(response)

    return asyncio.run(run())


async def rest(response):
    return (await response.read()).decode()


def datas(text):
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# --- comments ------------------------------------------------------------------------------


def once_commented(then):
    """An upstream's fault that goes on once the client has read a comment, and reads it."""
    commented = asyncio.Event()

    async def fault(upstream, request, body):
        await commented.wait()
        return await then(upstream, request, body)

    async def read(response):
        first = await response.content.readuntil(b"\n\n")
        assert first == b": keep-alive\n\n"
        commented.set()
        return response.headers, await rest(response)

    return fault, read


def test_a_stream_says_that_it_is_alive_until_its_first_word():
    fault, read = once_commented(lambda upstream, *rest: upstream._stream(*rest))
    headers, text = streamed(Upstream(says="one two", faults=[fault]), read)
    chunks = datas(text)
    assert chunks[-1] == "[DONE]"
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == "one two"
    assert {chunk["model"] for chunk in chunks[:-1]} == {"small"}
    assert chunks[-2]["routewright"]["path"] == "small"
    assert headers["x-routewright-policy"] == "default"
    assert headers["x-routewright-decision-id"] in chunks[0]["id"]
    assert "x-routewright-expert" not in headers


def test_a_failure_after_a_comment_is_an_event_with_the_whole_error(caplog):
    caplog.set_level(logging.INFO, "routewright")
    fault, read = once_commented(status(429, "slow down"))
    _, text = streamed(Upstream(faults=[fault]), read)
    (failure,) = datas(text)
    assert failure.keys() == {"error"}
    assert failure["error"].keys() == {"message", "type", "param", "code"}
    assert failure["error"]["type"] == "rate_limit_error"
    assert "slow down" in failure["error"]["message"]
    (line,) = [r.getMessage() for r in caplog.records if r.name == "routewright.gateway.completion"]
    assert json.loads(line)["status"] == "UpstreamError"


def test_a_stream_says_that_it_is_alive_between_words():
    commented = asyncio.Event()

    async def halting(upstream, request, body):
        reply = await begin(request)
        await send(reply, {"content": "one"})
        await commented.wait()
        await send(reply, {"content": " two"}, "stop")
        return reply

    async def read(response):
        head = await response.content.readuntil(b"one")
        head += await response.content.readuntil(b": keep-alive\n\n")
        commented.set()
        return head.decode() + await rest(response)

    text = streamed(Upstream(faults=[halting]), read)
    assert [c["choices"][0]["delta"].get("content") for c in datas(text)[:2]] == ["one", " two"]
    assert "keep-alive" not in json.dumps(datas(text))


def test_a_client_that_leaves_while_nothing_is_said_ends_the_work(caplog):
    caplog.set_level(logging.INFO, "routewright")
    upstream = Upstream(faults=[hang])

    async def leave(response):
        await response.content.readuntil(b"\n\n")
        response.close()
        await until(lambda: upstream.cancelled)
        await until(lambda: any("decision" in r.getMessage() for r in caplog.records))

    streamed(upstream, leave)
    lines = [r.getMessage() for r in caplog.records if r.name == "routewright.gateway.completion"]
    (line,) = map(json.loads, lines)
    assert (line["status"], line["path"]) == ("cancelled", "small:cancelled")


@pytest.mark.parametrize("server", [{"keep_alive_seconds": 0}, {}])
def test_a_failure_has_its_status_while_no_comment_was_sent(server):
    async def code(response):
        return response.status

    async def late(upstream, request, body):
        await asyncio.sleep(0.2)
        return await status(503)(upstream, request, body)

    assert streamed(Upstream(faults=[late]), code, server) == 503


# --- silence -------------------------------------------------------------------------------


def pinging(times, pause, first=False):
    """A fault that writes comments for a while, before or after its first word."""

    async def fault(upstream, request, body):
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        if not first:
            await send(reply, {"content": "hello"})
        for _ in range(times):
            await asyncio.sleep(pause)
            await reply.write(b": ping\n\n")
        await send(reply, {"content": " world"}, "stop")
        return reply

    return fault


@pytest.mark.parametrize("first", [True, False])
def test_comments_are_life_and_length_ends_no_stream(first):
    fault = pinging(12, 0.2, first)
    text = streamed(Upstream(faults=[fault]), rest, {}, timeout=1.8, silence=2)
    assert datas(text)[-1] == "[DONE]"


@pytest.mark.parametrize("first", [True, False])
def test_silence_ends_a_stream(first):
    text = streamed(Upstream(faults=[pinging(1, 60, first)]), rest, {}, silence=0.3)
    assert "silent for 0.3 s" in text
    assert "[DONE]" not in text


def test_an_expert_that_is_silent_before_its_first_word_is_replaced():
    async def work(client):
        stream = await client.chat.completions.create(model="auto", messages=asked(), stream=True)
        return [chunk.model async for chunk in stream]

    policies = {
        "default": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]}
    }
    silent = Upstream(faults=[pinging(1, 60, True)])
    models = served(work, silent, Upstream(), traits=({"silence": 0.3},), policies=policies)
    assert set(models) == {"large"}


def test_a_connection_that_stays_open_after_the_answer_does_not_hold_it_back(monkeypatch):
    monkeypatch.setattr("routewright.experts.providers._http.LINGER", 0.2)

    async def open_end(upstream, request, body):
        reply = await begin(request)
        await send(reply, {"content": "hello"}, "stop")
        while True:
            await asyncio.sleep(0.05)
            await reply.write(b": ping\n\n")

    assert datas(streamed(Upstream(faults=[open_end]), rest, {}))[-1] == "[DONE]"


def test_a_stream_that_is_cut_is_no_answer_even_with_an_early_finish_reason():
    async def cut(upstream, request, body):
        reply = await begin(request)
        await send(reply, {"content": "a"}, "stop")
        await send(reply, {"content": "b"})
        request.transport.close()
        return reply

    (*_, last) = datas(streamed(Upstream(faults=[cut]), rest, {}))
    assert last.keys() == {"error"}


def test_a_judged_answer_whose_calls_have_one_index_is_numbered_anew():
    calls = [
        {"index": 0, "id": name, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for name in ("f", "g")
    ]
    policies = {"default": {"strategy": "cascade", "options": {"ladder": ["small", "large"]}}}

    async def calling(upstream, request, body):
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        return web.json_response({"choices": [{"message": message}]})

    small = Upstream(says="correct", faults=[calling])
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]

    async def work(client):
        stream = await client.chat.completions.create(
            model="auto", messages=asked(), stream=True, tools=tools
        )
        return [c async for c in stream]

    traits = ({"capabilities": ["tools"]},) * 2
    chunks = served(work, small, Upstream(), traits=traits, policies=policies)
    found = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in found] == [(0, "f"), (1, "g")]


# --- unknown fields ------------------------------------------------------------------------

TOP = {"system_fingerprint": "fp", "citations": ["a"], "id": "up", "routewright": "theirs"}
CHOICE = {"stop_reason": 7, "content_filter_results": {"hate": {"filtered": False}}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "cost": 99, "queue_ms": 3}
DETAILS = {"reasoning_tokens": 1}


def unusual(name):
    """A fault: an answer with fields that nobody knows, each with the expert's name."""

    async def fault(upstream, request, body):
        usage = {**USAGE, "completion_tokens_details": DETAILS, "by": name}
        top, choice = {**TOP, "by": name}, {**CHOICE, "by": name}
        if not body.get("stream"):
            message = {"role": "assistant", "content": "incorrect", "by": name}
            choices = [{"index": 0, "message": message, "finish_reason": "stop", **choice}]
            return web.json_response({"choices": choices, "usage": usage, **top})
        reply = await begin(request)
        await event(reply, {"choices": [], **top})
        await event(reply, {"choices": [{"delta": {"content": "incorrect", "by": name}}]})
        await event(reply, {"choices": [{"delta": {}, "finish_reason": "stop", **choice}]})
        await event(reply, {"choices": [], "usage": usage})
        return reply

    return fault


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("policy", ["small", "cascade"])
def test_unknown_fields_of_the_served_answer_pass_and_ours_stay_ours(policy, stream):
    """In the cascade, small's answer is judged (by itself, as incorrect) and then dropped."""
    policies = {"cascade": LADDER["default"]}
    small, large = Upstream(says="incorrect"), Upstream()
    small.faults, large.faults = [unusual("small"), None], [unusual("large")]

    async def work(client):
        options = {"stream": stream}
        if stream:
            options["stream_options"] = {"include_usage": True}
        body = {"model": policy, "messages": asked(), **options}
        url = f"{client.base_url}chat/completions"
        reply = await client._client.post(url, json=body)
        return datas(reply.text) if stream else [reply.json()]

    bodies = [b for b in served(work, small, large, policies=policies) if b != "[DONE]"]
    who = "small" if policy == "small" else "large"
    whole = {key: value for body in bodies for key, value in body.items() if key != "choices"}
    choices = [choice for body in bodies for choice in body["choices"]]
    choice = {key: value for one in choices for key, value in one.items()}
    message = {
        key: value for one in choices for key, value in one.get("delta", one.get("message")).items()
    }
    ours = {"id", "routewright", "cost"}
    for found, expected in ((whole, TOP), (choice, CHOICE), (message, {}), (whole["usage"], USAGE)):
        assert found["by"] == who
        assert {key for key, value in expected.items() if found[key] != value} <= ours
    assert whole["id"].startswith("chatcmpl-")
    assert whole["routewright"]["path"].endswith(who)
    assert whole["usage"]["cost"] == whole["routewright"]["cost"] < 1
    assert whole["usage"]["completion_tokens_details"] == DETAILS
    assert who == "small" or '"by": "small"' not in json.dumps(bodies)


def test_an_error_inside_a_stream_reaches_the_client_with_its_code():
    error = {"message": "too long", "code": "context_length_exceeded", "param": "messages"}

    async def broken(upstream, request, body):
        reply = await begin(request)
        await send(reply, {"content": "hello"})
        await event(reply, {"error": error})
        return reply

    async def work(client):
        stream = await client.chat.completions.create(model="auto", messages=asked(), stream=True)
        async for _ in stream:
            pass

    with pytest.raises(openai.APIError, match="too long") as failure:
        served(work, Upstream(faults=[broken]))
    assert failure.value.code == "context_length_exceeded"


# --- fast upstreams ------------------------------------------------------------------------


def poured(data):
    """An upstream's fault: a stream of a few MB, as fast as it can be sent."""

    async def fault(upstream, request, body):
        reply = await begin(request)
        await reply.write(data * ((4 << 20) // len(data)))
        await send(reply, {"content": "end"}, "stop")
        return reply

    return fault


WORD = b'data: {"choices": [{"delta": {"content": "word "}}]}\n\n'


@pytest.mark.parametrize("data", [WORD, b"\n", b": ping\n", b"data: "], ids=repr)
def test_an_upstream_that_writes_fast_holds_nobody_up(data, monkeypatch):
    feed, lengths, turns = EventReader.feed, [], []

    def measured(reader, chunk):
        lengths.append(len(chunk))
        return feed(reader, chunk)

    async def others():
        while True:
            turns.append(sum(lengths))
            await asyncio.sleep(0)

    async def run(upstream):
        async with Client([expert(upstream.expert("small"))]) as client:
            counter = asyncio.create_task(others())
            async for _ in client.stream(Ask("small"), Query.of("hi")):
                pass
            counter.cancel()

    monkeypatch.setattr(EventReader, "feed", measured)
    with in_thread(upstream := Upstream(faults=[poured(data)])):
        asyncio.run(run(upstream))
    assert sum(lengths) > 4 << 20
    between_turns = [after - before for before, after in pairwise(turns)]
    assert max(between_turns) <= 16_384
