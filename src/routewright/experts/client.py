"""The network client: the `Asker` with which `drive.live` runs strategies."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from routewright import prompts
from routewright.errors import NotAdmissible, UpstreamError, UpstreamRefused
from routewright.experts.deployments import Endpoints, endpoints_of
from routewright.experts.histories import readable
from routewright.experts.providers import Call, Provider
from routewright.experts.redaction import redact
from routewright.experts.resources import connections, local_failures
from routewright.experts.spending import bound, capped
from routewright.experts.supervisor import Supervisor
from routewright.experts.tries import Tries
from routewright.registry import build
from routewright.types import Answer, Ask, Delta, Expert, Query, total_cost

VERDICT_TOKENS = 64  # output limit of a verification
JUDGE_TOKENS = 512  # output limit of a judgement, which may reason first

log = logging.getLogger(__name__)


class Client:
    """Asks the experts of a config.

    Use it as `async with Client(experts) as client`: that closes the connections at the end and
    stops the servers that the client started. `servers` maps the names of launched experts to
    their supervisors. `providers` (name ▶ instance) replaces the providers that would be built by
    name. `predecessors` are clients that may still be in use: this one shares their providers, the
    servers that run unchanged, and what is known about the endpoints of unchanged experts. `need`
    is as in `Supervisor`.
    """

    def __init__(
        self,
        experts: Iterable[Expert],
        providers: Mapping[str, Provider] | None = None,
        predecessors: Sequence[Client] = (),
        need: Callable[[str], None] | None = None,
    ) -> None:
        self.experts = {expert.name: expert for expert in experts}
        self._providers: dict[str, Provider] = dict(providers or {})
        self.servers: dict[str, Supervisor] = {}
        self._endpoints: dict[str, Endpoints] = {}
        for predecessor in predecessors:
            self._endpoints |= predecessor._endpoints
            self._providers |= predecessor._providers
            self.servers |= predecessor.servers
        # id of an ask in progress ▶ the ask, and the tries of its calls
        self._tries: dict[int, tuple[Ask, list[Tries]]] = {}
        self._endpoints = endpoints_of(self.experts.values(), self._endpoints)
        self._refused_n: set[str] = set()  # experts whose endpoint refused several choices
        self._free = asyncio.Semaphore(connections().upstream)  # connections to experts
        self.servers = {
            expert.name: Supervisor.succeeding(self.servers.get(expert.name), expert, need)
            for expert in self.experts.values()
            if expert.launch is not None
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, successors: Sequence[Client] = ()) -> None:
        """Closes the connections and stops the servers, except those of successors."""
        servers = {id(server) for client in successors for server in client.servers.values()}
        kept = {id(p) for client in successors for p in client._providers.values()}
        ended = [server for server in self.servers.values() if id(server) not in servers]
        await asyncio.gather(*(server.close() for server in ended))
        for provider in self._providers.values():
            if id(provider) not in kept:
                await provider.close()

    async def warm(self, seconds: float) -> None:
        """Connects to the experts that accept it within so many seconds; sends no request."""
        hosts = {
            (one.expert.provider, one.expert.base_url or one.expert.model): one.expert
            for endpoints in self._endpoints.values()
            for one in endpoints.all
            if one.expert.launch is None
        }
        work = []
        for expert in hosts.values():
            with suppress(Exception):  # the first ask tells what is wrong
                if warm := getattr(self._provider(expert), "warm", None):
                    work.append(asyncio.ensure_future(warm(expert)))
        if work:
            _, late = await asyncio.wait(work, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    def is_down(self, expert: str) -> bool:
        """Whether the client runs this expert's server and the server does not run yet."""
        server = self.servers.get(expert)
        return server is not None and server.state != "running"

    @asynccontextmanager
    async def _ready(self, call: Call) -> AsyncIterator[Provider]:
        """The provider of a call, with the expert's launched server, if any, kept running."""
        async with AsyncExitStack() as stack:
            stack.enter_context(local_failures(call.expert.name))
            if supervisor := self.servers.get(call.expert.name):
                await stack.enter_async_context(supervisor.use(call.patience))
            yield self._provider(call.expert)

    async def ask(self, ask: Ask, query: Query) -> Answer:
        """Returns the whole answer, with the cost of the tries that failed before it.

        Raises NotAdmissible if the budget does not cover a single token, else UpstreamError, with
        the cost of all tries.
        """
        with self._tracked(ask) as tries:
            if ask.samples > 1 and ask.kind == "verify":
                return await self._verdicts(ask, query, tries)
            answer = _finish(ask, await self._ask(ask, query, tries))
            lost = self._lost(ask, query)
            return replace(answer, lost=lost + answer.lost) if lost else answer

    async def _ask(self, ask: Ask, query: Query, tries: list[Tries]) -> Answer:
        """Sends one request and adds its tries to `tries`."""
        call = self._call(ask, query)
        with _redacted(call.expert):
            async with self._ready(call) as provider:
                own_tries = self._new_tries(call, ask)
                tries.append(own_tries)
                attempt = _embedder(call, provider) if ask.kind == "embed" else provider.ask
                answer = await own_tries.ask(attempt)
        return answer

    def _new_tries(self, call: Call, ask: Ask) -> Tries:
        return Tries(call, self._endpoints[ask.expert], self._free, ask.max_cost)

    @contextmanager
    def _tracked(self, ask: Ask) -> Iterator[list[Tries]]:
        """Keeps the tries of an ask until it ends; if it is cancelled, until `bill` reads them."""
        tries: list[Tries] = []
        self._tries[id(ask)] = ask, tries
        try:
            yield tries
        except Exception:
            self._tries.pop(id(ask), None)
            raise
        self._tries.pop(id(ask), None)

    async def _verdicts(self, ask: Ask, query: Query, tries: list[Tries]) -> Answer:
        """Asks for several verdicts on one answer: in one request if possible, else concurrently.

        The confidence is the share of "correct" among the verdicts that can be read.
        """
        replies, received = [], 0
        if self._takes_n(ask.expert):
            try:
                replies.append(await self._ask(ask, query, tries))
                received = max(1, len(replies[0].choices))
            except UpstreamRefused as error:
                if error.status not in (400, 404, 422, 501):
                    raise
                self._refused_n.add(ask.expert)
        missing = ask.samples - received
        if missing > 0:
            left = None if ask.max_cost is None else ask.max_cost - total_cost(replies)
            share = None if left is None else left / missing
            single = replace(ask, samples=1, max_cost=share)
            singles = [replace(single, sample=i + 1) for i in range(missing)]
            replies = await self._ask_all(singles, query, replies, tries)
        return _pooled(ask, replies)

    async def _ask_all(
        self, asks: Sequence[Ask], query: Query, replies: Sequence[Answer], tries: list[Tries]
    ) -> list[Answer]:
        """Sends the asks concurrently; returns `replies` and the answers that arrive.

        Raises the first failure if there is no answer at all. The costs of failed asks are
        included.
        """
        tasks = (self._ask(ask, query, tries) for ask in asks)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [result for result in results if isinstance(result, UpstreamError)]
        for result in results:
            unexpected = not isinstance(result, Answer | UpstreamError | NotAdmissible)
            if isinstance(result, BaseException) and unexpected:
                raise result
        failed_cost = math.fsum(failure.cost for failure in failures)
        estimated = any(failure.estimated for failure in failures)
        answers = [*replies, *(result for result in results if isinstance(result, Answer))]
        if not answers:
            if not failures:
                raise next(result for result in results if isinstance(result, NotAdmissible))
            failures[0].cost, failures[0].estimated = failed_cost, estimated
            raise failures[0]
        first = answers[0]
        cost, estimated = first.cost + failed_cost, first.estimated or estimated
        return [replace(first, cost=cost, estimated=estimated), *answers[1:]]

    def _takes_n(self, expert: str) -> bool:
        """Whether one request can ask this expert for several choices."""
        provider = self._provider(self.experts[expert])
        return getattr(provider, "takes_n", False) and expert not in self._refused_n

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        """Yields the pieces as they arrive, then the whole answer."""
        call, lost = self._call(ask, query), self._lost(ask, query)
        with self._tracked(ask) as tries, _redacted(call.expert):
            async with self._ready(call) as provider:
                own_tries = self._new_tries(call, ask)
                tries.append(own_tries)
                async with aclosing(own_tries.stream(provider.stream)) as pieces:
                    async for piece in pieces:
                        if lost:
                            piece = replace(piece, lost=lost + piece.lost)
                        if isinstance(piece, Answer):
                            piece = _finish(ask, piece)
                            self._tries.pop(id(ask), None)  # it is complete: nobody bills it
                        yield piece

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        """The cost of an ask that was cancelled after `seconds`, which is zero before it was sent.

        The cost of the try in progress is estimated: the whole input, and the output received so
        far. If nothing has arrived yet, it assumes an output of `spending.SPEED` tokens per second.
        """
        _, tries = self._tries.pop(id(ask), (ask, []))
        bills = [one.bill() for one in tries]
        return Answer(
            ask.expert,
            kind=ask.kind,
            cost=total_cost(bills),
            latency=max((bill.latency for bill in bills), default=seconds),
            input_tokens=sum(bill.input_tokens for bill in bills),
            output_tokens=sum(bill.output_tokens for bill in bills),
            estimated=any(bill.estimated for bill in bills),
        )

    def bound(self, ask: Ask, query: Query, size: int | None = None) -> float:
        """The upper bound of an ask's cost in US$; infinite if nothing limits its output.

        The input is counted as in `capped`, unless its `size` in tokens is given. Raises
        NotAdmissible as `ask` does.
        """
        call = self._call(ask, query)
        if ask.samples > 1 and not self._takes_n(ask.expert):
            body = {key: value for key, value in call.body.items() if key != "n"}
            return ask.samples * bound(body, call.expert)
        return bound(call.body, call.expert, native=call.native, size=size)

    def _call(self, ask: Ask, query: Query) -> Call:
        expert, body = self.experts[ask.expert], self.body(ask, query)
        native = self.native(ask, query)
        if ask.max_cost is not None:
            body = capped(body, expert, ask.max_cost, native)
        patience = math.inf if ask.max_latency is None else ask.max_latency
        return Call(expert, body, patience, native=native)

    def native(self, ask: Ask, query: Query) -> Mapping[str, Any] | None:
        """The request in the client's own protocol, with the options that override it; None if the
        expert does not speak that."""
        if query.native is None or not self._is_native(ask, query):
            return None
        expert = self.experts[ask.expert]
        body = {**query.native.body, **expert.options, **ask.options}
        if isinstance(body.get("messages"), list):
            body["messages"] = readable(body["messages"], expert.name, query.conversation)
        return body

    def _is_native(self, ask: Ask, query: Query) -> bool:
        """Whether an ask is sent as the client wrote its request."""
        if query.native is None or ask.kind != "answer" or ask.sample:
            return False
        return self.speaks(ask.expert) == query.native.protocol

    def _lost(self, ask: Ask, query: Query) -> tuple[str, ...]:
        """What of the client's own request the expert is not sent, because it speaks another
        protocol."""
        if query.native is None or ask.kind != "answer" or self._is_native(ask, query):
            return ()
        return query.native.lost

    def speaks(self, expert: str) -> str | None:
        """The protocol that an expert can be asked in natively, beside OpenAI chat completions."""
        return getattr(self._provider(self.experts[expert]), "protocol", None)

    async def count_tokens(self, expert: str, query: Query) -> int | None:
        """The input tokens of a query as the expert's endpoint counts them, which costs nothing;
        None if its provider cannot ask for that. Raises UpstreamError, and waits for nothing."""
        ask = Ask(expert)
        call = replace(self._call(ask, query), patience=0.0)
        with _redacted(call.expert):
            async with self._ready(call) as provider:
                count = getattr(provider, "count_tokens", None)
                return None if count is None else await self._new_tries(call, ask).count(count)

    def body(self, ask: Ask, query: Query) -> dict[str, Any]:
        """The request to send. The config's `options` of the expert override the client's."""
        expert = self.experts[ask.expert]
        if ask.kind == "answer":
            messages = readable(query.messages, expert.name, query.conversation)
            body = {"messages": messages, **query.options}
            body |= {**expert.options, **ask.options}
            return {**body, "temperature": 1.0, "seed": ask.sample} if ask.sample else body
        if ask.kind == "judge":
            return _judgement(ask, expert)
        if ask.kind == "embed":  # no output is paid for, and one token stands for it
            return {"messages": list(query.messages), **query.options, "max_tokens": 1}
        assert ask.kind == "verify", f"the kind of an ask cannot be {ask.kind!r}"
        assert ask.of is not None, "a verification needs the answer that it is about (`of`)"
        template = expert.verify_prompt or self._provider(expert).verify_prompt or prompts.VERIFY
        prompt = prompts.verify(query, ask.of, template)
        sampling: dict[str, Any] = {"temperature": 0}
        if ask.sample:
            sampling = {"temperature": 1.0, "seed": ask.sample}
        elif ask.samples > 1:
            sampling = {"temperature": 1.0, "n": ask.samples}
        return {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": VERDICT_TOKENS,
            **expert.options,
            **sampling,
        }

    def _provider(self, expert: Expert) -> Provider:
        if expert.provider not in self._providers:
            self._providers[expert.provider] = build("providers", expert.provider)
        return self._providers[expert.provider]


def _embedder(call: Call, provider: Provider) -> Callable[[Call], Awaitable[Answer]]:
    embed: Callable[[Call], Awaitable[Answer]] | None = getattr(provider, "embed", None)
    if embed is None:
        reason = f"its provider '{call.expert.provider}' makes no embeddings"
        raise NotAdmissible(call.expert.name, reason)
    return embed


@contextmanager
def _redacted(expert: Expert) -> Iterator[None]:
    """Takes keys, addresses and paths out of the errors of an expert."""
    try:
        yield
    except UpstreamError as error:
        error.rephrase(redact(error.reason, expert))
        for name in ("code", "param", "kind"):
            if value := getattr(error, name):
                setattr(error, name, redact(str(value), expert))
        raise


def _pooled(ask: Ask, replies: Sequence[Answer]) -> Answer:
    """Combines several verdicts into one answer with all texts, tokens and costs."""
    texts = tuple(text for reply in replies for text in reply.choices or (reply.text,))
    verdicts = [v for reply in replies for v in _verdicts_of(reply) if v is not None]
    if not verdicts:
        log.warning(  # without the replies, which may repeat the query
            "expert '%s': none of %d verifications could be read, so they count as confidence 0:"
            " change its `verify_prompt`",
            *(ask.expert, len(texts)),
        )
    return Answer(
        ask.expert,
        text=texts[0],
        kind=ask.kind,
        cost=total_cost(replies),
        latency=max(reply.latency for reply in replies),
        input_tokens=sum(reply.input_tokens for reply in replies),
        cached_tokens=sum(reply.cached_tokens for reply in replies),
        output_tokens=sum(reply.output_tokens for reply in replies),
        confidence=sum(verdicts) / len(verdicts) if verdicts else None,
        choices=texts,
        estimated=any(reply.estimated for reply in replies),
    )


def _verdicts_of(reply: Answer) -> list[float | None]:
    """The verdict of each choice. A single one is weighted by its probability if that is known."""
    return [prompts.verdict(text) for text in reply.choices] or [prompts.confidence(reply)]


def _judgement(ask: Ask, expert: Expert) -> dict[str, Any]:
    if ask.prompt is None:
        raise NotAdmissible(
            expert.name,
            "a new answer has no recorded judgement: name a reward model",
        )
    return {
        "messages": [{"role": "user", "content": ask.prompt}],
        "max_tokens": JUDGE_TOKENS,
        **expert.options,
        "temperature": 0,
    }


def _finish(ask: Ask, answer: Answer) -> Answer:
    """The answer with the kind of its ask, and with the confidence of a verification."""
    if ask.kind == "answer":
        return answer
    if ask.kind == "judge":
        return replace(answer, kind=ask.kind)
    return replace(answer, kind=ask.kind, confidence=prompts.confidence(answer))
