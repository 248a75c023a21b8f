"""Makes one decision for a request and sends its answer, whole or as a stream, in any protocol."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright import drive
from routewright.errors import RoutewrightError
from routewright.experts.limits import strictest
from routewright.experts.traces import trace_id
from routewright.gateway import sessions
from routewright.gateway.accounting import Account
from routewright.gateway.body import ChatRequest
from routewright.gateway.errors import (
    INTERNAL,
    BadRequest,
    body_of,
    headers_of,
    in_protocol,
    status_of,
)
from routewright.gateway.explain import table
from routewright.gateway.pacing import Pace
from routewright.gateway.permissions import check_policy, permitted, with_built_in_tools
from routewright.gateway.policies import DIRECT, Policy
from routewright.gateway.records import LimitReached
from routewright.gateway.replies import COMMENT, Memory, ReplyFormat, cost_headers, header
from routewright.gateway.services import Parse, Services
from routewright.gateway.sessions import Place
from routewright.gateway.stopwatch import Stopwatch
from routewright.gateway.streams import Events
from routewright.gateway.tracing import RequestSpan
from routewright.records.keys import Key
from routewright.records.texts import clean, kept
from routewright.router.explanation import chances, is_quick
from routewright.strategies import is_light
from routewright.types import (
    DATA_CLASSES,
    Answer,
    Decision,
    Delta,
    Prediction,
    Strategy,
    changed,
    estimated_cost,
    path_of,
    total_cost,
)

RECORDED = (  # what a record shares with the log line
    *("request_id", "status", "policy", "expert", "path", "unlike", "input_tokens"),
    *("output_tokens", "data_class", "stream", "seconds"),
)

log = logging.getLogger(__name__)


async def complete(
    request: Request,
    parse: Parse,
    reply_format: Callable[[str, ChatRequest], ReplyFormat],
    policy_for: Callable[[Policy], Policy] | None = None,
    memory: Memory | None = None,
) -> Response:
    """Answers a request by the policy that its `model` names.

    `parse` reads the body in the client's protocol, and `reply_format` makes the writer of the
    reply from the id of the decision and the request. `policy_for` turns that policy into another
    one, which serves the same keys. `memory` is that of protocols whose requests refer to earlier
    answers.
    """
    began = time.perf_counter()
    services: Services = request.state.services
    key: Key | None = request.state.key
    chat_request = permitted(await services.read(request, parse), key)
    policy = services.policies.find(chat_request.model)
    check_policy(policy, key)
    if policy_for is not None:
        policy = policy_for(policy)
    if memory is not None:
        chat_request = permitted(await memory.recall(chat_request), key)
    chat_request = with_built_in_tools(chat_request, services.experts.values())
    place, chat_request = await placed(services, request, chat_request, key)
    policy.check(chat_request.query)  # before it counts
    account = Account(services.records, key, chat_request.query)
    try:
        await account.begin()
    except LimitReached as limit:
        services.counters.refusals.labels(limit.code).inc()
        raise
    pace = None
    try:
        if policy.pacer is not None:
            policy, pace = await services.run(policy.paced, chat_request.query)
        if chat_request.query.price is None:
            policy = await services.steered(policy, services.records.allowance(key))
        chat_request = _within_windows(services, chat_request)
        query, windows = chat_request.query, services.windows
        policy = await policy.foreseen(query, services.run)
        threads = sessions.needs_thread(policy, query, place, windows)
        strategy = await (services.run if threads else drive.at_once)(
            sessions.strategy_for, policy, query, place, services.experts, windows
        )
    except BaseException as error:
        account.end({"policy": policy.name, "status": type(error).__name__, "usd": 0.0}, dict)
        raise
    answer = Run(
        services,
        chat_request,
        policy,
        strategy,
        pace,
        account,
        reply_format(account.decision, chat_request),
        began=began,
        request_id=request.state.request_id,
        place=place,
        span=getattr(request.state, "span", None),
        debug=request.headers.get("x-routewright-debug", "").lower() == "true",
        memory=memory,
    )
    return await (answer.streamed() if chat_request.stream else answer.whole())


async def placed(
    services: Services, request: Request, chat_request: ChatRequest, key: Key | None
) -> tuple[Place, ChatRequest]:
    """Where a request stands in its conversation, and the request with what follows from that.

    Its data class is the strictest one of the session's texts, whether or not the key allows that
    class: no expert that may not see them gets them.
    """
    classes = [name for expert in services.experts.values() for name in expert.data_classes]
    place = await services.sessions.place(
        request.headers, chat_request, key, [name for name in DATA_CLASSES if name in classes]
    )
    query = chat_request.query
    data_class = place.data_class(query.data_class)
    if services.personal is not None and await services.run(services.personal.finds, query):
        data_class = strictest([data_class, services.personal.settings.raise_to])
    services.sessions.raised(place, data_class)
    query = changed(query, data_class=data_class, conversation=place.conversation())
    return place, changed(chat_request, query=query)


def _within_windows(services: Services, chat_request: ChatRequest) -> ChatRequest:
    """The request without the experts whose windows are used up; raises BadRequest (429) if it may
    ask nobody else."""
    over = services.windows.over()
    if not over:
        return chat_request
    query = chat_request.query
    allowed = [name for name in services.experts if query.permits(name) and name not in over]
    if not allowed:
        seconds = min(over.values())
        error = BadRequest(
            "the windows of all experts are used up: send the request again in"
            f" {math.ceil(seconds)} s",
            status=429,
            code="window_used_up",
        )
        error.headers = {"retry-after": str(math.ceil(seconds))}
        raise error
    return replace(chat_request, query=replace(query, allowed=frozenset(allowed)))


@dataclass
class Run:
    """Runs one request and writes its log line."""

    services: Services
    request: ChatRequest
    policy: Policy
    strategy: Strategy
    pace: Pace | None  # None: the policy is not paced
    account: Account
    reply_format: ReplyFormat
    began: float
    request_id: str
    place: Place
    debug: bool
    span: RequestSpan | None = None  # None: the request is not traced
    memory: Memory | None = None  # None: no later request refers to this one

    def __post_init__(self) -> None:
        breaker: drive.Asker = self.services.breaker
        if self.span is not None:
            breaker = self.span.around(breaker, self.services.experts)
        self.stopwatch = Stopwatch(breaker)
        self.asker = self.account.asker(self.stopwatch, self.services.client, self.policy.name)
        self.spent = self.account.spent
        self.is_logged = False
        self.chances: tuple[float, dict[str, float]] | None = None  # None: unknown
        self.drawing: asyncio.Future[None] | None = None  # a prediction of its own, in a thread
        if self.account.is_recorded and not is_quick(self.strategy):
            self.drawing = asyncio.ensure_future(self._draw())

    async def whole(self) -> Response:
        """Waits for the decision and sends it as one JSON object."""
        try:
            async with aclosing(self._events()) as events:
                decision = await anext(events)
        except BaseException as error:
            return self._failed(error)
        assert isinstance(decision, Decision)
        headers = {**self._headers(decision.answer), **self._overhead_header()}
        headers |= {**cost_headers(decision.spent), **self._unlike_header(decision)}
        await self._done(decision)
        reply = self.reply_format.whole(decision, self._explanation(decision))
        if self.memory is not None:
            await self.memory.keep(self.reply_format, self.place.session)
        # Written in ASCII: an expert may write half a surrogate pair, which UTF-8 cannot encode.
        return Response(json.dumps(reply), media_type="application/json", headers=headers)

    async def streamed(self) -> Response:
        """Waits for the first piece, so that earlier failures get an error status; then streams.

        If the first piece takes longer than `server.keep_alive_seconds`, the stream begins without
        it: its headers do not name the expert, and a failure becomes an event.
        """
        keep_alive = self.services.config.server.keep_alive_seconds
        events = self._events()
        first = asyncio.ensure_future(anext(events))

        async def close() -> None:
            first.cancel()
            try:
                await asyncio.gather(first, return_exceptions=True)
                await events.aclose()
            finally:
                if not self.is_logged:  # the client left; only now is every ask billed
                    self._log("cancelled")

        try:
            await asyncio.wait({first}, timeout=keep_alive or None)
            headers = self._stream_headers(first.result() if first.done() else None)
        except BaseException as error:
            first.cancel()
            try:
                await asyncio.gather(first, return_exceptions=True)
            finally:  # also if the client leaves meanwhile
                reply = self._failed(error)
            return reply
        return Events(self._sse(first, events), headers, keep_alive, close)

    def _stream_headers(self, first: Delta | Decision | None) -> dict[str, str]:
        """The headers of a stream, as far as they are known before its first piece or with it."""
        assert first is None or isinstance(first, Delta)
        headers = {**self._headers(first), "cache-control": "no-cache"}
        if first is None:
            return headers
        headers |= {**self._overhead_header(), **self._unlike_header()}
        headers["x-routewright-streamed"] = str(not first.whole).lower()
        return headers | (cost_headers(self.spent) if first.whole else {})  # no ask follows

    def _headers(self, piece: Answer | Delta | None) -> dict[str, str]:
        """The headers that are known as soon as an expert answers, or (None) before that."""
        headers = {
            "x-routewright-decision-id": self.account.decision,
            "x-routewright-policy": header(self.policy.name),
            **self._client_headers(),
        }
        if piece is None:
            return headers
        headers["x-routewright-expert"] = header(piece.expert)
        if piece.lost:
            headers["x-routewright-warning"] = header(f"not sent: {', '.join(piece.lost)}")
        return headers

    def _events(self) -> AsyncGenerator[Delta | Decision, None]:
        return drive.live(
            self.strategy,
            self.request.query,
            self.services.experts.values(),
            self.asker,
            stream=self.request.stream,
            spent=self.spent,
            run=drive.at_once if is_light(self.strategy) else self.services.run,
        )

    async def _sse(
        self,
        first_piece: asyncio.Future[Delta | Decision],
        events: AsyncGenerator[Delta | Decision, None],
    ) -> AsyncGenerator[bytes, None]:
        last: Delta | None = None  # held back, because it carries the path and the cost
        try:
            if not first_piece.done():
                yield COMMENT
            piece = await first_piece
            async with aclosing(events):
                while isinstance(piece, Delta):
                    if piece.finish_reason is None:
                        for part in self.reply_format.piece(piece):
                            yield part
                    else:
                        last = piece
                    piece = await anext(events)
        except RoutewrightError as error:
            self._log(type(error).__name__, error=error)
            yield self.reply_format.failure(body_of(error))
            return
        except Exception:
            self._log("internal")
            log.exception("a stream failed")
            yield self.reply_format.failure(INTERNAL)
            return
        await self._done(piece)
        parts = list(self.reply_format.end(piece, last, self._explanation(piece)))
        if self.memory is not None:
            await self.memory.keep(self.reply_format, self.place.session)
        for part in parts:
            yield part

    def _failed(self, error: BaseException) -> Response:
        error = self.account.explained(error)
        if not isinstance(error, RoutewrightError):
            self._log("cancelled" if isinstance(error, asyncio.CancelledError) else "internal")
            raise error
        self._log(type(error).__name__, error=error)
        headers = {"x-routewright-decision-id": self.account.decision, **headers_of(error)}
        headers |= {**self._client_headers(), **cost_headers(self.spent)}
        direct = self.policy.name == DIRECT
        status = status_of(error, direct=direct)
        body = in_protocol(self.reply_format.protocol, body_of(error, direct=direct), status)
        return JSONResponse(body, status, headers)

    async def _done(self, decision: Decision) -> None:
        """Writes the log line and the records of a decision; the client gets it after that."""
        try:
            if self.drawing is not None:
                await self.drawing
            elif self.account.is_recorded:
                with suppress(Exception):  # records tell then that it is unknown
                    self.chances = chances(self.strategy, self.request.query)
        finally:  # also if the client leaves meanwhile
            self.services.sessions.answered(self.place, self.request.query, decision)
            self._log("ok", decision)
        await self.account.written()
        if self.services.feedback is not None:
            self.services.feedback.remember(
                self.account.decision, self.policy.name, self.request.query, decision
            )

    def _unlike(self, decision: Decision | None = None) -> str:
        """What was unlike the training rows, as far as it is known: the query, or its answers."""
        return (decision.unlike if decision else "") or self.stopwatch.unlike

    def _unlike_header(self, decision: Decision | None = None) -> dict[str, str]:
        unlike = self._unlike(decision)
        return {"x-routewright-unlike": unlike} if unlike else {}

    def _client_headers(self) -> dict[str, str]:
        """What is left of the limits of the client's key, and its session."""
        name = self.place.session
        return {**self.account.headers, **({"x-routewright-session": name} if name else {})}

    def _overhead_header(self) -> dict[str, str]:
        return {"x-routewright-overhead-ms": f"{self._overhead() * 1000:.1f}"}

    def _overhead(self) -> float:
        """Seconds since the request began that were not spent waiting for experts."""
        return time.perf_counter() - self.began - self.stopwatch.waiting

    def _explanation(self, decision: Decision) -> dict[str, Any]:
        """The `routewright` object of the body; with the debug header it lists every expert."""
        explanation: dict[str, Any] = {
            "decision_id": self.account.decision,
            "policy": self.policy.name,
            "because": decision.because,
            "path": decision.path,
            "cost": decision.cost,
            **({"estimated": decision.estimated_cost} if decision.estimated_cost else {}),
            **({"unlike": decision.unlike} if decision.unlike else {}),
            **self._turns(decision),
            "overhead_ms": round(self._overhead() * 1000, 1),
        }
        if self.debug:
            explanation["experts"] = table(
                self.request.query,
                self.services.experts.values(),
                decision.prediction,
                decision.rejected,
            )
        return explanation

    def _turns(self, decision: Decision) -> dict[str, int]:
        """How many of the user's turns the prediction has read, where there were several."""
        if decision.prediction is None or not self.place.written:
            return {}
        return {"turns": len(self.request.query.turns)}

    def _end_pace(self) -> None:
        """Counts what the request cost towards the budget of a paced policy."""
        if self.pace is None:
            return
        pacers, pacer = self.services.policies.pacers, self.pace.pacer
        name = pacer.router.experts[pacer.dearest]
        of_dearest = [a.cost for a in self.spent if a.expert == name and a.status == "ok"]
        self.pace.end(total_cost(self.spent), sum(of_dearest) if of_dearest else None)
        if pacers.due():
            asyncio.get_running_loop().run_in_executor(self.services.threads, pacers.save)

    def _log(
        self, status: str, decision: Decision | None = None, error: RoutewrightError | None = None
    ) -> None:
        """Counts the request, and writes its record and its log line, without text of the query
        or the answer."""
        self.is_logged = True
        self._end_pace()
        self.services.windows.count(self.spent)
        answer = decision.answer if decision else None
        seconds, overhead = time.perf_counter() - self.began, self._overhead()
        counters = self.services.counters
        unlike = self._unlike(decision)
        counters.count(self.policy.name, status, answer, self.spent, seconds, overhead, unlike)
        line = {
            "event": "decision",
            "id": self.account.decision,
            "request_id": self.request_id,
            "trace_id": trace_id(),
            "key": self.account.key.name if self.account.key else None,
            "status": status,
            "upstream_status": getattr(error, "status", None),  # its reason may repeat the query
            "policy": self.policy.name,
            "expert": answer.expert if answer else None,
            "path": path_of(self.spent),
            "unlike": unlike or None,
            "cost": round(total_cost(self.spent), 12),
            "estimated": estimated_cost(self.spent),  # the part of `cost` that nobody reported
            "input_tokens": answer.input_tokens if answer else None,
            "output_tokens": answer.output_tokens if answer else None,
            "data_class": self.request.query.data_class,
            "stream": self.request.stream,
            "seconds": round(seconds, 4),
            "overhead_ms": round(overhead * 1000, 1),
        }
        log.info(json.dumps(line))
        if self.span is not None:
            self.span.describe(line)
        self._record(line, decision)

    def _record(self, line: Mapping[str, Any], decision: Decision | None) -> None:
        """Hands the record of the request to the store."""
        query, config = self.request.query, self.services.config.server.records
        prediction = decision.prediction if decision else None
        trust = None if prediction is None or prediction.trust is None else prediction.trust
        row = {
            **{name: line[name] for name in RECORDED},
            "session": self.place.session,
            "router": self.policy.version,
            "because": clean(decision.because) if decision else None,
            "usd": total_cost(self.spent),
            "estimated_usd": line["estimated"],
            "overhead_seconds": self._overhead(),
            "domain": query.domain and clean(query.domain),
            "tags": [clean(tag) for tag in query.tags],
            "trust": None if trust is None else float(trust),
            "lambda": self.policy.point.price if self.policy.point else query.price,
        }
        answer = decision.answer.content if decision else None
        how = config.of(query.data_class)

        def more() -> dict[str, Any]:
            experts = self._beliefs(decision, prediction)
            return {"experts": experts, **kept(query.messages, answer, how)}

        self.account.end(row, more)

    def _beliefs(
        self, decision: Decision | None, prediction: Prediction | None
    ) -> list[dict[str, Any]]:
        """What was predicted of every expert, with its propensity, or why it was rejected."""
        query, experts = self.request.query, self.services.experts.values()
        rows = table(query, experts, prediction, decision.rejected if decision else None)
        shares: dict[str, float] | None = None
        if self.chances is not None and decision is not None and not decision.unlike:
            drawn, others = self.chances
            shares = dict(others)
            for name in {answer.expert for answer in self.spent[:1]}:
                shares[name] = shares.get(name, 0.0) + drawn
        for row in rows:
            row["propensity"] = None if shares is None else shares.get(row["name"], 0.0)
        return rows

    async def _draw(self) -> None:
        """Finds out what else a mix might have drawn, while experts are asked."""
        with suppress(Exception):  # records tell then that it is unknown
            self.chances = await self.services.run(chances, self.strategy, self.request.query)
