"""OpenTelemetry spans: one for each request, and in it one for each ask.

Their names and attributes follow the conventions for HTTP servers and for clients of generative AI
(https://github.com/open-telemetry/semantic-conventions-genai). No span holds text of a query or an
answer, a key, a header, or anything else that a client wrote.
"""

from __future__ import annotations

import os
import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routewright import __version__
from routewright.drive import Asker
from routewright.errors import BadInput, RoutewrightError, needs
from routewright.experts.traces import TRACE, Trace, trace_of
from routewright.types import Answer, Ask, Delta, Expert, Query

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

UNTRACED = ("/health", "/ready", "/metrics")  # addresses that are called all the time
METHODS = frozenset("GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH QUERY".split())
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter")
SUPPORTED = {  # variable ▶ the values that this gateway can do
    "OTEL_TRACES_EXPORTER": ("otlp", "none"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf",),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("http/protobuf",),
}
PROVIDERS = {  # the end of a host's name ▶ its `gen_ai.provider.name`
    "anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "amazonaws.com": "aws.bedrock",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "openai.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
}
ATTRIBUTES = {  # field of a decision's log line ▶ attribute of its request's span
    "id": "routewright.decision_id",
    "policy": "routewright.policy",
    "expert": "routewright.expert",
    "path": "routewright.path",
    "status": "routewright.status",
    "cost": "routewright.usd",
    "estimated": "routewright.estimated_usd",
    "data_class": "routewright.data_class",
    "overhead_ms": "routewright.overhead_ms",
}


class Tracing:
    """Sends spans to the collector that the standard OTEL_* variables name, in batches.

    A collector that does not answer holds up no request: spans that do not fit into the queue are
    dropped. Raises MissingExtra, and BadInput for a variable that asks for something else.
    """

    def __init__(self) -> None:
        with needs("`server.traces`"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        _check_environment()
        own = {"service.name": "routewright", "service.version": __version__}
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        try:
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            if os.environ.get("OTEL_TRACES_EXPORTER") != "none":
                self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        except ValueError as error:
            raise BadInput(f"an OTEL_* variable cannot be used: {error}") from error
        self.tracer = self._provider.get_tracer("routewright", __version__)

    def close(self) -> None:
        """Sends the last spans; waits for the collector as long as the variables allow."""
        self._provider.shutdown()


def _check_environment() -> None:
    for name, values in SUPPORTED.items():
        value = os.environ.get(name)
        if value and value not in values:
            raise BadInput(f"{name}={value} is not supported: use {' or '.join(values)}")


class Traces:
    """Continues the trace that a request belongs to; with `tracing`, a span covers the request."""

    def __init__(self, app: ASGIApp, tracing: Tracing | None = None) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        parents = _values(scope, b"traceparent")
        # Every request has a context of its own, which ends with it.
        TRACE.set(trace_of(parents, _values(scope, b"tracestate")) if parents else None)
        if self.tracing is None or scope["state"]["path"] in UNTRACED:
            return await self.app(scope, receive, send)
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        span = RequestSpan(self.tracing.tracer, method, scope["scheme"])
        scope.setdefault("state", {})["span"] = span

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end(getattr(scope.get("route"), "path", None))


def _values(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]


class RequestSpan:
    """The span of one request, and the asker whose asks get spans in it."""

    def __init__(self, tracer: Tracer, method: str, scheme: str) -> None:
        self.tracer = tracer
        self.method = method
        self.code: int | None = None  # HTTP status; None before the response
        self.asker: SpanAsker | None = None
        self._error: str | None = None
        parent = TRACE.get()
        attributes = {"http.request.method": method, "url.scheme": scheme}
        self.span = _start(tracer, self._name(None), "SERVER", parent, attributes)
        self.trace = _trace(self.span, parent)
        TRACE.set(self.trace)

    def around(self, asker: Asker, experts: Mapping[str, Expert]) -> Asker:
        """The asker that gives every ask a span, unless the request is not sampled."""
        if not self.span.is_recording():
            return asker
        self.asker = SpanAsker(asker, experts, self.tracer, self.trace)
        return self.asker

    def describe(self, line: Mapping[str, Any]) -> None:
        """Takes over what the log line of the request's decision says."""
        pairs = ((ATTRIBUTES[key], line[key]) for key in ATTRIBUTES if line.get(key) is not None)
        self.span.set_attributes(dict(pairs))
        if line["status"] != "ok":
            self.fail(str(line["status"]))

    def fail(self, error: str) -> None:
        self._error = error

    def end(self, route: str | None) -> None:
        """Ends the span. A request that the client must correct (4xx) is no error of the server."""
        code = self.code
        if self.asker is not None:
            self.asker.end()
        self.span.update_name(self._name(route))
        if route is not None:
            self.span.set_attribute("http.route", route)
        if code is not None:
            self.span.set_attribute("http.response.status_code", code)
            if code >= 500:
                _fail(self.span, self._error or str(code))
        if self._error is not None and (code is None or code < 400):
            _fail(self.span, self._error)
        self.span.end()

    def _name(self, route: str | None) -> str:
        method = "HTTP" if self.method == "_OTHER" else self.method
        return f"{method} {route}" if route else method


class SpanAsker:
    """An Asker that gives every ask of one request a span.

    The span of an ask that is cancelled waits for its bill, or for the end of the request.
    """

    def __init__(
        self, asker: Asker, experts: Mapping[str, Expert], tracer: Tracer, parent: Trace | None
    ) -> None:
        self.asker = asker
        self.experts = experts
        self.tracer = tracer
        self.parent = parent
        self._unbilled: dict[int, tuple[Span, int | None]] = {}  # id of an ask ▶ span, and its end

    async def ask(self, ask: Ask, query: Query) -> Answer:
        with self._span(ask, streams=False) as span:
            with self._current(span):
                answer = await self.asker.ask(ask, query)
            self._answered(ask, answer)
        return answer

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        began, is_first = time.perf_counter(), True
        with self._span(ask, streams=True) as span:
            async with aclosing(self.asker.stream(ask, query)) as pieces:
                while True:
                    # Not over a `yield`: whoever reads on may have another context.
                    with self._current(span):
                        try:
                            piece = await anext(pieces)
                        except StopAsyncIteration:
                            return
                    if is_first:
                        is_first, seconds = False, time.perf_counter() - began
                        span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)
                    if isinstance(piece, Answer):
                        self._answered(ask, piece)
                    yield piece

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        bill = self.asker.bill(ask, query, seconds)
        span, end = self._unbilled.pop(id(ask), (None, None))
        if span is not None:
            # A stream that is billed before its end has deferred.
            span.set_attributes(_measures(bill, "cancelled" if end else "deferred"))
            if end:
                span.end(end)
        return bill

    def end(self) -> None:
        """Ends the spans of cancelled asks that nobody has billed."""
        for span, end in self._unbilled.values():
            span.end(end)
        self._unbilled.clear()

    def _answered(self, ask: Ask, answer: Answer) -> None:
        span, _ = self._unbilled.pop(id(ask))
        span.set_attributes(_measures(answer, ask.mark_deferred(answer).status))
        model = answer.extra.get("model")
        if isinstance(model, str):
            span.set_attribute("gen_ai.response.model", model[:100])
        if answer.finish_reason in FINISH_REASONS:
            span.set_attribute("gen_ai.response.finish_reasons", [answer.finish_reason])

    @contextmanager
    def _span(self, ask: Ask, *, streams: bool) -> Iterator[Span]:
        expert = self.experts[ask.expert]
        attributes = {**_of_expert(expert), **_of_ask(ask), "gen_ai.request.stream": streams}
        kind = "CLIENT" if expert.base_url else "INTERNAL"
        name = f"chat {expert.model or expert.name}"
        span = _start(self.tracer, name, kind, self.parent, attributes)
        self._unbilled[id(ask)] = span, None
        try:
            yield span
        except (CancelledError, GeneratorExit):
            if id(ask) in self._unbilled:  # it has neither been answered nor deferred
                _fail(span, "cancelled")
                span.set_attribute("routewright.status", "cancelled")
                self._unbilled[id(ask)] = span, time.time_ns()
                raise
            span.end()
            raise
        except BaseException as error:
            self._unbilled.pop(id(ask), None)
            _fail(span, str(getattr(error, "status", None) or type(error).__name__))
            cost = getattr(error, "cost", 0.0) if isinstance(error, RoutewrightError) else 0.0
            span.set_attributes({"routewright.status": "failed", "routewright.usd": cost})
            span.end()
            raise
        span.end()

    @contextmanager
    def _current(self, span: Span) -> Iterator[None]:
        """Makes the span the parent of what an expert's server traces."""
        token = TRACE.set(_trace(span, self.parent))
        try:
            yield
        finally:
            TRACE.reset(token)


def _of_expert(expert: Expert) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "gen_ai.request.model": expert.model or expert.name,
        "gen_ai.provider.name": expert.provider,
        "routewright.expert": expert.name,
    }
    url = urlsplit("" if expert.deployments else expert.base_url or "")
    if url.hostname:
        host = f".{url.hostname}"
        for end, name in PROVIDERS.items():
            if host.endswith(f".{end}"):
                attributes["gen_ai.provider.name"] = name
        attributes["server.address"] = url.hostname
        attributes["server.port"] = url.port or (443 if url.scheme == "https" else 80)
    return attributes


def _of_ask(ask: Ask) -> dict[str, str | int]:
    choices = {"gen_ai.request.choice.count": ask.samples} if ask.samples > 1 else {}
    operation = "embeddings" if ask.kind == "embed" else "chat"
    return {"gen_ai.operation.name": operation, "routewright.kind": ask.kind, **choices}


def _measures(answer: Answer, status: str) -> dict[str, str | int | float | bool]:
    """What an answer took."""
    return {
        "gen_ai.usage.input_tokens": answer.input_tokens,
        "gen_ai.usage.output_tokens": answer.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": answer.cached_tokens,
        "routewright.usd": answer.cost,
        "routewright.estimated": answer.estimated,
        "routewright.status": status,
    }


def _start(
    tracer: Tracer, name: str, kind: str, parent: Trace | None, attributes: Mapping[str, Any]
) -> Span:
    from opentelemetry import trace
    from opentelemetry.context import Context

    context = Context()
    if parent is not None:
        flags = trace.TraceFlags(parent.flags)
        ids = int(parent.id, 16), int(parent.span, 16)
        is_remote = kind == "SERVER"
        parent_context = trace.SpanContext(*ids, is_remote, flags)
        span = trace.NonRecordingSpan(parent_context)
        context = trace.set_span_in_context(span, context)
    # Exceptions are not recorded: their messages may repeat a query.
    return tracer.start_span(
        name, context, trace.SpanKind[kind], attributes, record_exception=False
    )


def _trace(span: Span, parent: Trace | None) -> Trace | None:
    """The trace that begins with a span; that of the parent if the SDK is disabled."""
    context = span.get_span_context()
    if not context.is_valid:
        return parent
    ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return Trace(*ids, context.trace_flags, parent.state if parent else "")


def _fail(span: Span, error: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", error)
