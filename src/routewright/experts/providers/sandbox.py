"""Runs the three tiny language models that come with Routewright in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import ClassVar

from routewright.errors import UpstreamRefused
from routewright.experts.providers import Call, word_by_word
from routewright.sandbox import skills
from routewright.sandbox.model import Completion, TinyLM
from routewright.types import Answer, Delta, Expert, Query

DEFAULT_TOKENS = 32  # output limit, unless the request sets one


class Sandbox:
    """Answers the last user turn with the model that the expert's `model` names.

    The models compute in threads, so that they do not block the event loop. An answer takes
    milliseconds: a stream is computed whole and then passed on word by word.
    """

    verify_prompt: ClassVar[str | None] = skills.VERIFY_TEMPLATE
    takes_n: ClassVar[bool] = False
    protocol: ClassVar[str | None] = None

    async def ask(self, call: Call) -> Answer:
        began = time.monotonic()
        completion = await asyncio.to_thread(_generate, call)
        return _answer(call, completion, time.monotonic() - began)

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]:
        answer = await self.ask(call)
        for piece in word_by_word(answer):
            yield piece
        yield answer

    async def warm(self, expert: Expert) -> None:
        """Reads the expert's model from disk."""
        await asyncio.to_thread(TinyLM.load, expert.model or expert.name)

    async def close(self) -> None:
        """Nothing to close: the models stay in memory."""


def _generate(call: Call) -> Completion:
    body, expert = call.body, call.expert
    prompt = Query(tuple(body["messages"])).text
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_TOKENS
    try:
        return TinyLM.load(expert.model or expert.name).generate(
            prompt,
            max_tokens=limit,
            temperature=body.get("temperature") or 0.0,
            seed=body.get("seed"),
        )
    except (ValueError, TypeError, OverflowError) as error:
        # The prompt is too long, or an option of the client is not a number.
        raise UpstreamRefused(expert.name, f"the request: {error}", status=400) from error


def _answer(call: Call, completion: Completion, seconds: float) -> Answer:
    return Answer(
        call.expert.name,
        completion.text,
        cost=call.expert.price(completion.prompt_tokens, completion.completion_tokens),
        latency=seconds,
        input_tokens=completion.prompt_tokens,
        output_tokens=completion.completion_tokens,
        finish_reason=completion.finish_reason,
        message={"role": "assistant", "content": completion.text},
        logprobs=tuple(completion.logprobs),
    )
