"""Answers with what it was asked, in this process: for trying a config without a model or a key."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

from routewright.errors import UpstreamRefused
from routewright.experts.providers import Call, input_tokens, tokens, word_by_word
from routewright.types import Answer, Delta, Query

CHARACTERS = 4  # of a token


class Echo:
    """Repeats the last user message, whole or word by word, at the prices of the expert.

    Tokens are counted at four characters each, and an output limit cuts the answer, so budgets,
    keys, limits and policies can be tried as they are.
    """

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = False
    protocol: ClassVar[str | None] = None

    async def ask(self, call: Call) -> Answer:
        began = time.monotonic()
        text, expert = Query(tuple(call.body["messages"])).text, call.expert
        limit = _limit(call)
        finish_reason = "stop"
        if limit is not None and tokens(text) > limit:
            text, finish_reason = text[: CHARACTERS * limit], "length"
        sent, received = input_tokens(call.body), tokens(text)
        return Answer(
            expert.name,
            text,
            cost=expert.price(sent, received),
            latency=time.monotonic() - began,
            input_tokens=sent,
            output_tokens=received,
            finish_reason=finish_reason,
            message={"role": "assistant", "content": text},
        )

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]:
        answer = await self.ask(call)
        for piece in word_by_word(answer):
            yield piece
        yield answer

    async def close(self) -> None:
        """Nothing to close."""


def _limit(call: Call) -> int | None:
    """The output limit in tokens; raises UpstreamRefused for one that is no number of tokens."""
    limit: Any = call.body.get("max_completion_tokens") or call.body.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise UpstreamRefused(
            call.expert.name, f"an output limit of {limit!r} is no number of tokens", status=400
        )
    return limit
