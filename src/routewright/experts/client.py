"""Asks experts over the network: the `Asker` that `drive.live` runs strategies with."""

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
from routewright.experts.providers import Call, Provider, input_tokens, said
from routewright.experts.supervisor import Supervisor
from routewright.registry import build
from routewright.types import Answer, Ask, Delta, Expert, Query, total_cost

SPEED = 50  # tokens per second, assumed of an expert whose cancelled answer we cannot see
VERDICT_ROOM = 64  # tokens of a verification
JUDGE_ROOM = 512  # tokens of a judgement, which may reason first
IMAGE_TOKENS = 2000  # an image's tokens at most, as the common vendors count them
LIMITS = ("max_tokens", "max_completion_tokens")

log = logging.getLogger(__name__)


class Client:
    """Asks the experts of a config.

    Use it as `async with Client(experts) as client`, which closes the connections at the end and
    stops the servers that it has started. `servers` holds them by the names of their experts.
    `providers` (name ▶ instance) replaces the ones found by name.
    """

    def __init__(
        self, experts: Iterable[Expert], providers: Mapping[str, Provider] | None = None
    ) -> None:
        self.experts = {expert.name: expert for expert in experts}
        self._providers: dict[str, Provider] = dict(providers or {})
        self._under_way: dict[int, tuple[Ask, int]] = {}  # id of an ask ▶ it, tokens heard
        self._one_by_one: set[str] = set()  # experts whose endpoint refused several choices
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

    def away(self, expert: str) -> bool:
        """Whether an expert's server is ours to start, and is not up."""
        server = self.servers.get(expert)
        return server is not None and server.state != "running"

    @asynccontextmanager
    async def _awake(self, call: Call) -> AsyncIterator[Provider]:
        """Who asks the call's expert, whose server is up meanwhile if it is ours."""
        async with AsyncExitStack() as stack:
            if supervisor := self.servers.get(call.expert.name):
                await stack.enter_async_context(supervisor.use(call.patience))
            yield self._provider(call.expert)

    async def _ask(self, call: Call) -> Answer:
        async with self._awake(call) as provider:
            return await provider.ask(call)

    async def ask(self, ask: Ask, query: Query) -> Answer:
        """The whole answer; raises NotAdmissible where the money buys not one token."""
        if ask.samples > 1 and ask.kind == "verify":
            return await self._verdicts(ask, query)
        call = self._call(ask, query)
        return _finish(ask, await self._ask(call))

    async def _verdicts(self, ask: Ask, query: Query) -> Answer:
        """Several verdicts on one answer, in one request if it brings them, else side by side.

        Its confidence is the share of the verdicts that can be read which say "correct".
        """
        replies, came = [], 0
        if self._at_once(ask.expert):
            call = self._call(ask, query)
            try:
                replies.append(await self._ask(call))
                came = max(1, len(replies[0].choices))
            except UpstreamRefused as error:
                if error.status not in (400, 404, 422, 501):
                    raise
                self._one_by_one.add(ask.expert)
        missing = ask.samples - came
        if missing > 0:
            share = None if ask.max_cost is None else ask.max_cost / missing
            single = replace(ask, samples=1, max_cost=share)
            singles = [replace(single, sample=i + 1) for i in range(missing)]
            replies += await self._side_by_side(singles, query)
        return _pooled(ask, replies)

    async def _side_by_side(self, asks: Sequence[Ask], query: Query) -> list[Answer]:
        """Those that answer; raises the first failure if nobody does. Failed tries are paid."""
        calls = [self._call(ask, query) for ask in asks]
        said = await asyncio.gather(*map(self._ask, calls), return_exceptions=True)
        failures = [one for one in said if isinstance(one, UpstreamError)]
        if broken := [one for one in said if isinstance(one, BaseException)]:
            if len(failures) < len(broken):
                raise next(one for one in broken if not isinstance(one, UpstreamError))
            if len(failures) == len(said):
                failures[0].cost = math.fsum(one.cost for one in failures)
                raise failures[0]
        lost = math.fsum(one.cost for one in failures)
        arrived = [one for one in said if isinstance(one, Answer)]
        return [replace(arrived[0], cost=arrived[0].cost + lost), *arrived[1:]]

    def _at_once(self, expert: str) -> bool:
        provider = self._provider(self.experts[expert])
        return getattr(provider, "takes_n", False) and expert not in self._one_by_one

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        """The pieces as they arrive, then the whole answer."""
        call = self._call(ask, query)
        heard = 0
        self._under_way[id(ask)] = ask, heard  # stays when cancelled, for `bill`
        try:
            async with self._awake(call) as provider, aclosing(provider.stream(call)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        piece = _finish(ask, piece)
                        del self._under_way[id(ask)]  # whoever has it listens no longer
                    else:
                        heard += len(said(piece.message))
                        self._under_way[id(ask)] = ask, heard
                    yield piece
        except Exception:
            self._under_way.pop(id(ask), None)
            raise

    def bill(self, ask: Ask, query: Query, seconds: float) -> Answer:
        """What an ask that was cancelled after `seconds` has cost, estimated.

        Its whole input, and the output heard so far; of an answer that was not streamed, as
        much as a usual expert writes in that time.
        """
        expert = self.experts[ask.expert]
        body = self._call(ask, query).body
        _, characters = self._under_way.pop(id(ask), (ask, None))
        received = int(seconds * SPEED) if characters is None else math.ceil(characters / 4)
        received = min([received, *(body[key] for key in LIMITS if body.get(key) is not None)])
        sent = input_tokens(body)
        if ask.samples > 1:
            received *= ask.samples
            sent *= 1 if self._at_once(ask.expert) else ask.samples
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
        """US$ that an ask may cost at most; infinite where nothing limits its answer.

        The input is counted as `capped` counts it; raises NotAdmissible as `ask` does.
        """
        call = self._call(ask, query)
        caps = [call.body[key] for key in LIMITS if call.body.get(key) is not None]
        if not caps and call.expert.output_per_mtok:
            return math.inf
        return call.expert.price(_input_bound(call.body), min(caps, default=0))

    def _call(self, ask: Ask, query: Query) -> Call:
        expert, body = self.experts[ask.expert], self.body(ask, query)
        if ask.max_cost is not None:
            body = capped(body, expert, ask.max_cost)
        patience = math.inf if ask.max_latency is None else ask.max_latency
        return Call(expert, body, patience)

    def body(self, ask: Ask, query: Query) -> dict[str, Any]:
        """The request to send; what the config says of an expert overrides the client's wish."""
        expert = self.experts[ask.expert]
        if ask.kind == "answer":
            body = {"messages": list(query.messages), **query.options}
            body |= {**expert.options, **ask.options}
            return {**body, "temperature": 1.0, "seed": ask.sample} if ask.sample else body
        if ask.kind == "judge":
            return _judgement(ask, expert)
        assert ask.kind == "verify", f"experts answer and verify; they do not {ask.kind}"
        assert ask.of is not None, "a verification is of an answer"
        template = expert.verify_prompt or self._provider(expert).verify_prompt or prompts.VERIFY
        prompt = prompts.verify(query, ask.of, template)
        sampling: dict[str, Any] = {"temperature": 0}
        if ask.sample:
            sampling = {"temperature": 1.0, "seed": ask.sample}
        elif ask.samples > 1:
            sampling = {"temperature": 1.0, "n": ask.samples}
        return {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": VERDICT_ROOM,
            **expert.options,
            **sampling,
        }

    def _provider(self, expert: Expert) -> Provider:
        if expert.provider not in self._providers:
            self._providers[expert.provider] = build("providers", expert.provider)
        return self._providers[expert.provider]


def capped(body: Mapping[str, Any], expert: Expert, dollars: float) -> dict[str, Any]:
    """The request with as many output tokens as `dollars` buy at most.

    Raises NotAdmissible if that is not one. The input is counted at its upper bound, a token
    per byte, because nobody but the upstream knows its tokeniser.
    """
    input_cost = expert.price(_input_bound(body), 0)
    left, per_token = dollars - input_cost, expert.price(0, body.get("n") or 1)
    if left < per_token or left < 0:
        raise NotAdmissible(
            expert.name,
            f"its input may cost ${input_cost:.2g}, which leaves no answer "
            f"within max_cost ${dollars:.2g}",
        )
    if per_token == 0:
        return dict(body)
    affordable = max(1, int(left / per_token * (1 - 1e-9)))
    named = [key for key in LIMITS if body.get(key) is not None] or [LIMITS[0]]
    caps = {key: min(body.get(key) or affordable, affordable) for key in named}
    return {**body, **caps}


def _input_bound(body: Mapping[str, Any]) -> int:
    """More input tokens than any tokeniser makes of a request: one per byte, plus framing."""
    messages, images = _without_images(body["messages"])
    rest = {key: value for key, value in body.items() if key not in ("messages", *LIMITS)}
    written = json.dumps([messages, rest], ensure_ascii=False).encode(errors="surrogatepass")
    return len(written) + 8 * len(messages) + IMAGE_TOKENS * images


def _without_images(messages: Iterable[Mapping[str, Any]]) -> tuple[list[Any], int]:
    """The messages without the bytes of their images, and how many there were."""
    kept: list[Any] = []
    images = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [part for part in content if part.get("type") != "image_url"]
            images += len(content) - len(parts)
            message = {**message, "content": parts}
        kept.append(message)
    return kept, images


def _pooled(ask: Ask, replies: Sequence[Answer]) -> Answer:
    """Several verdicts as one answer: all texts kept, everything paid for."""
    texts = tuple(text for reply in replies for text in reply.choices or (reply.text,))
    verdicts = [v for reply in replies for v in _verdicts_of(reply)]
    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        log.warning(
            "expert '%s': none of %d verifications could be read: they count as confidence 0;"
            " see `verify_prompt`",  # what it said may repeat the query, so no log holds it
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
        confidence=sum(known) / len(known) if known else None,
        choices=texts,
        estimated=any(reply.estimated for reply in replies),
    )


def _verdicts_of(reply: Answer) -> list[float | None]:
    """Of every choice; a lone one is weighed by its probability where that is known."""
    return [prompts.verdict(text) for text in reply.choices] or [prompts.confidence(reply)]


def _judgement(ask: Ask, expert: Expert) -> dict[str, Any]:
    if ask.prompt is None:
        raise NotAdmissible(
            expert.name,
            "no judgement is recorded of an answer that was just given: name a reward model",
        )
    return {
        "messages": [{"role": "user", "content": ask.prompt}],
        "max_tokens": JUDGE_ROOM,
        **expert.options,
        "temperature": 0,
    }


def _finish(ask: Ask, answer: Answer) -> Answer:
    if ask.kind == "answer":
        return answer
    if ask.kind == "judge":
        return replace(answer, kind=ask.kind)
    return replace(answer, kind=ask.kind, confidence=prompts.confidence(answer))
