"""`POST /v1/embeddings`: OpenAI embeddings, by the expert that is named or that a policy names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import Response

from routewright.gateway import body as chat
from routewright.gateway.body import ChatRequest, excerpt
from routewright.gateway.completion import complete
from routewright.gateway.errors import BadRequest, error_event
from routewright.gateway.policies import Policy
from routewright.types import Ask, DataClass, Decision, Delta, Plan, Query

MAX_TEXTS = 2048  # of one request, as OpenAI has it


async def embeddings(request: Request) -> Response:
    """Embeds texts by the expert that `model` names, or by the `embeddings` expert of a policy."""
    return await complete(request, parse, EmbeddingsReply, embedder)


@dataclass(frozen=True)
class Embed:
    """Ask one expert for embeddings."""

    light: ClassVar[bool] = True

    expert: str

    def plan(self, query: Query) -> Plan:
        answer = yield Ask(self.expert, "embed")
        return Decision(answer, because=f"{self.expert} makes the embeddings")


def embedder(policy: Policy) -> Policy:
    """The policy that makes the embeddings of a policy's clients; raises BadRequest if it has none.

    No other expert takes over: the vectors of two models cannot be compared.
    """
    expert = policy.embeddings
    if expert is None:
        raise BadRequest(
            f"policy '{policy.name}' makes no embeddings: request an expert by its name, or give"
            " the policy an `embeddings:` expert in the config",
            "model",
            status=422,
            code="no_embeddings",
        )
    return Policy(policy.name, Embed(expert), experts=(expert,), embeddings=expert)


def parse(body: Any, default_data_class: DataClass) -> ChatRequest:
    """Validates an embeddings request; raises BadRequest, which names the field and its value."""
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    if body.get("stream"):
        raise BadRequest("stream must be false: embeddings are not streamed", "stream")
    texts = _texts(body.get("input"))
    messages = [{"role": "user", "content": text} for text in texts]
    return chat.parse({**body, "messages": messages}, default_data_class)


def _texts(texts: Any) -> list[str]:
    """The texts to be embedded; four characters stand for each token of a text that comes as
    tokens."""
    if isinstance(texts, str) or _are_tokens(texts):
        texts = [texts]
    if not isinstance(texts, list) or not texts:
        message = f"input must be a text, a list of texts or tokens, not {excerpt(texts)}"
        raise BadRequest(message, "input")
    if len(texts) > MAX_TEXTS:
        message = f"input has {len(texts):,} texts: send at most {MAX_TEXTS:,} at once"
        raise BadRequest(message, "input")
    for index, text in enumerate(texts):
        if not (text and (isinstance(text, str) or _are_tokens(text))):
            field = f"input[{index}]"
            message = f"{field} must be a text or a list of tokens, not {excerpt(text)}"
            raise BadRequest(message, field)
    return [text if isinstance(text, str) else "...." * len(text) for text in texts]


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


class EmbeddingsReply:
    """Writes the embeddings of a decision."""

    protocol: ClassVar[str] = "chat"

    def __init__(self, decision_id: str, request: ChatRequest) -> None:
        self.decision_id = decision_id

    def whole(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]:
        answer = decision.answer
        reported = answer.extra.get("usage") or {}
        tokens = answer.input_tokens
        return {
            "object": "list",
            **(answer.message or {}),
            "model": answer.expert,
            "usage": {
                **reported,
                "prompt_tokens": tokens,
                "total_tokens": tokens,
                "cost": decision.cost,
            },
            "routewright": explanation,
        }

    def piece(self, delta: Delta) -> Iterable[bytes]:
        return ()

    def end(
        self, decision: Decision, last: Delta | None, explanation: Mapping[str, Any]
    ) -> Iterable[bytes]:
        return ()

    def failure(self, error: Mapping[str, Any]) -> bytes:
        return error_event(self.protocol, error)
