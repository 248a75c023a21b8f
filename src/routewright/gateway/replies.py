"""What replies have in common in every protocol: headers, events, and who writes the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import quote

from routewright.types import Answer, Decision, Delta, estimated_cost, path_of, total_cost

if TYPE_CHECKING:
    from routewright.gateway.body import ChatRequest

LONGEST_HEADER = 500  # characters
COMMENT = b": keep-alive\n\n"  # a server-sent event that clients ignore


class ReplyFormat(Protocol):
    """Writes one decision in a protocol: as one object, or as the events of a stream.

    `explanation` is the object `routewright`, which the reply contains where the protocol allows
    it. `piece` gets every delta but the last one, which `end` gets together with the decision; it
    is None if the stream had none. `failure` ends a stream instead of `end`; its argument is an
    OpenAI error object.
    """

    protocol: ClassVar[str]

    def whole(self, decision: Decision, explanation: Mapping[str, Any]) -> dict[str, Any]: ...

    def piece(self, delta: Delta) -> Iterable[bytes]: ...

    def end(
        self, decision: Decision, last: Delta | None, explanation: Mapping[str, Any]
    ) -> Iterable[bytes]: ...

    def failure(self, error: Mapping[str, Any]) -> bytes: ...


class Memory(Protocol):
    """What a protocol keeps of requests and answers, so that later requests may refer to it.

    `recall` returns the request with what it refers to; it raises BadRequest. `keep` gets the
    reply once it is whole, before the client gets its end, and the session; it raises nothing.
    """

    async def recall(self, request: ChatRequest) -> ChatRequest: ...

    async def keep(self, reply: ReplyFormat, session: str | None) -> None: ...


def cost_headers(spent: Sequence[Answer]) -> dict[str, str]:
    """Headers with the path and the cost of all asks, whether or not one was answered."""
    if not spent:
        return {}
    estimated = estimated_cost(spent)
    return {
        "x-routewright-path": header(path_of(spent)),
        "x-routewright-cost": f"{total_cost(spent):.10f}",
        **({"x-routewright-cost-estimated": f"{estimated:.10f}"} if estimated else {}),
    }


def header(value: str) -> str:
    """A value that an HTTP header can hold: one line of ASCII with a limited length."""
    return quote(value[:LONGEST_HEADER], safe=" !#$&'()*+,/:;<=>?@[]^`{|}~")[:LONGEST_HEADER]


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event; `name` is its kind, in protocols that name them."""
    kind = b"" if name is None else b"event: " + name.encode() + b"\n"
    return kind + b"data: " + json.dumps(value).encode() + b"\n\n"
