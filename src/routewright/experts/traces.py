"""The trace that a request belongs to, as the W3C's headers `traceparent` and `tracestate` say it.

A client, or a proxy in front of the gateway, sends them; providers pass them on over HTTP
(https://www.w3.org/TR/trace-context/). Headers that are malformed are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

MEMBERS, LONGEST = 32, 512  # of a tracestate: its list members, and its characters
PARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-[!-~]{0,256})?"
)
STATE_KEY = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}")
STATE_VALUE = re.compile(r"[ -+\--<>-~]{0,255}[!-+\--<>-~]")
KNOWN_FLAGS = 0b11  # sampled, random


@dataclass(frozen=True)
class Trace:
    """The trace of a request, and the span of it that is the parent of what follows.

    `id` and `span` are 32 and 16 hexadecimal digits. `state` is the text of other vendors, which
    is passed on and never recorded.
    """

    id: str
    span: str
    flags: int = 0
    state: str = ""

    def headers(self) -> dict[str, str]:
        """The headers that carry the trace on.

        >>> Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1).headers()
        {'traceparent': '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'}
        """
        parent = f"00-{self.id}-{self.span}-{self.flags:02x}"
        return {"traceparent": parent, **({"tracestate": self.state} if self.state else {})}


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def trace_id() -> str | None:
    """The trace that the request in progress belongs to; None if it belongs to none."""
    trace = TRACE.get()
    return trace.id if trace else None


def trace_of(parents: Sequence[str], states: Sequence[str] = ()) -> Trace | None:
    """The trace of the headers `traceparent` and `tracestate`; None if they name none.

    >>> trace_of(["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"], ["a=1", "b=2"]).state
    'a=1,b=2'
    >>> trace_of(["00-00000000000000000000000000000000-b7ad6b7169203331-01"])
    """
    match = PARENT.fullmatch(parents[0].strip(" \t")) if len(parents) == 1 else None
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    if not int(match["trace"], 16) or not int(match["span"], 16):
        return None
    flags = int(match["flags"], 16) & KNOWN_FLAGS
    return Trace(match["trace"], match["span"], flags, _state(",".join(states)))


def _state(text: str) -> str:
    """A `tracestate` that can be passed on; empty if it cannot be read."""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    pairs = [member.partition("=")[::2] for member in members]
    keys = {key for key, _ in pairs}
    if len(text) > LONGEST or len(members) > MEMBERS or len(keys) < len(members):
        return ""
    is_readable = all(STATE_KEY.fullmatch(key) and STATE_VALUE.fullmatch(v) for key, v in pairs)
    return ",".join(members) if is_readable else ""


def trace_headers(own: Mapping[str, str | None]) -> dict[str, str]:
    """The headers that pass the trace of the request in progress on to an expert.

    An expert's `own` headers in the config come first: one that is null is not sent.
    """
    trace = TRACE.get()
    if trace is None:
        return {}
    names = {name.lower() for name in own}
    return {name: value for name, value in trace.headers().items() if name not in names}
