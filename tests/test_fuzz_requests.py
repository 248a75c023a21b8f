"""What clients may send: any body, any header and any length get an answer or a clear refusal."""

import asyncio
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routewright.gateway.app import build
from routewright.gateway.body import LIMITS, ChatRequest, parse
from routewright.gateway.errors import BadRequest
from routewright.types import DATA_CLASSES
from upstream import config_of

KEY = "key-for-tests"
MAX_BODY = 2_000
QUESTION = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def objects(required=(), **fields):
    """Objects in which any field may be missing, or hold anything."""
    odd = {name: st.one_of(field, field, values) for name, field in fields.items()}
    needed = {name: odd.pop(name) for name in required}
    return st.fixed_dictionaries(needed, optional=odd)


parts = objects(
    type=st.sampled_from(["text", "image_url", "input_audio", "file"]),
    text=st.text(),
    image_url=objects(url=st.text()),
)
messages = objects(
    required=["role"],
    role=st.sampled_from(["system", "user", "assistant", "tool", "developer"]),
    content=st.text() | st.lists(parts, max_size=3),
    tool_calls=st.lists(values, max_size=2),
)
limits = {name: numbers | st.sampled_from([*DATA_CLASSES, "0.5", "eu"]) for name in LIMITS}
bodies = objects(
    required=["messages"],
    messages=st.lists(messages, min_size=1, max_size=3),
    model=st.sampled_from(
        ["auto", "small", "routewright/default", "router-mf-0.5", "router-x-9e9"]
    ),
    stream=st.booleans(),
    stream_options=objects(include_usage=st.booleans()),
    response_format=objects(type=st.sampled_from(["json_object", "json_schema", "text"])),
    tools=st.lists(values, max_size=2),
    functions=st.lists(values, max_size=2),
    max_tokens=st.integers(1, 50),
    max_completion_tokens=st.integers(1, 50),
    n=st.just(1),
    temperature=numbers,
    seed=st.integers(),
    routewright=objects(**limits),
    metadata=objects(**limits),
    extra_body=objects(**limits, temperature=numbers),
    **limits,
)


def parsed(body) -> ChatRequest | BadRequest:
    try:
        return parse(json.loads(json.dumps(body)), "public")
    except BadRequest as error:
        return error


@given(bodies | values)
def test_any_json_is_a_request_or_a_bad_request(body):
    request = parsed(body)
    if isinstance(request, BadRequest):
        assert 400 <= request.status < 500
        assert str(request)
        return
    assert request.query.data_class in DATA_CLASSES
    assert isinstance(request.query.text, str)
    assert isinstance(request.query.full_text, str)


@given(bodies.filter(lambda body: "routewright" not in body), st.sampled_from(DATA_CLASSES))
def test_a_request_never_loses_its_data_class(body, data_class):
    """If it is a request at all, then it is one with the data class that the client wrote."""
    request = parsed({**body, "routewright": {"data_class": data_class}})
    assert isinstance(request, BadRequest) or request.query.data_class == data_class


@pytest.mark.parametrize("field", ["routewright", "metadata", "extra_body", "stream_options"])
@pytest.mark.parametrize("value", [False, 0, "", []])
def test_an_empty_value_of_the_wrong_type_is_refused(field, value):
    assert isinstance(parsed({**QUESTION, field: value}), BadRequest)


def test_a_limit_of_whole_tokens_may_be_written_with_a_point():
    assert parsed({**QUESTION, "max_tokens": 5.0}).query.options == {"max_tokens": 5}
    assert isinstance(parsed({**QUESTION, "max_tokens": 5.5}), BadRequest)


class App:
    """The application, without a server between: what any ASGI server may hand to it."""

    def __init__(self):
        experts = [{"name": "small", "model": "abacus", "provider": "sandbox"}]
        server = {"api_keys": [KEY], "max_body_bytes": MAX_BODY}
        self.app = build(config_of(*experts, server=server))
        self.runner = asyncio.Runner()
        self.lifespan = self.app.router.lifespan_context(self.app)
        self.runner.run(self.lifespan.__aenter__())

    def send(self, *chunks, path="/v1/route", headers=(), key=KEY):
        """The status, the headers and the body of a reply."""
        return self.runner.run(self._send(chunks, path, headers, key))

    async def _send(self, chunks, path, headers, key):
        sent = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        if key is not None:
            sent.append((b"authorization", f"Bearer {key}".encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1:4100"), *sent],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 4100),
        }
        incoming = [
            {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
        ] + [{"type": "http.request", "body": b"", "more_body": False}]
        outgoing, done = [], asyncio.Event()

        async def receive():
            if incoming:
                return incoming.pop(0)
            await done.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            outgoing.append(message)

        await self.app(scope, receive, send)
        done.set()
        start, *rest = outgoing
        body = b"".join(message.get("body", b"") for message in rest)
        replied = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return start["status"], replied, body

    def close(self):
        self.runner.run(self.lifespan.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="module")
def app():
    app = App()
    yield app
    app.close()


PATHS = st.sampled_from(["/v1/route", "/v1/chat/completions", "/v1/feedback"])


def refused(status, body):
    """Whether a reply is a refusal that names a reason."""
    return 400 <= status < 500 and bool(json.loads(body)["error"]["message"])


@given(PATHS, st.lists(st.binary(max_size=MAX_BODY) | st.text().map(str.encode), max_size=4))
def test_any_bytes_get_an_answer_or_a_refusal(app, path, chunks):
    status, _, body = app.send(*chunks, path=path)
    assert status == 200 or refused(status, body)


@given(PATHS, bodies)
def test_any_request_gets_an_answer_or_a_refusal(app, path, body):
    status, _, reply = app.send(json.dumps(body).encode(), path=path)
    assert status == 200 or refused(status, reply)


@given(st.integers(0, 3 * MAX_BODY), st.lists(st.integers(1, MAX_BODY), max_size=6))
def test_a_body_is_refused_by_its_size_whatever_its_length_says(app, length, sizes):
    chunks = [b" " * size for size in sizes]
    raw = [json.dumps(QUESTION).encode(), *chunks]
    status, _, body = app.send(*raw, headers=[("content-length", str(length))])
    too_large = length > MAX_BODY or sum(map(len, raw)) > MAX_BODY
    assert status == (413 if too_large else 200), body


latin = st.text(st.characters(codec="latin-1"), max_size=300)


@given(st.sampled_from(["-1", "1_0", "+5", " 7", "٣", "²", "1e3", "", "0x10"]) | latin)
def test_any_content_length_gets_an_answer_or_a_refusal(app, length):
    written = length.encode("latin-1", "replace").decode("latin-1")
    headers = [("content-length", written)]
    status, _, body = app.send(json.dumps(QUESTION).encode(), headers=headers)
    assert status == 200 or refused(status, body)


@given(st.text("abcXYZ019_.:/+=-", min_size=1, max_size=140) | latin)
def test_a_request_id_comes_back_only_if_a_log_can_hold_it(app, request_id):
    _, headers, _ = app.send(b"{}", headers=[("x-request-id", request_id)])
    returned = headers["x-request-id"]
    assert re.fullmatch(r"[\w.:/+=-]{1,128}", returned, re.ASCII)
    harmless = re.fullmatch(r"[\w.:/+=-]{1,128}", request_id, re.ASCII)
    assert (returned == request_id) == bool(harmless)


schemes = st.sampled_from(["Bearer", "bearer", "Basic", "Token", ""])
credentials = st.sampled_from([KEY, KEY.upper(), KEY[:-1], f"{KEY}x", f"{KEY} {KEY}", ""])


@given(st.tuples(schemes, st.sampled_from([" ", "  ", "\t", ""]), credentials | latin))
def test_only_the_key_opens_the_door(app, parts):
    scheme, space, credential = parts
    header = [("authorization", f"{scheme}{space}{credential}")]
    status, _, body = app.send(json.dumps(QUESTION).encode(), headers=header, key=None)
    is_key = scheme.lower() == "bearer" and space.startswith(" ") and credential.strip() == KEY
    assert status == (200 if is_key else 401), body


names = st.from_regex(r"[a-z][a-z-]{0,30}", fullmatch=True)
known = st.sampled_from(["origin", "content-type", "sec-fetch-site", "x-routewright-debug", "host"])


@given(st.lists(st.tuples(known | names.filter(lambda name: name != "authorization"), latin)))
def test_any_headers_get_an_answer_or_a_refusal(app, headers):
    headers = [(name, value) for name, value in headers if name != "content-length"]
    status, _, body = app.send(json.dumps(QUESTION).encode(), headers=headers)
    assert status == 200 or refused(status, body)
