"""Traces: what a real collector receives, and what the servers of experts are told of them."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import openai
import pytest

from routewright.errors import BadInput
from routewright.experts.traces import trace_of
from routewright.gateway.app import build
from test_gateway import create, pieces, served
from test_light import without_extras
from test_lines import said_url
from upstream import Upstream, asked, break_off, config_of, drop, front, hang, in_thread, status

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
    reason="the extra `otel` is not installed",
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=zebra"}
TRACED = {"traces": True}
POLICIES = {
    "fixed": {"strategy": "fixed", "options": {"expert": "small"}},
    "up": {"strategy": "cascade", "options": {"ladder": ["small", "large"]}},
    "both": {
        "strategy": "fixed",
        "options": {"expert": "small"},
        "fallback": ["large"],
    },
}
CAREFUL = {"retries": 0}


@dataclass
class Collector:
    """A server for OTLP over HTTP. `spans` are those that it got, `raw` all bytes of them."""

    spans: list[Any] = field(default_factory=list)
    raw: bytes = b""
    service: str = ""
    url: str = ""

    def take(self, data: bytes) -> None:
        self.raw += data
        for resource in trace_service.ExportTraceServiceRequest.FromString(data).resource_spans:
            self.service = attributes(resource.resource)["service.name"]
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def kinds(self, kind: str) -> list[Any]:
        """The spans of one kind, in the order of their beginning."""
        number = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3}[kind]
        of_kind = [span for span in self.spans if span.kind == number]
        return sorted(of_kind, key=lambda span: span.start_time_unix_nano)


def attributes(span: Any) -> dict[str, Any]:
    def value(one: Any) -> Any:
        kind = one.WhichOneof("value")
        if kind == "array_value":
            return [value(item) for item in one.array_value.values]
        return getattr(one, kind)

    return {pair.key: value(pair.value) for pair in span.attributes}


@pytest.fixture
def collector(monkeypatch) -> Iterator[Collector]:
    """A collector that the environment names."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            is_small = self.headers.get("content-encoding") == "gzip"
            collector.take(gzip.decompress(data) if is_small else data)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    server.shutdown()
    thread.join()
    server.server_close()


# --- spans ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [create, pieces])
def test_a_request_and_each_of_its_asks_has_a_span(collector, how):
    small, large = Upstream(says="incorrect"), Upstream(says="four")
    served(
        how("up", extra_headers=PARENT), small, large, policies=POLICIES, server=TRACED,
        traits=({"model": "tiny-1"}, {"model": "big-2"}),
    )  # fmt: skip
    (request,) = collector.kinds("SERVER")
    assert request.name == "POST /v1/chat/completions"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    about = attributes(request)
    assert about["http.route"] == "/v1/chat/completions"
    assert about["http.response.status_code"] == 200
    assert about["routewright.policy"] == "up"
    assert about["routewright.expert"] == "large"
    assert about["routewright.status"] == "ok"
    assert len(about["routewright.decision_id"]) == 32
    asks = collector.kinds("CLIENT")
    assert [ask.name for ask in asks] == ["chat tiny-1", "chat tiny-1", "chat big-2"]
    assert {ask.parent_span_id for ask in asks} == {request.span_id}
    assert {ask.trace_id for ask in asks} == {request.trace_id}
    told = [attributes(ask) for ask in asks]
    assert [one["routewright.kind"] for one in told] == ["answer", "verify", "answer"]
    assert [one["routewright.expert"] for one in told] == ["small", "small", "large"]
    assert {one["routewright.status"] for one in told} == {"ok"}
    assert {one["gen_ai.operation.name"] for one in told} == {"chat"}
    assert {one["gen_ai.provider.name"] for one in told} == {"openai"}
    assert {one["server.address"] for one in told} == {"127.0.0.1"}
    assert f":{told[0]['server.port']}/" in small.url
    assert told[2]["gen_ai.request.model"] == "big-2"
    assert told[2]["gen_ai.response.finish_reasons"] == ["stop"]
    assert told[2]["gen_ai.request.stream"] is (how is pieces)
    assert ("gen_ai.response.time_to_first_chunk" in told[2]) is (how is pieces)
    assert told[2]["gen_ai.usage.output_tokens"] >= 1
    usd = [one["routewright.usd"] for one in told]
    assert all(usd)
    assert math.isclose(sum(usd), about["routewright.usd"])
    assert not any(span.status.code for span in collector.spans)
    assert collector.service == "routewright"


@pytest.mark.parametrize("how", [create, pieces])
def test_a_failed_ask_is_an_error_and_the_request_that_another_expert_answers_is_none(
    collector, how
):
    small, large = Upstream(faults=[status(500)]), Upstream()
    served(how("both"), small, large, policies=POLICIES, server=TRACED, traits=(CAREFUL,))
    failed, answered = collector.kinds("CLIENT")
    assert attributes(failed)["error.type"] == "500"
    assert attributes(failed)["routewright.status"] == "failed"
    assert (failed.status.code, failed.status.message) == (2, "")
    assert attributes(answered)["routewright.expert"] == "large"
    (request,) = collector.kinds("SERVER")
    assert request.status.code == 0
    assert "error.type" not in attributes(request)
    assert not failed.events


def test_a_stream_that_breaks_is_an_error_of_its_request(collector):
    with pytest.raises(openai.APIError):
        served(
            pieces(), Upstream(faults=[break_off]), policies=POLICIES, server=TRACED,
            traits=(CAREFUL,),
        )  # fmt: skip
    (ask,) = collector.kinds("CLIENT")
    assert attributes(ask)["error.type"] == "StreamBroken"
    (request,) = collector.kinds("SERVER")
    assert attributes(request)["http.response.status_code"] == 200
    assert attributes(request)["error.type"] == "StreamBroken"
    assert request.status.code == 2
    assert attributes(request)["routewright.usd"] == attributes(ask)["routewright.usd"] > 0


def test_an_ask_that_is_cancelled_has_its_bill(collector):
    limits = {"extra_body": {"routewright": {"max_latency_ms": 300}}}
    with pytest.raises(openai.InternalServerError):
        served(create(**limits), Upstream(faults=[hang]), policies=POLICIES, server=TRACED)
    (ask,) = collector.kinds("CLIENT")
    about = attributes(ask)
    assert (about["error.type"], about["routewright.status"]) == ("cancelled", "cancelled")
    assert about["routewright.estimated"]
    (request,) = collector.kinds("SERVER")
    assert attributes(request)["routewright.usd"] == about["routewright.usd"] > 0
    assert attributes(request)["error.type"] == "DeadlineExceeded"


def test_what_is_refused_has_a_span_and_what_only_probes_call_has_none(collector):
    async def work(client):
        for path in ("/health", "/ready", "/metrics", "/nowhere/zebra", "/v1/models/zebra"):
            await client._client.get(str(client.base_url).removesuffix("/v1/") + path)
        await client._client.request("PROPFIND", f"{client.base_url}models")

    served(work, Upstream(), server=TRACED)
    spans = collector.kinds("SERVER")
    assert [span.name for span in spans] == ["GET", "GET /v1/models/{name:path}", "HTTP /v1/models"]
    codes = [attributes(span)["http.response.status_code"] for span in spans]
    assert codes == [404, 404, 405]
    assert not any(span.status.code for span in spans)
    assert b"zebra" not in collector.raw.lower()


def test_in_process_experts_have_internal_spans(collector):
    async def work(client):
        await client.chat.completions.create(model="abacus", messages=asked())

    abacus = {"name": "abacus", "provider": "sandbox", "output_per_mtok": 1.0}
    served_by(abacus, work)
    (ask,) = collector.kinds("INTERNAL")
    about = attributes(ask)
    assert (about["gen_ai.provider.name"], about["routewright.expert"]) == ("sandbox", "abacus")
    assert "server.address" not in about


def served_by(entry: dict[str, Any], work: Any) -> None:
    async def run() -> None:
        async with front(config_of(entry, server=TRACED)) as client:
            await work(client)

    asyncio.run(run())


def test_standard_variables_decide(collector, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway-eu")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    served(create(), Upstream(), server=TRACED)
    assert collector.service == "gateway-eu"
    assert len(collector.spans) == 2
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    upstream = Upstream()
    served(create(extra_headers=PARENT), upstream, server=TRACED)
    assert len(collector.spans) == 2
    assert upstream.headers[0]["traceparent"].startswith(f"00-{TRACE}-")
    assert upstream.headers[0]["traceparent"].endswith("-00")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    served(create(extra_headers=PARENT), upstream, server=TRACED)
    assert len(collector.spans) == 2
    assert upstream.headers[1]["traceparent"] == PARENT["traceparent"]


def test_a_client_that_does_not_sample_gets_no_spans(collector):
    unsampled = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    served(create(extra_headers=unsampled), Upstream(), server=TRACED)
    assert not collector.spans


def test_a_collector_that_is_down_fails_no_request(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert served(create(), Upstream(), server=TRACED).model == "small"


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_an_exporter_that_we_do_not_have_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"{name}={value} is not supported: use "):
        build(config_of(Upstream(url="http://127.0.0.1:9/v1").expert("small"), server=TRACED))


# --- traceparent ---------------------------------------------------------------------------


def test_the_server_of_an_expert_continues_the_span_of_its_ask(collector):
    small, large = Upstream(says="incorrect"), Upstream()
    served(pieces("up", extra_headers=PARENT), small, large, policies=POLICIES, server=TRACED)
    spans = [span.span_id.hex() for span in collector.kinds("CLIENT")]
    headers = [*small.headers, *large.headers]
    assert [one["traceparent"] for one in headers] == [f"00-{TRACE}-{span}-01" for span in spans]
    assert {one["tracestate"] for one in headers} == {"vendor=zebra"}
    assert b"zebra" not in collector.raw


@pytest.mark.parametrize("how", [create, pieces])
def test_without_spans_the_clients_trace_is_passed_on_all_the_same(how):
    upstream = Upstream()
    served(how(extra_headers=PARENT), upstream)
    assert upstream.headers[0]["traceparent"] == PARENT["traceparent"]
    assert upstream.headers[0]["tracestate"] == "vendor=zebra"
    served(how(), upstream)
    assert "traceparent" not in upstream.headers[1]


def test_it_is_passed_on_where_the_extra_is_not_installed():
    code = """
sys.path.insert(0, sys.argv[1])
from test_gateway import create, served
from upstream import Upstream
upstream = Upstream()
served(create(extra_headers={"traceparent": sys.argv[2]}), upstream)
print(upstream.headers[0]["traceparent"], "opentelemetry" in sys.modules)
"""
    done = without_extras(code, str(__file__).rpartition("/")[0], PARENT["traceparent"])
    assert done.stdout.split() == [PARENT["traceparent"], "False"], done.stderr


def test_spans_without_the_extra_are_one_sentence_and_exit_code_2(tmp_path):
    file = tmp_path / "routewright.yaml"
    expert = {"name": "abacus", "provider": "sandbox", "output_per_mtok": 1.0}
    policies = {"mine": {"strategy": "fixed", "options": {"expert": "abacus"}}}
    server = {"traces": True, "port": 0}
    document = {"version": 1, "experts": [expert], "policies": policies, "server": server}
    file.write_text(json.dumps(document))
    code = """
from routewright.cli.main import run
sys.argv = ["routewright", "serve", sys.argv[1]]
run()
"""
    done = without_extras(code, str(file))
    sentence = "`server.traces` needs more packages: pip install 'routewright[otel]'"
    assert (done.returncode, done.stderr.strip()) == (2, f"Error: {sentence}")


def test_an_experts_own_headers_come_first():
    upstream, own = Upstream(), {"Traceparent": None, "tracestate": "mine=1"}
    served(create(extra_headers=PARENT), upstream, traits=({"headers": own},))
    assert "traceparent" not in upstream.headers[0]
    assert upstream.headers[0]["tracestate"] == "mine=1"


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "zebra",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01" + " " * 60_000 + "x",
    ],
)
def test_an_invalid_traceparent_is_ignored(parent):
    upstream = Upstream()
    served(create(extra_headers={"traceparent": parent}), upstream)
    assert "traceparent" not in upstream.headers[0]


def test_later_versions_are_continued_as_ours_and_bad_states_are_dropped():
    assert trace_of([f"cc-{TRACE}-{SPAN}-ff-later"]).headers() == {
        "traceparent": f"00-{TRACE}-{SPAN}-03"
    }
    assert trace_of([PARENT["traceparent"]] * 2) is None
    for state in ("zebra", "a=1,a=2", "A=1", "a=ä", f"a={'x' * 600}", "a=1,=2"):
        assert trace_of([PARENT["traceparent"]], [state]).headers().keys() == {"traceparent"}
    two = trace_of([PARENT["traceparent"]], ["a=1, b=2", ",c@d=x y"])
    assert two.headers()["tracestate"] == "a=1,b=2,c@d=x y"


# --- what neither spans nor logs nor metrics hold ------------------------------------------

SECRET = "zebra"  # in everything that a client or an upstream writes
LEAKY = """
import sys
from routewright.cli.main import run
from routewright.gateway.policies import Policy, with_fallback

class Leaky:
    def plan(self, query):
        raise ValueError(f"cannot read {query.text}")
        yield

original = Policy.strategy_for
Policy.strategy_for = lambda policy, query: (
    with_fallback(Leaky(), policy.fallback) if "leak" in policy.name else original(policy, query)
)
sys.argv = ["routewright", "serve", sys.argv[1]]
run()
"""


def test_nothing_that_a_client_or_an_upstream_wrote_is_in_logs_metrics_or_spans(
    collector, tmp_path
):
    key, told = f"{SECRET}-key", f"I was told {SECRET}"
    small = Upstream(says=f"say {SECRET}", faults=[None, None, status(500, told), drop])
    large = Upstream(says=SECRET)
    with in_thread(small, large):
        experts = [
            small.expert("small", api_key=f"{SECRET}-upstream", retries=0),
            large.expert("large"),
        ]
        policies = {**POLICIES, "leaky": POLICIES["fixed"], "leaks": POLICIES["both"]}
        server = {**TRACED, "api_keys": [key], "port": 0}
        document = {"version": 1, "experts": experts, "policies": policies, "server": server}
        (tmp_path / "routewright.yaml").write_text(json.dumps(document))
        process = subprocess.Popen(
            [sys.executable, "-c", LEAKY, str(tmp_path / "routewright.yaml")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            base = said_url(process)
            codes, metrics = _requests_with_secrets(f"{base}/v1", key)
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=600)
    assert codes == [200, 200, 404, 500, 200, 200, 200, 400, 400, 422, 401, 400, 404, 404, 200]
    lines = [json.loads(line) for line in errors.decode().splitlines()]
    logs = json.dumps(lines)
    assert "its fallback is asked" in logs  # by a step of a strategy, in a thread
    assert "ValueError: its message is left out" in logs
    assert "connection failed" in logs or "Server disconnected" in logs
    assert len(collector.kinds("SERVER")) == len(codes)
    assert "routewright_decisions_total" in metrics
    for text in (logs, metrics, collector.raw.decode("latin-1")):
        assert SECRET not in text.lower()
    of_requests = [line for line in lines if "stopping" not in line.get("message", "")]
    assert len(of_requests) > len(small.bodies)
    for line in of_requests:
        assert (line["request_id"], line["trace_id"]) == ("request-7", TRACE), line


def _requests_with_secrets(base: str, key: str) -> tuple[list[int], str]:
    """Sends the secret everywhere; the statuses of the answers, and the metrics afterwards."""
    good = {
        "authorization": f"Bearer {key}",
        "traceparent": PARENT["traceparent"],
        "tracestate": f"{SECRET}={SECRET}",
        "x-request-id": "request-7",
        f"x-{SECRET}": SECRET,
        "cookie": SECRET,
        "user-agent": SECRET,
        "baggage": f"{SECRET}={SECRET}",
    }
    body = {"messages": asked(f"my {SECRET}"), "user": SECRET, "metadata": {"user": SECRET}}
    bodies = [
        body,
        {**body, "stream": True},
        {**body, "model": SECRET},
        {**body, "model": "leaky"},
        {**body, "model": "leaks"},
        {**body, "model": "both"},
        {**body, "model": "both"},
        {**body, "n": SECRET},
        {**body, "routewright": {SECRET: SECRET}},
        {**body, "routewright": {"region": SECRET}},
    ]
    chat = f"{base}/chat/completions"
    wrong = {**good, "authorization": f"Bearer {key}-wrong"}
    fresh = httpx2.Limits(max_keepalive_connections=0)  # a failure of the gateway closes its own
    with httpx2.Client(timeout=600, limits=fresh) as http:
        replies = [http.post(chat, json=one, headers=good) for one in bodies]
        replies.append(http.post(chat, json=body, headers=wrong))
        replies.append(http.post(chat, content=f"{{{SECRET}", headers=good))
        for path in (SECRET, f"models/{SECRET}", f"models?{SECRET}={SECRET}"):
            replies.append(http.get(f"{base}/{path}", headers=good))
        metrics = http.get(f"{base.removesuffix('/v1')}/metrics", headers=good)
    return [reply.status_code for reply in replies], metrics.text
