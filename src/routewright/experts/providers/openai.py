"""Calls any endpoint that speaks OpenAI chat completions: hosted, vLLM, llama.cpp or Ollama."""

from __future__ import annotations

from typing import Any, ClassVar

from routewright.experts.providers import Call
from routewright.experts.providers._http import Http
from routewright.experts.providers._transcript import Transcript, answer, embeddings
from routewright.experts.spending import LIMITS
from routewright.types import Answer


class Openai(Http):
    """Asks OpenAI-compatible endpoints."""

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = True
    protocol: ClassVar[str | None] = None
    default_url = "https://api.openai.com/v1"

    def path(self, base: str) -> str:
        return "/chat/completions"

    def request(self, call: Call, stream: bool) -> dict[str, Any]:
        if not stream:
            return dict(call.body)
        return {"stream_options": {"include_usage": True}, **call.body, "stream": True}

    def answer(self, call: Call, reply: Any, seconds: float) -> Answer:
        return answer(call, reply, seconds)

    async def embed(self, call: Call) -> Answer:
        """The embeddings of the texts in `input`; the expert's `options` are those of its chats."""
        body = {k: v for k, v in call.body.items() if k not in ("messages", *LIMITS)}
        reply, seconds = await self._reply(call, body, "/embeddings")
        return embeddings(call, reply, seconds)

    def transcript(self, call: Call) -> Transcript:
        return Transcript(call)
