"""What upstreams may send: any bytes become an answer or an UpstreamError, never something else."""

import asyncio
import json
import math
from contextlib import suppress
from itertools import pairwise

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from routewright.errors import UpstreamError
from routewright.experts.providers import Call
from routewright.experts.providers.openai import Openai
from routewright.types import Answer, Delta, Expert

numbers = st.integers() | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def objects(**fields):
    """Objects in which any field may be missing, or hold anything."""
    odd = {name: field | values for name, field in fields.items()}
    return st.fixed_dictionaries({}, optional=odd)


functions = objects(name=st.text(), arguments=st.text())
calls = objects(id=st.text(), type=st.just("function"), index=numbers, function=functions)
details = objects(cached_tokens=numbers)
usages = objects(
    prompt_tokens=numbers, completion_tokens=numbers, prompt_tokens_details=details, cost=numbers
)
logprobs = objects(content=st.lists(objects(token=st.text(), logprob=numbers), max_size=3))
parts = st.lists(objects(type=st.just("text"), text=st.text()), max_size=3)
messages = objects(
    role=st.just("assistant"),
    content=st.text() | parts,
    tool_calls=st.lists(calls, max_size=3),
    reasoning_content=st.text(),
    refusal=st.text(),
)
choices = objects(
    index=numbers, message=messages, delta=messages, finish_reason=st.text(), logprobs=logprobs
)
replies = objects(
    choices=st.lists(choices, max_size=3), usage=usages, error=objects(message=st.text())
)


class Endpoint:
    """An upstream on a socket that sends what it is given, and the provider that asks it."""

    def __init__(self):
        self.runner = asyncio.Runner()
        self.chunks: list[bytes] = []
        self.runner.run(self._start())

    async def _start(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self.server = web.AppRunner(app)
        await self.server.setup()
        await web.TCPSite(self.server, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{self.server.addresses[0][1]}/v1"
        self.expert = Expert("small", base_url=url, output_per_mtok=1.0, retries=0)
        self.provider = Openai()

    async def _answer(self, request):
        reply = web.StreamResponse(headers={"content-type": self.content_type})
        await reply.prepare(request)
        with suppress(ConnectionResetError):  # the provider hangs up after [DONE]
            for chunk in self.chunks:
                await reply.write(chunk)
                await asyncio.sleep(0)  # lets the provider read it by itself
        return reply

    def ask(self, raw: bytes, **options) -> Answer | UpstreamError:
        """The answer to a request that is not streamed, or the error."""
        self.content_type, self.chunks = "application/json", [raw]
        body = {"messages": [{"role": "user", "content": "?"}], **options}
        return self.runner.run(caught(self.provider.ask(Call(self.expert, body))))

    def stream(self, *chunks: bytes) -> tuple[str, Answer | UpstreamError]:
        """The text of the pieces of a stream, and the answer or the error at its end."""
        self.content_type, self.chunks = "text/event-stream", [*chunks]
        texts: list[str] = []

        async def read():
            body = {"messages": [{"role": "user", "content": "?"}]}
            async for piece in self.provider.stream(Call(self.expert, body)):
                if isinstance(piece, Answer):
                    return piece
                assert isinstance(piece, Delta)
                texts.append(piece.text)
            raise AssertionError("a stream ends with its answer")

        answer = self.runner.run(caught(read()))
        return "".join(texts), answer

    def close(self):
        self.runner.run(self.provider.close())
        self.runner.run(self.server.cleanup())
        self.runner.close()


async def caught(work) -> Answer | UpstreamError:
    try:
        return await work
    except UpstreamError as error:
        return error


@pytest.fixture(scope="module")
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def check(result: Answer | UpstreamError) -> None:
    assert math.isfinite(result.cost)
    assert result.cost >= 0
    if isinstance(result, UpstreamError):
        return
    assert isinstance(result.text, str)
    assert isinstance(result.finish_reason, str)
    assert result.input_tokens >= result.cached_tokens >= 0
    assert result.output_tokens >= 0


@given(replies | values, st.sampled_from([{}, {"n": 3}, {"logprobs": True}]))
def test_any_json_is_a_chat_completion_or_an_upstream_error(endpoint, reply, options):
    check(endpoint.ask(json.dumps(reply).encode(), **options))


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_chat_completion_or_an_upstream_error(endpoint, raw):
    check(endpoint.ask(raw))


@given(replies, st.data())
def test_a_reply_that_is_cut_off_is_an_upstream_error(endpoint, reply, data):
    raw = json.dumps(reply).encode()
    end = data.draw(st.integers(0, len(raw) - 1))
    assert isinstance(endpoint.ask(raw[:end]), UpstreamError)


# --- streams -------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"))
spoken = st.builds(
    lambda text, reason: {"choices": [{"delta": {"content": text}, "finish_reason": reason}]},
    texts,
    st.sampled_from([None, None, "stop"]),
)
datum = st.one_of(spoken, spoken, replies).map(lambda chunk: json.dumps(chunk, ensure_ascii=False))
lines = st.one_of(
    datum.map(lambda text: f"data: {text}".encode("utf-8", "replace")),
    datum.map(lambda text: f"data:{text}".encode("utf-8", "replace")),
    st.sampled_from([b"data: [DONE]", b"data:", b": ping", b"event: x", b"id: 1", b"\xef\xbb\xbf"]),
    st.binary(max_size=20),
)
ends = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n", b"\r\n", b"\r\r"])
streams = st.lists(st.tuples(lines, ends).map(b"".join), max_size=8).map(b"".join)


@given(streams, st.data())
def test_a_stream_is_read_in_the_same_way_wherever_it_is_cut(endpoint, stream, data):
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    edges = [0, *cuts, len(stream)]
    text, whole = endpoint.stream(stream)
    cut_text, cut = endpoint.stream(*(stream[a:b] for a, b in pairwise(edges)))
    check(whole)
    assert (cut_text, type(cut), summary(cut)) == (text, type(whole), summary(whole))


def summary(result: Answer | UpstreamError) -> object:
    if isinstance(result, UpstreamError):
        return result.reason, result.cost
    return result.text, result.message, result.finish_reason, result.cost, result.output_tokens


words = st.lists(texts.filter(str.strip), min_size=1, max_size=8)


@given(words, ends.filter(lambda end: len(end) > 1 and b"\n" in end), st.data())
def test_the_words_of_a_stream_are_the_words_of_its_answer(endpoint, words, end, data):
    chunks = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events = [f"data: {json.dumps(chunk, ensure_ascii=False)}".encode() + end for chunk in chunks]
    stream = b"".join([*events, b"data: [DONE]" + end])
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    text, answer = endpoint.stream(*(stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])))
    assert text == answer.text == "".join(words)
