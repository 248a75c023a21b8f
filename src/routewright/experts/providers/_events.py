"""Reads server-sent events as upstreams write them. Nothing here does I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

DONE = "[DONE]"
BOM = b"\xef\xbb\xbf"
SPACE = re.compile(r"\s*")


def _float(literal: str) -> float | None:
    value = float(literal)
    return value if math.isfinite(value) else None


def _int(literal: str) -> int | None:
    try:
        return int(literal)
    except ValueError:  # more digits than Python converts
        return None


# NaN, Infinity, 1e999 and integers of thousands of digits become None. Python would read the
# first three, but they are not JSON, and a client's own parser would refuse them.
# Control characters in texts are no JSON either, but what is meant is clear.
DECODER = json.JSONDecoder(
    parse_constant=lambda _: None, parse_float=_float, parse_int=_int, strict=False
)


def parse(raw: bytes | str) -> Any:
    """Parses the JSON of an upstream; None if it is not JSON. See DECODER for numbers."""
    try:
        if isinstance(raw, bytes):
            raw = raw.decode(json.detect_encoding(raw), errors="replace")
        return DECODER.decode(raw.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


class TooLong(ValueError):
    """A single event is longer than the limit."""


class EventReader:
    """Reads the bytes of a stream, cut anywhere, as the JSON values of its events.

    The rules are those of https://html.spec.whatwg.org/multipage/server-sent-events.html: lines
    end with LF, CRLF or CR, the `data:` lines of an event are joined, and a blank line ends it.
    Some upstreams leave the blank line out, or send JSON instead of a stream: a line that is a JSON
    object by itself is an event, with and without `data:`, and is returned at once. A value is a
    JSON object, DONE, or the text of an event that is neither. Raises TooLong if an event has more
    than `limit` bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._size = 0  # bytes of the incomplete event
        self._line: list[bytes] = []  # the chunks of the incomplete line, joined once
        self._data: list[str] = []  # the data lines of the incomplete event
        self._is_document = False  # whether these lines have no `data:`
        self._is_error = False  # whether the event's name is `error`
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> Iterator[Any]:
        """The events that this chunk completes."""
        if self._after_cr and chunk:
            chunk, self._after_cr = chunk.removeprefix(b"\n"), False
        self._size += len(chunk)
        if self._size > self.limit:
            self._line.clear()  # the error keeps this frame, and with it the reader
            raise TooLong
        if b"\n" not in chunk and b"\r" not in chunk:
            self._line.append(chunk)
            return
        lines = b"".join([*self._line, chunk]).splitlines(keepends=True)
        self._after_cr = lines[-1].endswith(b"\r")
        self._line = [] if lines[-1].endswith((b"\r", b"\n")) else [lines.pop()]
        for line in lines:
            yield from self._read(line.rstrip(b"\r\n"))
        if not self._data:
            self._size = sum(map(len, self._line))

    def end(self) -> Iterator[Any]:
        """The event that the end of the stream completes, if there is one."""
        yield from self._read(b"".join(self._line))
        self._line = []
        yield from self._dispatch()

    def _read(self, line: bytes) -> Iterator[Any]:
        if self._at_start:
            line, self._at_start = line.removeprefix(BOM), False
        if self._is_document or (not self._data and line.lstrip().startswith(b"{")):
            self._is_document = True
            yield from self._add(line)
            return
        if not line:
            yield from self._dispatch()
            self._is_error = False
        name, _, value = line.partition(b":")
        if name == b"event":
            self._is_error = value.strip() == b"error"
        elif name == b"data":
            yield from self._add(value)

    def _add(self, line: bytes) -> Iterator[Any]:
        data = line.decode(errors="replace").strip()
        if data == DONE:
            yield from self._dispatch()
            yield DONE
        elif self._data:
            self._data.append(data)
        elif isinstance(value := parse(data), dict):
            yield self._named(value)
            self._is_document = False
        elif data:
            self._data.append(data)

    def _dispatch(self) -> Iterator[Any]:
        text = "\n".join(self._data).strip()
        self._data.clear()
        self._is_document = False
        for value in _values(text):
            yield self._named(value)

    def _named(self, value: Any) -> Any:
        """The value; as an error object if it is one by the name of its event alone."""
        if self._is_error and isinstance(value, dict) and not value.get("error"):
            return {"error": value}
        return value


def _values(text: str) -> list[Any]:
    """The JSON objects in a text, one after the other; the text itself if it holds others."""
    values: list[Any] = []
    position = 0
    while position < len(text):
        try:
            value, position = DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            return [text]
        if not isinstance(value, dict):
            return [text]
        values.append(value)
        space = SPACE.match(text, position)
        position = space.end() if space else position
    return values


async def events(chunks: AsyncIterable[bytes], limit: int) -> AsyncIterator[Any]:
    """The JSON values of a stream's events, up to `[DONE]`; see EventReader."""
    reader = EventReader(limit)
    async for chunk in chunks:
        for event in reader.feed(chunk):
            yield event
            if event == DONE:
                return
    for event in reader.end():
        yield event
