"""What an upstream says is what a client gets, in whatever shape it comes."""

import asyncio
import json
import math
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

from answers_in_streams import PLACES, Said, answers, cut, streams, wholes
from routewright.errors import NotAdmissible, UpstreamError, UpstreamRefused
from routewright.experts.providers import Call
from routewright.experts.providers._events import events, parse
from routewright.experts.providers._transcript import Transcript, answer
from routewright.experts.spending import capped
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
        kind: str | None = None  # of its reply; None: by the request
        client: OpenAI

    door, loop, ended = Door(), asyncio.new_event_loop(), asyncio.Event()

    async def reply(request):
        body = await request.json()
        kind = door.kind or ("text/event-stream" if body.get("stream") else "application/json")
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
    assert ready.wait(600)
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


# --- odd shapes, one by one ----------------------------------------------------------------


def sse(*chunks, done=True):
    """The bytes of a stream."""
    lines = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in (*lines, *(["[DONE]"] * done))).encode()


def chunk(delta, reason=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def completion(message, **more):
    return json.dumps({"choices": [{"message": message}], **more}).encode()


def call_of(**function):
    return {"id": "c1", "type": "function", "function": function}


HI = chunk({"content": "hi"})
PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
PARTS += [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]


@pytest.mark.parametrize(
    "raw",
    [
        sse(HI),
        sse(HI, done=False),
        sse(HI, done=False).rstrip(),
        sse(chunk({"content": "h"}, "stop"), chunk({"content": "i"}), done=False),
        sse({"choices": [{"text": "h"}]}, {"choices": [{"text": "i", "finish_reason": "stop"}]}),
        sse(chunk({"content": PARTS}, "stop")),
        sse({"choices": [{"message": {"content": "hi"}}], "object": "chat.completion"}),
        sse(HI, {"choices": [{"message": {"content": "hi"}}], "object": "chat.completion"}),
        sse(HI, chunk(None, "stop"), {"choices": [], "usage": None}),
        sse({**HI, "error": None}, chunk({}, "null"), chunk({}, "stop")),
        sse({"choices": [{"index": 1, "delta": {"content": "hi"}, "finish_reason": "stop"}]}),
        completion({"content": "hi"}),
        completion({"content": PARTS, "role": None}),
        b'\xef\xbb\xbf {"choices": [{"text": "hi", "finish_reason": ""}]}\n',
    ],
)
def test_a_text_is_read_in_every_odd_shape(raw):
    got, deltas = read([raw])
    assert (got.text, got.finish_reason) == ("hi", "stop")
    assert "".join(delta.text for delta in deltas) == "hi"
    assert got.estimated


@pytest.mark.parametrize("levels", [100, 400, 600, 800, 950, 5000])
@pytest.mark.parametrize(
    "place", ['"delta": {"content": "hi", "x": %s}', '"delta": {"content": "hi"}, "x": %s']
)
def test_a_reply_is_an_answer_or_a_failure_however_deep_it_is(levels, place):
    nested = "[" * levels + "]" * levels
    raw = '{"choices": [{%s, "finish_reason": "stop"}]}' % (place % nested)
    with suppress(UpstreamError):
        assert read([f"data: {raw}\n\n".encode()])[0].text == "hi"
    with suppress(UpstreamError):
        assert answer(CALL, parse(raw.replace("delta", "message")), 0.0).text == "hi"


def test_content_that_is_json_becomes_text():
    assert answer(CALL, parse(completion({"content": {"a": 1}})), 0.0).text == '{"a": 1}'


@pytest.mark.parametrize(
    "raw",
    [
        sse(done=True),
        sse(chunk({"role": "assistant", "content": ""})),
        sse({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}}),
        sse(chunk({"tool_calls": [call_of(name="f", arguments='{"a": ')]}), done=False),
        sse(HI, chunk({}, "error")),
    ],
)
def test_a_stream_that_holds_no_whole_answer_is_none(raw):
    with pytest.raises(AssertionError):
        read([raw])


def test_a_call_without_arguments_and_without_a_finish_reason_is_whole():
    raw = sse(chunk({"tool_calls": [call_of(name="f", arguments="")]}), done=False)
    got, _ = read([raw])
    assert got.message["tool_calls"] == [call_of(name="f", arguments="")]
    assert got.finish_reason == "tool_calls"


def test_calls_keep_fields_that_nobody_knows():
    """Gemini's thought signatures must come back with the next request."""
    more = {"extra_content": {"google": {"thought_signature": "abc"}}}
    calls = [{**call_of(name="f", arguments={}), **more}]
    raw = sse(chunk({"tool_calls": calls}), chunk({"tool_calls": {"index": 0, **call_of()}}))
    got, deltas = read([raw])
    assert got.message["tool_calls"] == [{**call_of(name="f", arguments="{}"), **more}]
    assert deltas[0].message["tool_calls"][0]["extra_content"] == more["extra_content"]
    assert (
        got.message["tool_calls"]
        == answer(CALL, parse(completion({"tool_calls": calls})), 0.0).message["tool_calls"]
    )


def test_whole_calls_without_index_and_id_are_numbered():
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in ("f", "f", "g")]
    got, deltas = read([sse(*(chunk({"tool_calls": [call]}) for call in calls))])
    numbers = [call["index"] for d in deltas for call in d.message.get("tool_calls", ())]
    assert numbers == [0, 1, 2]
    assert [call["function"]["name"] for call in got.message["tool_calls"]] == ["f", "f", "g"]


def test_a_new_id_in_every_piece_of_one_call_begins_no_other():
    """vLLM did that: a piece without a name goes on with the call of its index."""
    pieces = [call_of(name="f", arguments=""), call_of(arguments="{"), call_of(arguments="}")]
    numbered = [{**piece, "index": 0, "id": f"c{i}"} for i, piece in enumerate(pieces)]
    got, deltas = read([sse(*(chunk({"tool_calls": [piece]}) for piece in numbered))])
    (call,) = got.message["tool_calls"]
    assert (call["id"], call["function"]) == ("c0", {"name": "f", "arguments": "{}"})
    sent = [call.get("id") for d in deltas for call in d.message.get("tool_calls", ())]
    assert sent == ["c0", None, None]


def test_lists_and_objects_of_deltas_are_put_together():
    audio = [{"id": "a", "data": "AA"}, {"data": "BB"}, {"transcript": "hi", "expires_at": 5}]
    details = [{"index": 0, "type": "reasoning.text", "text": text} for text in ("2", "+2")]
    deltas = [{"audio": part} for part in audio]
    deltas += [{"reasoning_details": [part]} for part in details]
    deltas += [{"annotations": [{"url": "a"}]}, {"annotations": [{"url": "b"}]}]
    got, sent = read([sse(*map(chunk, deltas))])
    assert got.message["audio"] == {
        **{"id": "a", "data": "AABB"},
        **{"transcript": "hi", "expires_at": 5},
    }
    assert got.message["reasoning_details"] == [
        {"index": 0, "type": "reasoning.text", "text": "2+2"}
    ]
    assert got.message["annotations"] == [{"url": "a"}, {"url": "b"}]
    assert [delta.message for delta in sent[:-1]] == deltas


LIMIT = {"error": {"message": "slow down", "code": "rate_limit_exceeded", "type": "requests"}}
LONG = {"error": {"message": "too long", "code": "context_length_exceeded", "param": "messages"}}


@pytest.mark.parametrize(
    ("raw", "kind", "status", "code"),
    [
        (sse(LIMIT), UpstreamError, 429, "rate_limit_exceeded"),
        (sse(LONG), UpstreamRefused, 400, "context_length_exceeded"),
        (json.dumps(LONG).encode(), UpstreamRefused, 400, "context_length_exceeded"),
        (b"event: error\ndata: " + json.dumps(LONG["error"]).encode(), UpstreamRefused, 400, None),
        (sse({"object": "error", "message": "no", "code": 503}), UpstreamError, 503, None),
        (sse({"choices": [{"error": {"code": 502, "message": "no"}}]}), UpstreamError, 502, None),
        (sse({"type": "error", "error": {"type": "overloaded_error"}}), UpstreamError, 503, None),
        (sse(HI, LIMIT), UpstreamError, 429, "rate_limit_exceeded"),
    ],
)
def test_an_error_inside_a_reply_is_that_error(raw, kind, status, code):
    with pytest.raises(UpstreamError) as failure:
        read([raw])
    assert (type(failure.value), failure.value.status) == (kind, status)
    assert code in (None, failure.value.code)


# --- usage ---------------------------------------------------------------------------------


def usage_of(usage, **prices):
    call = replace(CALL, expert=replace(CALL.expert, **prices))
    return answer(call, parse(completion({"content": "hi"}, usage=usage)), 0.0)


@pytest.mark.parametrize(
    "number", [1e308, 10**30, 10**9, -1, "7", 7.0, True, None, [], {}, math.nan, math.inf]
)
def test_a_number_that_cannot_be_true_is_estimated(number):
    got = usage_of({"prompt_tokens": number, "completion_tokens": number})
    assert (got.input_tokens, got.output_tokens, got.estimated) == (5, 1, True)
    assert got.cost == pytest.approx(7e-6)
    got = usage_of({"prompt_tokens": 50, "completion_tokens": 9, "prompt_cache_hit_tokens": number})
    assert (got.input_tokens, got.cached_tokens) == (50, 0)
    is_number = number is not None and json.dumps(number) not in ("NaN", "Infinity")
    assert got.estimated is is_number  # the two are no JSON, and count as null
    (streamed, _) = read([sse(HI, {**HI, "usage": {"prompt_tokens": number}}), b""])
    assert (streamed.input_tokens, streamed.estimated) == (5, True)


def test_no_tokens_for_a_text_cannot_be_true():
    got = usage_of({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    assert (got.input_tokens, got.output_tokens, got.estimated) == (5, 1, True)


def test_more_cached_than_sent_cannot_be_true():
    got = usage_of(
        {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 11},
        }
    )
    assert (got.input_tokens, got.cached_tokens, got.estimated) == (10, 0, True)


FRESH, READ, WRITTEN = 700, 200, 100  # of 1000 tokens
OPENAI = {"prompt_tokens": 1000, "completion_tokens": 5, "total_tokens": 1005}
CLAUDE = {"cache_read_input_tokens": READ, "cache_creation_input_tokens": WRITTEN}


@pytest.mark.parametrize(
    ("usage", "written"),
    [
        ({**OPENAI, "prompt_tokens_details": {"cached_tokens": READ}}, 0),
        ({**OPENAI, "prompt_cache_hit_tokens": READ, "prompt_cache_miss_tokens": 800}, 0),
        ({**OPENAI, "cached_tokens": READ}, 0),
        (
            {
                "input_tokens": 1000,
                "output_tokens": 5,
                "input_tokens_details": {"cached_tokens": READ},
            },
            0,
        ),
        ({"input_tokens": FRESH, "output_tokens": 5, **CLAUDE}, WRITTEN),
        ({**OPENAI, **CLAUDE}, WRITTEN),
        ({**OPENAI, "prompt_tokens": FRESH, **CLAUDE}, WRITTEN),
        (
            {
                **OPENAI,
                "prompt_tokens_details": {"cached_tokens": READ, "cache_write_tokens": WRITTEN},
            },
            WRITTEN,
        ),
    ],
)
def test_cached_tokens_have_their_price_in_whatever_field_they_stand(usage, written):
    prices = {"input_per_mtok": 10, "cached_input_per_mtok": 1, "cache_write_per_mtok": 12.5}
    got = usage_of(usage, **prices)
    fresh = 1000 - READ - written
    assert got.cost == pytest.approx((10 * fresh + READ + 12.5 * written + 2 * 5) / 1e6)
    assert (got.input_tokens, got.cached_tokens, got.output_tokens) == (1000, READ, 5)
    assert not got.estimated
    streamed, _ = read([sse(HI, {"choices": [], "usage": usage})])
    assert usage_of(usage).cost == streamed.cost


def test_anthropics_counts_that_exceed_the_prompt_come_in_addition():
    usage = {"prompt_tokens": 10, "completion_tokens": 5, **CLAUDE}
    assert usage_of(usage).input_tokens == 10 + READ + WRITTEN


def test_a_written_cache_costs_what_input_costs_unless_the_config_says_otherwise():
    assert usage_of({**OPENAI, **CLAUDE}).cost == usage_of(OPENAI).cost


def test_reasoning_that_only_the_total_counts_is_paid_for():
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    details = {"completion_tokens_details": {"reasoning_tokens": 100}}
    assert usage_of({**usage, **details}).output_tokens == 105
    assert usage_of({**usage, "total_tokens": 15, **details}).output_tokens == 5


@pytest.mark.parametrize(
    "parts",
    [
        [{"prompt_tokens": 9}, {"completion_tokens": 4}],
        [{"prompt_tokens": 9, "completion_tokens": 4}, {"completion_tokens": 0}, None],
        [{"prompt_tokens": 9, "completion_tokens": n} for n in (1, 2, 4)],
        [{"prompt_tokens": 9, "completion_tokens": 4}, {"prompt_tokens": "x"}, {}],
    ],
)
def test_usage_that_comes_in_parts_is_put_together(parts):
    got, _ = read([sse(HI, *({**chunk({}), "usage": part} for part in parts))])
    assert (got.input_tokens, got.output_tokens, got.estimated) == (9, 4, False)


def test_a_limit_on_money_counts_that_the_input_may_be_written_to_a_cache():
    expert = Expert("small", input_per_mtok=1.0, cache_write_per_mtok=4.0)
    body = {"messages": asked()}
    with pytest.raises(NotAdmissible):
        capped(body, expert, 2e-4)
    assert capped(body, replace(expert, cache_write_per_mtok=None), 2e-4)
