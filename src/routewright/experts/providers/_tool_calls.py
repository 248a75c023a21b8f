"""Puts the tool calls of a stream together, and gives each its number. Nothing here does I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from routewright.experts.providers._events import parse

# Texts that name something: a delta that repeats them changes nothing.
LABELS = {"id", "type", "role", "format", "name", "signature"}


@dataclass(eq=False)
class Call:
    """One tool call, as far as it has been received."""

    number: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)  # fragments of a JSON text
    function: dict[str, Any] | None = None  # other fields of its function; None: it has none
    rest: dict[str, Any] = field(default_factory=dict)  # other fields of the call

    @property
    def has_ended(self) -> bool:
        """Whether its arguments are a whole JSON object."""
        last = next((piece for piece in reversed(self.arguments) if piece.strip()), "")
        return last.rstrip().endswith("}") and parse("".join(self.arguments)) is not None

    @property
    def is_whole(self) -> bool:
        """Whether it can be executed: a function has a name and JSON arguments, or none."""
        if self.function is None:
            return bool(self.rest)
        return bool(self.name) and (not "".join(self.arguments).strip() or self.has_ended)

    def message(self) -> dict[str, Any]:
        """The call as it stands in a message that is not streamed."""
        call = {**({"id": self.id} if self.id else {}), **self.rest}
        if self.function is not None:
            arguments = "".join(self.arguments)
            call["function"] = {"name": self.name, "arguments": arguments, **self.function}
        return call


class ToolCalls:
    """The tool calls of a stream, numbered from 0 in order of appearance.

    An index or an id that is new begins a new call, and so does a name without either once the
    call before it has ended. Everything else belongs to the call with that index or id, or else to
    the last one. Upstreams that number every call 0 are told by the new id.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._by_index: dict[int, Call] = {}  # by the upstream's number
        self._by_id: dict[str, Call] = {}

    def add(self, pieces: object) -> list[dict[str, Any]]:
        """Adds the pieces of one delta; returns them with the right number, without repetitions."""
        if isinstance(pieces, Mapping):
            pieces = [pieces]
        pieces = pieces if isinstance(pieces, list) else []
        deltas = [self._add(piece) for piece in pieces if isinstance(piece, Mapping)]
        return [delta for delta in deltas if len(delta) > 1]

    def messages(self) -> list[dict[str, Any]]:
        return [call.message() for call in self.calls]

    def _add(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        function = piece.get("function") if isinstance(piece.get("function"), Mapping) else None
        id, name, index = _text(piece.get("id")), _text((function or {}).get("name")), _index(piece)
        call = self._call(index, id, name)
        if call is None:
            call = Call(len(self.calls))
            self.calls.append(call)
        if index is not None:
            self._by_index[index] = call
        fields = _without(piece, "index", "id", "function", *({"type"} & call.rest.keys()))
        join(call.rest, fields)
        delta = {"index": call.number, **fields}
        if id and not call.id:
            call.id = delta["id"] = id
            self._by_id[id] = call
        if function is not None and (pieces := _function(call, function, name)):
            delta["function"] = pieces
        return delta

    def _call(self, index: int | None, id: str, name: str) -> Call | None:
        """The call that a piece belongs to; None if it begins a new one."""
        call = self._by_index.get(index) if index is not None else None
        is_new_index = index is not None and call is None
        if call is None and id:
            call = self._by_id.get(id)
        if call is None and index is None and self.calls:
            call = self.calls[-1]
        if call is None or not name or not call.name:
            return call
        if id and id == call.id:
            is_other = (is_new_index or name != call.name) and call.has_ended
        elif index is None or (id and call.id):
            is_other = name != call.name or not any(call.arguments) or call.has_ended
        else:
            is_other = False
        return None if is_other else call


def _function(call: Call, function: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Adds a piece of a call's function; returns what of it is new."""
    fields = _without(function, "name", "arguments")
    is_new = call.function is None
    if call.function is None:
        call.function = {}
    join(call.function, fields)
    delta = dict(fields)
    if name and name != call.name:  # some upstreams repeat the name in every piece
        call.name += name
        delta["name"] = name
    arguments = arguments_text(function.get("arguments"))
    if arguments or is_new:
        call.arguments.append(arguments)
        delta["arguments"] = arguments
    return delta


def arguments_text(arguments: object) -> str:
    """The arguments of a call as JSON text; some upstreams send the object itself."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return json.dumps(arguments, ensure_ascii=False)


def join(fields: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Adds the fields of a delta to those of its message, in place; `more` stays as it is.

    Texts are appended and lists extended, as in OpenAI's client; the items of a list that have an
    `index` are joined by it. Null changes nothing.
    """
    for key, value in more.items():
        old = fields.get(key)
        if old is None:
            fields[key] = _copy(value)
        elif isinstance(old, str) and isinstance(value, str):
            fields[key] = value if key in LABELS else old + value
        elif isinstance(old, dict) and isinstance(value, Mapping):
            join(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            _extend(old, value)
        elif value is not None:
            fields[key] = _copy(value)


def _extend(items: list[Any], more: list[Any]) -> None:
    places = {}
    if any(_index(item) is not None for item in more):
        places = {_index(item): place for place, item in enumerate(items)}
    for item in more:
        place = None if _index(item) is None else places.get(_index(item))
        if place is None:
            items.append(_copy(item))
        else:
            join(items[place], item)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _without(fields: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The other fields, as far as they have a value."""
    return {k: value for k, value in fields.items() if k not in keys and value not in (None, "")}


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _index(item: object) -> int | None:
    index = item.get("index") if isinstance(item, Mapping) else None
    if isinstance(index, str) and index.isdecimal():
        return int(index[:9])
    return index if type(index) is int else None
