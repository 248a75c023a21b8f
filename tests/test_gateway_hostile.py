"""What the gateway makes of clients and experts that do not keep to the protocol."""

import asyncio
import gc
import json
import socket

import aiohttp
import openai
import pytest
from aiohttp import web

from routewright.types import Ask
from test_gateway import create, pieces, served
from upstream import (
    Upstream,
    asked,
    break_off,
    config_of,
    gateway,
    hang,
    running,
    stall,
    status,
    until,
)

ONE_TRY = ({"retries": 0, "api_key": "my-secret-key"},)
BACKED = {"default": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]}}


def reply(body, status=200, kind="application/json"):
    """An upstream's fault: exactly these bytes."""

    async def fault(upstream, request, asked):
        return web.Response(body=body, status=status, headers={"content-type": kind})

    return fault


def events(*data):
    lines = [b"data: " + one + b"\n\n" for one in (*data, b"[DONE]")]
    return reply(b"".join(lines), kind="text/event-stream")


def sent(content, path="chat/completions", **headers):
    """Work that posts bytes; gives the reply."""

    async def work(client):
        url = f"{client.base_url}{path}"
        return await client._client.post(url, content=content, headers=headers)

    return work


# --- clients -------------------------------------------------------------------------------

FRAME = b'{"messages": [{"role": "user", "content": %s}]%s}'


@pytest.mark.parametrize("path", ["chat/completions", "route"])
@pytest.mark.parametrize(
    ("content", "more"),
    [
        (b'[{"type": [], "text": "hi"}]', b""),
        (b'[{"type": {"a": 1}}]', b""),
        (b'"hi"', b', "model": "\xed\xa0\x80"'),  # half a surrogate pair, as bytes
        (b'"hi"', b', "temperature": 1e999'),
        (b'"hi"', b', "seed": ' + b"9" * 5000),
    ],
)
def test_what_is_no_request_is_400(path, content, more):
    upstream = Upstream()
    answer = served(sent(FRAME % (content, more), path), upstream)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert upstream.requests == 0


def test_json_is_utf_8():
    body = json.dumps({"messages": asked(), "model": "\ud800"})
    for coding in ("utf-16", "utf-32"):
        assert served(sent(body.encode(coding)), Upstream()).status_code == 400
    marked = b"\xef\xbb\xbf" + json.dumps({"messages": asked()}).encode()
    assert served(sent(marked), Upstream()).status_code == 200


def test_a_heap_of_metadata_does_not_hold_everybody_up():
    for keys, reason in ((5_000, "5000 keys"), (50_000, "more than 10,000 keys")):
        heap = {f"key{place}": "x" for place in range(keys)}
        answer = served(sent(json.dumps({"messages": asked(), "metadata": heap})), Upstream())
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "metadata"
        assert reason in answer.json()["error"]["message"]


@pytest.mark.parametrize("levels", [101, 950, 960, 5000, 200_000])
@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_a_body_that_is_nested_too_deeply_is_refused(levels, pair):
    opening = pair[0] if pair == "[]" else '{"a": '
    nested = f"{opening * levels}1{pair[1] * levels}"
    upstream = Upstream()
    body = f'{{"messages": [{{"role": "user", "content": "hi"}}], "metadata": {{"x": {nested}}}}}'
    answer = served(sent(body), upstream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_json")
    assert upstream.requests == 0


def test_a_long_model_name_is_refused_and_holds_nobody_up():
    for name in (
        "router-" + "1" * 10**6,
        "router-a-" + "1" * 10**6 + "x",
        "router-" + "-1" * 10**5,
    ):
        answer = served(sent(json.dumps({"messages": asked(), "model": name})), Upstream())
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "model"
        assert len(answer.text) < 1000


def test_a_wrong_method_says_so():
    async def work(client):
        url = f"{client.base_url}chat/completions"
        return await client._client.get(url)

    answer = served(work, Upstream())
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("fault", [None, status(500), break_off])
def test_nothing_of_a_stream_stays_in_memory(fault):
    def asks():
        gc.collect()
        return sum(type(thing) is Ask for thing in gc.get_objects())  # isinstance() loads modules

    upstream = Upstream()

    async def run():
        async with running(upstream):
            config = config_of(upstream.expert("small", retries=0))
            # Counting takes so long that the gateway may close a connection meanwhile.
            each_anew = aiohttp.TCPConnector(force_close=True)
            async with (
                gateway(config) as url,
                aiohttp.ClientSession(connector=each_anew) as session,
            ):

                async def stream():
                    upstream.faults = [fault]
                    body = {"messages": asked(), "stream": True}
                    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                        await answer.read()

                await stream()
                before = asks()
                for _ in range(20):
                    await stream()
                return asks() - before

    assert asyncio.run(run()) <= 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_is_told_when_the_gateway_is_stopped_under_its_request(stream, capsys):
    upstream = Upstream(faults=[stall if stream else hang])

    async def run():
        async with running(upstream), aiohttp.ClientSession() as session:
            async with gateway(config_of(upstream.expert("small"))) as url:
                body = {"messages": asked(), "stream": stream}
                asking = session.post(f"{url}/v1/chat/completions", json=body)
                reply = asyncio.ensure_future(asking.__aenter__())
                await until(lambda: reply.done() if stream else upstream.requests)
            answer = await reply
            return answer.status, await answer.text()

    status, text = asyncio.run(run())
    assert status == (200 if stream else 503)
    last = text.strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["code"] == "stopped"
    assert upstream.cancelled == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_client_that_stops_reading_does_not_keep_an_upstream_waiting(monkeypatch, caplog):
    monkeypatch.setattr("routewright.gateway.middleware.STALL_SECONDS", 0.5)
    caplog.set_level("INFO", "routewright")
    upstream = Upstream(says=" ".join(["x" * 100_000] * 300))
    body = json.dumps({"messages": asked(), "stream": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"

    async def run():
        async with running(upstream), gateway(config_of(upstream.expert("small"))) as url:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as stuck:
                stuck.sendall(head.encode() + body)
                await until(lambda: upstream.cancelled)
                assert stuck.fileno() >= 0, "the client is still there"

    asyncio.run(run())
    assert (upstream.cancelled, upstream.finished) == (1, 0)
    lines = [r.getMessage() for r in caplog.records if r.name == "routewright.gateway.completion"]
    (told,) = map(json.loads, lines)
    assert told["status"] == "cancelled"
    assert told["cost"] > 0


def test_a_client_that_leaves_before_its_request_is_whole_is_no_failure_of_ours(capsys):
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"

    async def run():
        config = config_of({"name": "small", "base_url": "http://127.0.0.1:9/v1"})
        async with gateway(config) as url:
            host, port = url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode())
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.transport.abort()
            await asyncio.sleep(0.2)

    asyncio.run(run())
    assert "Traceback" not in capsys.readouterr().err


# --- experts -------------------------------------------------------------------------------

DEEP = b"[" * 100_000
ERROR = b'{"error": {"message": "bad key my-secret-key, \\ud800"}}'


@pytest.mark.parametrize("fault", [reply(DEEP), reply(DEEP, 400), reply(ERROR), reply(ERROR, 400)])
@pytest.mark.parametrize("how", [create, pieces])
def test_whatever_an_expert_sends_another_one_can_answer(how, fault):
    traits = (*ONE_TRY, {})
    said = served(how(), Upstream(faults=[fault]), Upstream(), traits=traits, policies=BACKED)
    assert (said[0] if isinstance(said, list) else said).model == "large"


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("how", [create, pieces])
def test_an_error_shows_no_key_and_can_be_sent_whatever_it_says(how, status):
    fault = reply(ERROR, status)
    with pytest.raises(openai.APIStatusError) as failure:
        served(how(), Upstream(faults=[fault]), traits=ONE_TRY)
    told = failure.value.response.text
    assert failure.value.status_code == (400 if status == 400 else 502)
    assert "my-secret-key" not in told
    assert how is pieces or "bad key [key]" in told


def test_an_error_that_comes_in_two_parts_is_read_whole():
    async def halting(upstream, request, body):
        answer = web.StreamResponse(status=400)
        await answer.prepare(request)
        for half in (b'{"error": {"message": ', b'"no such tool"}}'):
            await answer.write(half)
            await asyncio.sleep(0.1)
        return answer

    with pytest.raises(openai.BadRequestError, match="no such tool"):
        served(create(), Upstream(faults=[halting]), traits=ONE_TRY)


def test_a_stream_that_is_none_is_told_by_its_kind():
    page = reply(b"<h1>Sign in</h1>", kind="text/html")
    with pytest.raises(openai.InternalServerError, match="text/html instead of a stream"):
        served(pieces(), Upstream(faults=[page]), traits=ONE_TRY)


WORD = b'{"choices": [{"delta": {"content": "hi"}, "logprobs": %s, "finish_reason": "stop"}]}'


@pytest.mark.parametrize("logprobs", [b'{"content": [{"token": "hi"}]}', b'{"content": "hi"}'])
def test_logprobs_that_cannot_be_read_do_not_end_a_stream(logprobs):
    chunks = served(pieces(), Upstream(faults=[events(WORD % logprobs)]))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].routewright["path"] == "small"


def test_a_stream_says_whose_words_they_are_where_the_upstream_does_not():
    chunks = served(pieces(), Upstream(faults=[events(WORD % b"null")]))
    assert chunks[0].choices[0].delta.role == "assistant"


def test_numbers_that_json_has_not_do_not_reach_the_client():
    odd = b'{"content": [{"token": "hi", "logprob": -Infinity}]}'
    whole = b'{"choices": [{"message": {"content": "hi"}, "logprobs": %s}]}' % odd
    for stream, fault in ((False, reply(whole)), (True, events(WORD % odd))):
        body = json.dumps({"messages": asked(), "logprobs": True, "stream": stream})
        answer = served(sent(body), Upstream(faults=[fault])).text
        assert '"logprob": null' in answer
        assert "Infinity" not in answer


def test_a_reply_without_end_is_refused_before_memory_is_full():
    async def endless(upstream, request, body):
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(80):
            await answer.write(b"x" * (1 << 20))
        return answer

    for how in (create, pieces):
        with pytest.raises(openai.InternalServerError, match="larger than 64 MiB"):
            served(how(), Upstream(faults=[endless]), traits=ONE_TRY)


def test_half_a_usage_is_completed_by_an_estimate():
    half = reply(b'{"choices": [{"message": {"content": "hi"}}], "usage": {"total_tokens": 9}}')
    answer = served(create(), Upstream(faults=[half]))
    assert answer.usage.cost > 0
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 1)


def test_a_model_that_thinks_for_long_may_be_silent_for_half_its_timeout(monkeypatch):
    monkeypatch.setattr("routewright.types.MIN_SILENCE", 0.1)

    async def thinking(upstream, request, body):
        await asyncio.sleep(0.6)
        return await upstream._stream(request, body)

    patient, hasty = ({"retries": 0, "timeout": 60},), ({"retries": 0, "timeout": 0.8},)
    assert served(pieces(), Upstream(faults=[thinking]), traits=patient)
    with pytest.raises(openai.APIStatusError, match=r"no first byte within 0\.4 s"):
        served(pieces(), Upstream(faults=[thinking]), traits=hasty)


def test_what_travels_along_counts_for_max_cost():
    """`documents` (of vLLM) and the like are read by the expert, too, and are paid for."""
    limits = {"routewright": {"max_cost": 5e-4}, "documents": ["word " * 500]}
    with pytest.raises(openai.UnprocessableEntityError, match="the input alone may cost"):
        served(create(extra_body=limits), Upstream())


@pytest.fixture(scope="module")
def own_model(tmp_path_factory):
    """A causal model in Hugging Face format."""
    pytest.importorskip("peft", reason="needs the extra 'lm'")
    from routewright.sandbox.export import export

    return export("lexis", tmp_path_factory.mktemp("base") / "lexis")


def test_options_of_models_in_this_process_are_the_clients_own(own_model):
    """As an endpoint would: a 400 for what is no number, never a failure of the gateway."""
    own = {"name": "own", "provider": "local", "model": str(own_model)}
    config = config_of(own, {"name": "lexis", "provider": "sandbox"})
    wrong = [{"temperature": "hot"}, {"temperature": [1]}, {"seed": "x"}]
    right = [{"temperature": 0.7, "seed": 10**30}, {"max_tokens": 10**6}]

    async def run():
        found = []
        async with gateway(config) as url, aiohttp.ClientSession() as session:
            for model in ("own", "lexis"):
                for options in wrong + right:
                    body = {"model": model, "messages": asked(), **options}
                    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                        found.append(
                            (answer.status, "failed: the request: " in await answer.text())
                        )
        return found

    assert asyncio.run(run()) == ([(400, True)] * 3 + [(200, False)] * 2) * 2
