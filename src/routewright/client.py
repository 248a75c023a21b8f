"""Asks experts over the network: the `Asker` that `drive.live` runs strategies with."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from routewright import prompts
from routewright.errors import NotAdmissible, UpstreamError
from routewright.providers import Call, Provider, input_tokens, said
from routewright.registry import find
from routewright.types import Answer, Ask, Delta, Expert, Query

SPEED = 50  # tokens per second, assumed of an expert whose cancelled answer we cannot see
VERDICT_ROOM = 64  # tokens of a verification
IMAGE_TOKENS = 2000  # an image's tokens at most, as the common vendors count them
LIMITS = ("max_tokens", "max_completion_tokens")


class Client:
    """Asks the experts of a config.

    Use it as `async with Client(experts) as client`, which closes the connections at the end.
    `providers` (name ▶ instance) replaces the ones found by name.
    """

    def __init__(
        self, experts: Iterable[Expert], providers: Mapping[str, Provider] | None = None
    ) -> None:
        self.experts = {expert.name: expert for expert in experts}
        self._providers: dict[str, Provider] = dict(providers or {})
        self._under_way: dict[int, tuple[Ask, int]] = {}  # id of an ask ▶ it, tokens heard

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
        for provider in self._providers.values():
            await provider.close()

    async def ask(self, ask: Ask, query: Query) -> Answer:
        """The whole answer; raises NotAdmissible where the money buys not one token."""
        call = self._call(ask, query)
        return _finish(ask, await self._provider(call.expert).ask(call))

    async def stream(self, ask: Ask, query: Query) -> AsyncGenerator[Delta | Answer, None]:
        """The pieces as they arrive, then the whole answer."""
        call = self._call(ask, query)
        heard = 0
        self._under_way[id(ask)] = ask, heard  # stays when cancelled, for `bill`
        try:
            async with aclosing(self._provider(call.expert).stream(call)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        piece = _finish(ask, piece)
                    else:
                        heard += len(said(piece.message))
                        self._under_way[id(ask)] = ask, heard
                    yield piece
        except UpstreamError:
            del self._under_way[id(ask)]
            raise
        del self._under_way[id(ask)]

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
        if query.max_cost is not None:
            body = capped(body, expert, query.max_cost)
        patience = math.inf if query.max_latency is None else query.max_latency
        return Call(expert, body, patience)

    def body(self, ask: Ask, query: Query) -> dict[str, Any]:
        """The request to send; what the config says of an expert overrides the client's wish."""
        expert = self.experts[ask.expert]
        if ask.kind == "answer":
            body = {"messages": list(query.messages), **query.options, **expert.options}
            return {**body, "temperature": 1.0, "seed": ask.sample} if ask.sample else body
        assert ask.kind == "verify", f"experts answer and verify; they do not {ask.kind}"
        assert ask.of is not None, "a verification is of an answer"
        template = expert.verify_prompt or self._provider(expert).verify_prompt or prompts.VERIFY
        prompt = prompts.verify(query, ask.of, template)
        sampling = {"temperature": 1.0, "seed": ask.sample} if ask.sample else {"temperature": 0}
        return {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": VERDICT_ROOM,
            **expert.options,
            **sampling,
        }

    def _provider(self, expert: Expert) -> Provider:
        if expert.provider not in self._providers:
            self._providers[expert.provider] = find("providers", expert.provider)()
        return self._providers[expert.provider]


def capped(body: Mapping[str, Any], expert: Expert, dollars: float) -> dict[str, Any]:
    """The request with as many output tokens as `dollars` buy at most.

    Raises NotAdmissible if that is not one. The input is counted at its upper bound, a token
    per byte, because nobody but the upstream knows its tokeniser.
    """
    input_cost = expert.price(_input_bound(body), 0)
    left, per_token = dollars - input_cost, expert.price(0, 1)
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
    rest = {key: body[key] for key in ("tools", "functions", "response_format") if key in body}
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


def _finish(ask: Ask, answer: Answer) -> Answer:
    if ask.kind == "answer":
        return answer
    return replace(answer, kind=ask.kind, confidence=prompts.confidence(answer))
