"""The network client: the `Asker` with which `drive.live` runs strategies."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from routewright import prompts
from routewright.errors import NotAdmissible, UpstreamError, UpstreamRefused
from routewright.experts.providers import Call, Provider, input_tokens, output_text
from routewright.experts.supervisor import Supervisor
from routewright.registry import build
from routewright.types import Answer, Ask, Delta, Expert, Query, total_cost

SPEED = 50  # tokens per second, assumed for a cancelled answer that was not streamed
VERDICT_TOKENS = 64  # output limit of a verification
JUDGE_TOKENS = 512  # output limit of a judgement, which may reason first
IMAGE_TOKENS = 2000  # upper bound of the tokens of an image, as the common vendors count them
LIMITS = ("max_tokens", "max_completion_tokens")

log = logging.getLogger(__name__)


class Client:
    """Asks the experts of a config.

    Use it as `async with Client(experts) as client`: that closes the connections at the end and
    stops the servers that the client started. `servers` maps the names of launched experts to
    their supervisors. `providers` (name ▶ instance) replaces the providers that would be built by
    name.
    """

    def __init__(
        self, experts: Iterable[Expert], providers: Mapping[str, Provider] | None = None
    ) -> None:
        self.experts = {expert.name: expert for expert in experts}
        self._providers: dict[str, Provider] = dict(providers or {})
        # id of an ask that is streamed ▶ the ask, and the characters received so far
        self._streams: dict[int, tuple[Ask, int]] = {}
        self._refused_n: set[str] = set()  # experts whose endpoint refused several choices
        self.servers = {
            expert.name: Supervisor(expert)
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

    async def close(self) -> None:
        await asyncio.gather(*(supervisor.close() for supervisor in self.servers.values()))
        for provider in self._providers.values():
            await provider.close()

    def is_down(self, expert: str) -> bool:
        """Whether the client runs this expert's server and the server does not run yet."""
        server = self.servers.get(expert)
        return server is not None and server.state != "running"

    @asynccontextmanager
    async def _ready(self, call: Call) -> AsyncIterator[Provider]:
        """The provider of a call, with the expert's launched server, if any, kept running."""
        async with AsyncExitStack() as stack:
            if supervisor := self.servers.get(call.expert.name):
                await stack.enter_async_context(supervisor.use(call.patience))
            yield self._provider(call.expert)

    async def _ask(self, call: Call) -> Answer:
        async with self._ready(call) as provider:
            return await provider.ask(call)

    async def ask(self, ask: Ask, query: Query) -> Answer:
        """Returns the whole answer.

        Raises NotAdmissible if the budget does not cover a single token, else UpstreamError.
        """
        if ask.samples > 1 and ask.kind == "verify":
            return await self._verdicts(ask, query)
        call = self._call(ask, query)
        return _finish(ask, await self._ask(call))

    async def _verdicts(self, ask: Ask, query: Query) -> Answer:
        """Asks for several verdicts on one answer: in one request if possible, else concurrently.

        The confidence is the share of "correct" among the verdicts that can be read.
        """
        replies, received = [], 0
        if self._takes_n(ask.expert):
            call = self._call(ask, query)
            try:
                replies.append(await self._ask(call))
                received = max(1, len(replies[0].choices))
            except UpstreamRefused as error:
                if error.status not in (400, 404, 422, 501):
                    raise
                self._refused_n.add(ask.expert)
        missing = ask.samples - received
        if missing > 0:
            share = None if ask.max_cost is None else ask.max_cost / missing
            single = replace(ask, samples=1, max_cost=share)
            singles = [replace(single, sample=i + 1) for i in range(missing)]
            replies += await self._ask_all(singles, query)
        return _pooled(ask, replies)

    async def _ask_all(self, asks: Sequence[Ask], query: Query) -> list[Answer]:
        """Sends the asks concurrently and returns the answers that arrive.

        Raises the first failure if none does. The costs of failed asks are included.
        """
        calls = [self._call(ask, query) for ask in asks]
        results = await asyncio.gather(*map(self._ask, calls), return_exceptions=True)
        failures = [result for result in results if isinstance(result, UpstreamError)]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, UpstreamError):
                raise result
        failed_cost = math.fsum(failure.cost for failure in failures)
        if len(failures) == len(results):
            failures[0].cost = failed_cost
            raise failures[0]
        answers = [result for result in results if isinstance(result, Answer)]
        return [replace(answers[0], cost=answers[0].cost + failed_cost), *answers[1:]]

    def _takes_n(self, expert: str) -> bool:
        """Whether one request can ask this expert for several choices."""
        provider = self._provider(self.experts[expert])
        return getattr(provider, "takes_n", False) and expert not in self._refused_n

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        """Yields the pieces as they arrive, then the whole answer."""
        call = self._call(ask, query)
        characters = 0
        self._streams[id(ask)] = ask, characters  # `bill` reads the entry of a cancelled ask
        try:
            async with self._ready(call) as provider, aclosing(provider.stream(call)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        piece = _finish(ask, piece)
                        del self._streams[id(ask)]  # the ask is complete: `bill` is not called
                    else:
                        characters += len(output_text(piece.message))
                        self._streams[id(ask)] = ask, characters
                    yield piece
        except Exception:
            self._streams.pop(id(ask), None)
            raise

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        """Estimates the cost of an ask that was cancelled after `seconds`.

        The estimate includes the whole input and the output received so far. For an answer that
        was not streamed it assumes an output of `SPEED` tokens per second.
        """
        expert = self.experts[ask.expert]
        body = self._call(ask, query).body
        _, characters = self._streams.pop(id(ask), (ask, None))
        received = int(seconds * SPEED) if characters is None else math.ceil(characters / 4)
        received = min([received, *(body[key] for key in LIMITS if body.get(key) is not None)])
        sent = input_tokens(body)
        if ask.samples > 1:
            received *= ask.samples
            sent *= 1 if self._takes_n(ask.expert) else ask.samples
        return Answer(
            ask.expert,
            kind=ask.kind,
            cost=expert.price(sent, received),
            latency=seconds,
            input_tokens=sent,
            output_tokens=received,
            estimated=True,
        )

    def bound(self, ask: Ask, query: Query) -> float:
        """The upper bound of an ask's cost in US$; infinite if nothing limits its output.

        The input is counted as in `capped`. Raises NotAdmissible as `ask` does.
        """
        call = self._call(ask, query)
        caps = [call.body[key] for key in LIMITS if call.body.get(key) is not None]
        if not caps and call.expert.output_per_mtok:
            return math.inf
        return call.expert.highest_price(_input_bound(call.body), min(caps, default=0))

    def _call(self, ask: Ask, query: Query) -> Call:
        expert, body = self.experts[ask.expert], self.body(ask, query)
        if ask.max_cost is not None:
            body = capped(body, expert, ask.max_cost)
        patience = math.inf if ask.max_latency is None else ask.max_latency
        return Call(expert, body, patience)

    def body(self, ask: Ask, query: Query) -> dict[str, Any]:
        """The request to send. The config's `options` of the expert override the client's."""
        expert = self.experts[ask.expert]
        if ask.kind == "answer":
            body = {"messages": list(query.messages), **query.options}
            body |= {**expert.options, **ask.options}
            return {**body, "temperature": 1.0, "seed": ask.sample} if ask.sample else body
        if ask.kind == "judge":
            return _judgement(ask, expert)
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


def capped(body: Mapping[str, Any], expert: Expert, dollars: float) -> dict[str, Any]:
    """The request with its output limited to the tokens that `dollars` (US$) cover.

    The input is counted at its upper bound, one token per byte, because only the upstream knows
    its tokeniser. Raises NotAdmissible if the money does not cover a single token.
    """
    input_cost = expert.highest_price(_input_bound(body), 0)
    left, per_token = dollars - input_cost, expert.price(0, body.get("n") or 1)
    if left < per_token or left < 0:
        raise NotAdmissible(
            expert.name,
            f"max_cost ${dollars:.2g} is too low: the input alone may cost ${input_cost:.2g}",
        )
    if per_token == 0:
        return dict(body)
    affordable = max(1, int(left / per_token * (1 - 1e-9)))
    keys = [key for key in LIMITS if body.get(key) is not None] or [LIMITS[0]]
    caps = {key: min(body.get(key) or affordable, affordable) for key in keys}
    return {**body, **caps}


def _input_bound(body: Mapping[str, Any]) -> int:
    """The upper bound of a request's input tokens: one per byte, plus those between messages."""
    messages, images = _without_images(body["messages"])
    rest = {key: value for key, value in body.items() if key not in ("messages", *LIMITS)}
    raw = json.dumps([messages, rest], ensure_ascii=False).encode(errors="surrogatepass")
    return len(raw) + 8 * len(messages) + IMAGE_TOKENS * images


def _without_images(messages: Iterable[Mapping[str, Any]]) -> tuple[list[Any], int]:
    """The messages without their images, and the number of images."""
    stripped: list[Any] = []
    images = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [part for part in content if part.get("type") != "image_url"]
            images += len(content) - len(parts)
            message = {**message, "content": parts}
        stripped.append(message)
    return stripped, images


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
