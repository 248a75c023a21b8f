"""Writes the gateway's log: on a terminal a readable line per decision, elsewhere JSON.

A line that a request causes names the request and the trace that it belongs to. The log shows where
an exception in a request was raised, but not its message, which may repeat the query.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

from routewright.experts.traces import trace_id

RED, YELLOW, GREEN, CYAN, DIM, PLAIN = (f"\x1b[{code}m" for code in (31, 33, 32, 36, 2, 0))

# The id of the request in progress. Every request has a context of its own, which ends with it.
REQUEST: ContextVar[str | None] = ContextVar("request", default=None)


class Formatter(logging.Formatter):
    """Writes the message of a record, and tracebacks without messages in a request."""

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        if REQUEST.get() is None or ei[1] is None:
            return super().formatException(ei)
        return without_messages(ei[1])


def without_messages(error: BaseException) -> str:
    """The traceback of an exception and of those that caused it, without their messages.

    >>> try:
    ...     int("a private text")
    ... except ValueError as error:
    ...     print(without_messages(error).splitlines()[-1])
    ValueError: its message is left out, because it may repeat the query
    """
    parts: list[str] = []
    present: BaseException | None = error
    while present is not None and len(parts) < 10:
        frames = "".join(traceback.format_tb(present.__traceback__))
        name = type(present).__name__
        reason = "its message is left out, because it may repeat the query"
        parts.insert(0, f"Traceback (most recent call last):\n{frames}{name}: {reason}")
        hidden = present.__suppress_context__
        present = present.__cause__ or (None if hidden else present.__context__)
    return "\n\nwhich led to:\n\n".join(parts)


def as_json(record: logging.LogRecord, text: str) -> str:
    """A line for a program. Those that are JSON already name their request themselves."""
    if text.startswith("{"):
        return text
    line = {
        "event": "log",
        "level": record.levelname.lower(),
        "logger": record.name,
        "request_id": REQUEST.get(),
        "trace_id": trace_id(),
        "message": text,
    }
    return json.dumps({key: value for key, value in line.items() if value is not None})


class Stderr(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at that time, so that it may be redirected later."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(Formatter())

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if sys.stderr.isatty():
            return readable(record, text, has_colours())
        return as_json(record, text)


def log_to_stderr(quiet: bool = False) -> None:
    """Writes warnings of every library and what `routewright` reports; with `quiet` warnings only.

    It does nothing if the program has set up its own log.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = Stderr()
    handler.setLevel(logging.WARNING if quiet else logging.NOTSET)
    root.addHandler(handler)


def has_colours() -> bool:
    """Whether the terminal may show colours: not with NO_COLOR (no-color.org) or TERM=dumb."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def readable(record: logging.LogRecord, text: str, colours: bool) -> str:
    """A line for a person. Lines that report no decision keep their text."""
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    line = _parsed(text)
    if line is None:
        colour = {logging.WARNING: YELLOW}.get(record.levelno, RED if record.levelno > 30 else "")
        parts = [(DIM, clock), (colour, text)]
    else:
        parts = [(DIM, clock), *_decision(line)]
    return "  ".join(
        f"{colour}{part}{PLAIN}" if colours and colour else part for colour, part in parts if part
    )


def _parsed(text: str) -> dict[str, Any] | None:
    """The decision that a line of the log reports; None if it reports none."""
    if not text.startswith('{"event": "decision"'):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _decision(line: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of a decision's line, each with its colour."""
    status = str(line.get("status"))
    path = str(line.get("path") or "nobody was asked")
    ok = status == "ok"
    mark = "✓" if ok else f"✗ {status}"
    if line.get("upstream_status"):
        mark += f" {line['upstream_status']}"
    tokens = ""
    if line.get("output_tokens") is not None:
        tokens = f"{line.get('input_tokens')} → {line['output_tokens']} tokens"
    data_class = line.get("data_class")
    return [
        (GREEN if ok else RED, mark),
        ("", str(line.get("policy"))),
        (CYAN, path),
        ("", f"${line.get('cost') or 0:.6f}"),
        ("", f"{line.get('seconds') or 0:.2f} s"),
        (DIM, tokens),
        (DIM, "" if data_class == "public" else str(data_class)),
    ]
