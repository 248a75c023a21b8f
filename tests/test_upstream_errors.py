"""What an upstream writes about an error reaches the client, and what it must not tell does not."""

import asyncio
import json
import logging

import pytest
from aiohttp import web

from test_gateway import served
from test_gateway_hostile import reply
from upstream import Upstream, asked, config_of, drop, expert, front, running, status

ONE_TRY = {"retries": 0}
FRESH = {"default": {"strategy": "fixed", "options": {"expert": "small"}}}


def post_all(faults, *, model="auto", traits=None, **body):
    """The replies to one request after the other, each of which meets one fault."""

    async def work(client):
        replies = []
        for fault in faults:
            upstream.faults[:] = [fault]
            client_body = {"model": model, "messages": asked(), **body}
            url = f"{client.base_url}chat/completions"
            replies.append(await client._client.post(url, json=client_body))
            # An answer in between, so that the expert is never skipped after repeated failures.
            upstream.faults.clear()
            await client._client.post(url, json={"messages": asked()})
        return replies

    upstream = Upstream()
    return served(work, upstream, traits=({**ONE_TRY, **(traits or {})},))


def error_of(answer):
    """The error object of a reply, or of the last event of a stream."""
    text = answer.text.strip().split("\n\n")[-1].removeprefix("data: ")
    return json.loads(text)["error"]


def as_json(value, code=400):
    return reply(json.dumps(value).encode(), code)


# --- shapes --------------------------------------------------------------------------------

OPENAI = {
    "message": "no such tool",
    "type": "invalid_request_error",
    "param": "tools[0]",
    "code": "unknown_tool",
}
LOC = {"loc": ["body", "top_k"], "msg": "not an integer", "type": "int_parsing", "input": "secret"}
RAW = json.dumps({"error": {"message": "inner words", "code": "inner_code"}})
SHAPES = [  # body, words, and some of type, param and code
    ({"error": OPENAI}, "no such tool", OPENAI),
    ([{"error": OPENAI}], "no such tool", OPENAI),
    (
        [{"error": {"code": 400, "message": "Unknown name", "status": "INVALID_ARGUMENT"}}],
        "Unknown name",
        {"code": "INVALID_ARGUMENT"},
    ),
    ({"error": "model is still loading"}, "model is still loading", {"code": "bad_request"}),
    ({"error": ["first", "second"]}, "first; second", {}),
    ({"detail": "temperature must be below 2"}, "temperature must be below 2", {}),
    ({"detail": [LOC]}, "top_k: not an integer", {"param": "top_k", "code": "int_parsing"}),
    ({"detail": {"error": "too hot"}}, "too hot", {}),
    (
        {"object": "error", "message": "top_p is wrong", "type": "BadRequestError", "code": 400},
        "top_p is wrong",
        {"type": "BadRequestError", "code": "bad_request"},
    ),
    (
        {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: no"}},
        "max_tokens: no",
        {"type": "invalid_request_error"},
    ),
    ({"message": "flat words"}, "flat words", {}),
    ({"errors": [{"message": "one"}, {"message": "two"}]}, "one; two", {}),
    ({"statusCode": 400, "message": ["too hot"], "error": "Bad Request"}, "too hot", {}),
    ({"title": "Bad Request", "detail": "of RFC 9457", "type": "about:blank"}, "of RFC 9457", {}),
    (
        {"object": "error", "message": {"detail": [LOC]}, "type": "invalid_request_error"},
        "top_k: not an integer",
        {"type": "invalid_request_error"},
    ),
    (
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": RAW}}},
        "Provider returned error: inner words",
        {"code": "inner_code"},
    ),
    ({"error": {"code": 1261, "message": "numbered"}}, "numbered", {"code": "1261"}),
    ("words as JSON", "words as JSON", {}),
    (b"payload rejected by policy 17", "payload rejected by policy 17", {}),
    (b"<html><style>p{}</style><h1>Bad Request</h1><p>nginx", "Bad Request nginx", {}),
    (b'event: error\ndata: {"error": {"message": "an event"}}\n\n', "an event", {}),
    (b"", "HTTP 400", {"code": "bad_request", "type": "invalid_request_error"}),
    (b"\x1f\x8b\x00\x00", "HTTP 400", {}),
    ({}, "HTTP 400", {}),
    ({"error": None}, "HTTP 400", {}),
]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_any_shape_keeps_its_words_and_its_fields(stream):
    bodies = [body if isinstance(body, bytes) else json.dumps(body).encode() for body, *_ in SHAPES]
    replies = post_all([reply(body, 400) for body in bodies], stream=stream)
    for (body, words, fields), answer in zip(SHAPES, replies, strict=True):
        error = error_of(answer)
        assert answer.status_code == 400, body
        assert error["message"].endswith(words), (body, error)
        assert {name: error[name] for name in fields} | {} == {
            name: value for name, value in fields.items() if name != "message"
        } | ({"message": error["message"]} if "message" in fields else {}), body
        assert "secret" not in answer.text, "a validator repeats the client's text"
        assert "<" not in error["message"]


TOO_LONG = [
    (400, {"message": "This model's maximum context length is 4096 tokens. However, …"}),
    (400, {"error": {"message": "The decoder prompt is longer than the maximum model length"}}),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing it",
                "type": "exceed_context_size_error",
            }
        },
    ),
    (500, {"error": {"code": 500, "message": "the request exceeds the available context size"}}),
    (400, {"error": "input length exceeds the context length"}),
    (400, {"error": {"message": "prompt too long; exceeded max context length by 7 tokens"}}),
    (400, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    (413, {"error": {"message": "Prompt is too long", "type": "invalid_request_error"}}),
    (400, [{"error": {"message": "The input token count exceeds the maximum number of tokens"}}]),
    (422, {"error": "`inputs` must have less than 1024 tokens", "error_type": "validation"}),
    (400, {"code": "Client error", "error": "This model's maximum prompt length is 131072"}),
    (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}),
]


def test_a_request_that_is_too_long_has_the_code_by_which_agents_shorten_it():
    replies = post_all([as_json(body, code) for code, body in TOO_LONG])
    for (_, body), answer in zip(TOO_LONG, replies, strict=True):
        assert answer.status_code == 400, body
        assert error_of(answer)["code"] == "context_length_exceeded", body


def test_a_rate_limit_that_speaks_of_tokens_is_no_request_that_is_too_long():
    body = {"error": {"message": "too many tokens per minute", "code": "rate_limit_exceeded"}}
    (answer,) = post_all([as_json(body, 429)])
    assert (answer.status_code, error_of(answer)["code"]) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize("in_stream", [False, True])
def test_an_error_inside_an_answer_is_read_as_well(in_stream):
    body = {"error": {"message": "prompt is too long", "code": 400}}
    fault = as_json(body, 200)
    if in_stream:
        fault = reply(b"data: " + json.dumps(body).encode() + b"\n\n", kind="text/event-stream")
    (answer,) = post_all([fault], stream=in_stream)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "context_length_exceeded")
    assert float(answer.headers["x-routewright-cost"]) == 0


STATUSES = {
    400: 400,
    413: 413,
    415: 415,
    422: 422,
    401: 502,
    403: 502,
    402: 502,
    404: 502,
    405: 502,
    410: 502,
    307: 502,
    204: 502,
    500: 502,
    502: 502,
    503: 503,
    504: 504,
    529: 503,
    429: 429,
}


def test_only_what_the_client_can_correct_keeps_its_status():
    replies = post_all([status(code) for code in STATUSES])
    assert {c: r.status_code for c, r in zip(STATUSES, replies, strict=True)} == STATUSES


def test_a_model_that_the_client_named_itself_may_be_unknown_upstream():
    body = {"error": {"message": "try pulling it first", "code": "model_not_found"}}
    (direct,) = post_all([as_json(body, 404)], model="small")
    (routed,) = post_all([as_json(body, 404)])
    assert (direct.status_code, error_of(direct)["code"]) == (404, "model_not_found")
    assert routed.status_code == 502


def test_a_client_does_not_take_our_key_for_its_own():
    body = {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}
    for code in (401, 403):
        (answer,) = post_all([as_json(body, code)])
        error = error_of(answer)
        assert answer.status_code == 502
        assert "Incorrect API key" in error["message"]
        assert (error["type"], error["code"]) == ("upstream_error", "failed")


PANEL = {"strategy": "ranking", "options": {"experts": ["small", "large"], "reward": "recorded"}}


@pytest.mark.parametrize(
    ("faults", "code", "retry_after"),
    [
        ([status(429, Retry_After="70"), status(429, Retry_After="40")], 429, "40"),
        ([status(429), status(429, Retry_After="40")], 429, "40"),
        ([status(429, Retry_After="70"), status(503, Retry_After="40")], 503, "40"),
        ([status(429, Retry_After="70"), status(500)], 429, "70"),
        ([status(500), status(429, Retry_After="70")], 502, None),
    ],
)
def test_a_committee_that_is_busy_says_when_its_first_member_is_free(faults, code, retry_after):
    async def work(client):
        url = f"{client.base_url}chat/completions"
        return await client._client.post(url, json={"messages": asked()})

    upstreams = [Upstream(faults=[fault]) for fault in faults]
    policies = {"default": PANEL}
    answer = served(work, *upstreams, traits=(ONE_TRY, ONE_TRY), policies=policies)
    assert (answer.status_code, answer.headers.get("retry-after")) == (code, retry_after)


# --- secrets -------------------------------------------------------------------------------

API_KEY, HEADER, SIGNATURE = "my-own-key-4711", "tok-0815-internal", "sig-99-of-the-url"
NEIGHBOURS = [  # what an upstream may tell of its own surroundings
    "http://10.1.2.3:8080/v1",
    "10.1.2.3:8080",
    "10.1.2.3",
    "fd00::12:7",
    "gpu-7.cluster.internal:8000",
    "gpu-7.prod.svc.cluster.local",
    "/srv/models/llama-70b/config.json",
    "/usr/lib/python3/dist-packages/vllm/engine.py",
    "C:\\models\\llama",
    "postgresql://user:pass@db/prod",
]


def leaks():
    """Faults that tell a secret in one place or another."""

    def of(secret):
        sentence = f"cannot use {secret} for this"
        yield as_json({"error": {"message": sentence}})
        yield as_json({"error": {"message": sentence, "code": secret, "param": secret}})
        yield as_json({"error": {"message": "no", "type": f"Error at {secret}"}}, 401)
        yield as_json({"error": {"message": sentence}}, 500)
        yield as_json({"error": {"message": sentence}}, 200)
        yield as_json({"detail": [{"loc": ["body", secret], "msg": f"({secret})", "type": secret}]})
        yield reply(sentence.encode(), 502, "text/plain")
        yield reply(f"<h1>{secret}</h1><a href='{secret}'>x</a>".encode(), 403, "text/html")
        yield reply(f'data: {{"error": "{secret}"}}\n\n'.encode(), 200, "text/event-stream")
        yield status(307, Location=f"http://{secret}/")
        yield status(429, sentence, Retry_After=secret)

    return of


@pytest.mark.parametrize("stream", [False, True])
def test_no_secret_of_the_config_reaches_a_client(stream, caplog):
    caplog.set_level(logging.DEBUG, "routewright")

    async def work():
        upstream = Upstream()
        async with running(upstream):
            port = upstream.url.split(":")[-1].removesuffix("/v1")
            entry = upstream.expert(
                "small",
                retries=0,
                api_key=API_KEY,
                base_url=f"http://localhost:{port}/v1?sig={SIGNATURE}",
                headers={"x-token": HEADER, "cookie": f"session={HEADER}"},
            )
            host = f"localhost:{port}"
            secrets = [API_KEY, HEADER, SIGNATURE, host, f"127.0.0.1:{port}"]
            told = []
            async with front(config_of(entry)) as client:
                url = f"{client.base_url}chat/completions"
                for secret in [*secrets, f"http://{host}/v1?sig={SIGNATURE}", *NEIGHBOURS]:
                    for fault in leaks()(secret):
                        upstream.faults[:] = [fault]
                        body = {"messages": asked(), "stream": stream}
                        answer = await client._client.post(url, json=body)
                        assert answer.status_code not in (200, 500), answer.text
                        told.append((secret, f"{answer.headers} {answer.text}"))
                        await client._client.post(url, json={"messages": asked()})
            return [*secrets, "localhost"], told

    secrets, told = asyncio.run(work())
    for secret, text in told:
        text = text.replace("\\\\", "\\")
        assert secret not in text
        assert not [one for one in secrets if one in text]
    assert not [key for key in (API_KEY, HEADER, SIGNATURE) if key in caplog.text]


def raw_server(answer):
    """A listening socket whose connections get these bytes; None closes them at once."""

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if answer is not None:
            writer.write(answer)
            await writer.drain()
        writer.close()

    return asyncio.start_server(handle, "127.0.0.1", 0)


BROKEN = {
    "closed": None,
    "garbage": b"\x00\x01 my-own-key-4711 127.0.0.1\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nx-a: " + b"my-own-key-4711 " * 40_000 + b"\r\n\r\n",
    "half": b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{",
    "no socket": b"",
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_connection_is_told_without_its_address(fault, stream, caplog):
    caplog.set_level(logging.INFO, "routewright")

    async def work():
        server = await raw_server(BROKEN[fault])
        port = server.sockets[0].getsockname()[1]
        if fault == "no socket":
            server.close()
        entry = {
            "name": "small",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_key": API_KEY,
            "retries": 0,
        }
        async with front(config_of(entry)) as client:
            url = f"{client.base_url}chat/completions"
            body = {"messages": asked(), "stream": stream}
            answer = await client._client.post(url, json=body)
        server.close()
        return port, answer

    port, answer = asyncio.run(work())
    assert answer.status_code == 502
    assert "connection failed: " in error_of(answer)["message"]
    for secret in (API_KEY, "127.0.0.1", str(port), "my-own"):
        assert secret not in f"{answer.text} {answer.headers}"
    assert API_KEY not in caplog.text
    if fault == "no socket":
        assert str(port) in caplog.text, "the operator reads where it failed"


def test_an_unknown_host_is_told_without_its_name():
    async def work(client):
        url = f"{client.base_url}chat/completions"
        return await client._client.post(url, json={"messages": asked()})

    traits = ({"base_url": "http://gpu-7.invalid/v1", "retries": 0},)
    answer = served(work, Upstream(), traits=traits)
    assert answer.status_code in (502, 503)
    assert "gpu-7" not in answer.text


def test_ordinary_words_stay_as_they_are():
    sentences = [
        "/messages/0/content must be a text and/or a list at 12:30:45",
        "use application/json; std::vector and version 1.2.3 are fine",
        "model 'meta-llama/Llama-3.1-8B' has 8,192 tokens (see section 3.2)",
    ]
    replies = post_all([status(400, sentence) for sentence in sentences])
    for sentence, answer in zip(sentences, replies, strict=True):
        assert sentence in error_of(answer)["message"]


def test_a_very_long_error_is_short_and_quick():
    """Each of these texts would take minutes if a pattern were quadratic in its length."""
    texts = [
        "a" * 10**6,
        "/a" * 10**6,
        "a." * 10**6,
        "1." * 10**6,
        ":" * 10**6,
        "*" * 10**6,
        "<" * 10**6,
    ]
    replies = post_all([reply(text.encode(), 400, "text/plain") for text in texts])
    assert all(answer.status_code == 400 and len(answer.text) < 2000 for answer in replies)


def test_a_router_that_cannot_be_read_names_no_file(monkeypatch, caplog):
    from routewright.errors import BadRouter
    from routewright.strategies.fixed import Fixed

    def fails(self, query):
        raise BadRouter("'/srv/secret/router/router.json' is damaged")

    monkeypatch.setattr(Fixed, "plan", fails)
    (answer,) = post_all([None])
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal")
    assert "/srv" not in answer.text
    assert "/srv/secret" in caplog.text


def test_a_strategy_that_refuses_a_request_names_no_file(monkeypatch):
    from routewright.errors import BadInput
    from routewright.strategies.fixed import Fixed

    def fails(self, query):
        raise BadInput("no entry in '/srv/secret/table.csv' for this text")

    monkeypatch.setattr(Fixed, "plan", fails)
    (answer,) = post_all([None])
    assert answer.status_code == 400
    assert "no entry in '[path]' for this text" in error_of(answer)["message"]


# --- addresses and headers -----------------------------------------------------------------


def test_large_and_many_headers_of_an_upstream_pass():
    async def decorated(upstream, request, body):
        answer = await upstream._whole(body)
        answer.headers["content-security-policy"] = "script-src " + "https://a.example.com " * 4000
        for place in range(500):
            answer.headers[f"x-debug-{place}"] = "x"
        return answer

    (answer,) = post_all([decorated])
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("base_url", "target"),
    [
        (
            "/openai/gpt?api-version=2024-10-21",
            "/openai/gpt/chat/completions?api-version=2024-10-21",
        ),
        ("/v1/?a=1&b=x", "/v1/chat/completions?a=1&b=x"),
        ("/v1/", "/v1/chat/completions"),
        ("", "/chat/completions"),
    ],
)
def test_a_query_of_the_base_url_stays_last(base_url, target):
    targets = []

    async def handle(request):
        targets.append(request.raw_path)
        message = {"role": "assistant", "content": "hi"}
        return web.json_response({"choices": [{"message": message}]})

    async def work():
        app = web.Application()
        app.router.add_post("/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with front(config_of({"name": "small", "base_url": origin + base_url})) as client:
            await client.chat.completions.create(model="auto", messages=asked())
        await runner.cleanup()

    asyncio.run(work())
    assert targets == [target]


def test_an_expert_has_its_own_headers_and_may_lose_the_usual_ones():
    def headers(**traits):
        upstream = Upstream()

        async def work(client):
            await client.chat.completions.create(model="auto", messages=asked())

        served(work, upstream, traits=(traits,))
        return upstream.headers[0]

    own = headers(api_key="k-123", headers={"api-key": "v-123", "x-team": "a"})
    assert (own["Authorization"], own["api-key"], own["x-team"]) == ("Bearer k-123", "v-123", "a")
    replaced = headers(api_key="k-123", headers={"authorization": "Basic abc", "user-agent": None})
    assert replaced.getall("Authorization") == ["Basic abc"]
    assert "User-Agent" not in replaced
    assert "Authorization" not in headers(api_key="k-123", headers={"Authorization": None})


def test_headers_show_in_no_repr():
    entry = {"name": "small", "base_url": "http://h/v1?key=q-secret", "headers": {"a": "h-secret"}}
    shown = f"{config_of(entry)!r} {expert(entry)!r}"
    assert "secret" not in shown


def test_retries_of_a_closed_connection_still_help():
    upstream = Upstream(faults=[drop])

    async def work(client):
        return await client.chat.completions.create(model="auto", messages=asked())

    assert served(work, upstream).model == "small"
    assert upstream.requests == 2
