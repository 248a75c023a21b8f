"""What an upstream says is what a client gets, in whatever shape it comes."""

import asyncio
import json
import threading

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

from answers_in_streams import PLACES, Said, answers, cut, streams, wholes
from routewright.experts.providers import Call
from routewright.experts.providers._events import events, parse
from routewright.experts.providers._transcript import Transcript, answer
from routewright.types import Expert
from upstream import asked, config_of, gateway

CALL = Call(Expert("small", input_per_mtok=1.0, output_per_mtok=2.0), {"messages": asked()})
OURS = {"id", "object", "created", "model", "choices", "usage", "routewright"}


def read(chunks):
    """The answer in a stream, and its deltas, without a network."""

    async def run():
        async def source():
            for chunk in chunks:
                yield chunk

        transcript = Transcript(CALL)
        deltas = [d async for e in events(source(), 1 << 20) for d in transcript.feed(e)]
        assert transcript.is_complete(True)
        return transcript.answer(), [*deltas, transcript.last()]

    return asyncio.run(run())


def check(said: Said, got):
    """That an Answer is what the upstream meant."""
    message = got.message
    assert got.text == (message.get("content") or "") == said.content
    assert (message.get("reasoning_content") or "") == said.reasoning
    assert (message.get("refusal") or "") == said.refusal
    calls = message.get("tool_calls") or []
    assert [call["id"] for call in calls] == [id for id, _, _ in said.calls]
    functions = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    assert [(name, json.loads(text)) for name, text in functions] == [c[1:] for c in said.calls]
    assert got.finish_reason == said.finish_reason
    assert sorted(got.logprobs or ()) == sorted(said.logprobs)
    if said.usage:
        assert ((got.input_tokens, got.output_tokens), got.estimated) == (said.usage, False)
    assert message.items() >= said.message.items()
    extra = got.extra
    assert extra.items() >= said.top.items()
    assert extra.get("choices", [{}])[0].items() >= said.choice.items()
    assert not said.usage or extra["usage"].items() >= said.details.items()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_stream_in_any_style_cut_anywhere_is_read_whole(data):
    said = data.draw(answers())
    got, deltas = read(cut(data.draw(streams(said)), data.draw(PLACES)))
    check(said, got)
    assert "".join(delta.text for delta in deltas) == said.content
    reasons = [delta.finish_reason for delta in deltas]
    assert reasons == [None] * (len(deltas) - 1) + [said.finish_reason]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_whole_reply_is_read_whole(data):
    said = data.draw(answers())
    raw = data.draw(wholes(said))
    check(said, answer(CALL, parse(raw), 0.0))
    check(said, read([raw])[0])  # a streamed request may get one, too


# --- through the gateway -------------------------------------------------------------------


@pytest.fixture(scope="module")
def door():
    """A client of a gateway in front of an upstream, which replies with `door.chunks`."""

    class Door:
        chunks: list[bytes]
        client: OpenAI

    door, loop, ended = Door(), asyncio.new_event_loop(), asyncio.Event()

    async def reply(request):
        body = await request.json()
        kind = "text/event-stream" if body.get("stream") else "application/json"
        answer = web.StreamResponse(headers={"content-type": kind})
        await answer.prepare(request)
        for chunk in filter(None, door.chunks):
            await answer.write(chunk)
        return answer

    async def serve(ready):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", reply)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        prices = {"input_per_mtok": 1.0, "output_per_mtok": 2.0}
        expert = {"name": "small", "base_url": url, "retries": 0, **prices}
        async with gateway(config_of({**expert, "capabilities": ["tools"]})) as front:
            door.client = OpenAI(base_url=f"{front}/v1", api_key="none", max_retries=0)
            ready.set()
            await ended.wait()
        await runner.cleanup()

    ready = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(ready)))
    thread.start()
    assert ready.wait(60)
    yield door
    door.client.close()
    loop.call_soon_threadsafe(ended.set)
    thread.join()


def unknown(fields):
    return {key: value for key, value in fields.items() if key.startswith("x_")}


def gathered(client):
    """What the official client makes of a stream: one message, and fields that it does not know."""
    from openai.lib.streaming.chat._completions import ChatCompletionStreamState

    state, top, choice, message, usage = ChatCompletionStreamState(), {}, {}, {}, {}
    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    for chunk in client.chat.completions.create(model="auto", messages=asked(), **options):
        state.handle_chunk(chunk)
        top |= unknown(chunk.to_dict())
        for one in chunk.choices:
            choice |= unknown(one.to_dict())
            message |= unknown(one.delta.to_dict())
        usage |= chunk.usage.to_dict() if chunk.usage else {}
    return state.current_completion_snapshot, top, choice, message, usage


def check_reply(said: Said, reply, top, choice, message, usage):
    got = reply.choices[0]
    assert (got.message.content or "") == said.content
    assert (got.message.to_dict().get("reasoning_content") or "") == said.reasoning
    assert (got.message.refusal or "") == said.refusal
    calls = [(c.id, c.function.name, c.function.arguments) for c in got.message.tool_calls or ()]
    assert [(id, name, json.loads(text)) for id, name, text in calls] == list(said.calls)
    assert got.finish_reason == said.finish_reason
    tokens = (got.logprobs and got.logprobs.content) or []
    assert sorted(token.logprob for token in tokens) == sorted(said.logprobs)
    assert (top, choice, message) == (said.top, said.choice, said.message)
    if said.usage:
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == said.usage
        assert unknown(usage) == said.details
        sent, received = said.usage
        assert usage["cost"] == pytest.approx((sent + 2 * received) / 1e6)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_an_upstream_streams_comes_out_of_the_official_client(door, data):
    said = data.draw(answers())
    door.chunks = cut(data.draw(streams(said)), data.draw(PLACES))
    check_reply(said, *gathered(door.client))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_an_upstream_replies_comes_out_of_the_official_client(door, data):
    said = data.draw(answers())
    door.chunks = [data.draw(wholes(said))]
    create = door.client.chat.completions.create
    reply = create(model="auto", messages=asked(), logprobs=True)
    body = reply.to_dict()
    choice = body["choices"][0]
    places = (body, choice, choice["message"])
    check_reply(said, reply, *map(unknown, places), body["usage"])
