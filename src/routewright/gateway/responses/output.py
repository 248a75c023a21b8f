"""The output items of an answer, and the events that tell of them while they grow."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from routewright.experts.providers._tool_calls import join
from routewright.gateway.responses.tools import Origin, Tools, input_of
from routewright.types import Message

Event = dict[str, Any]
REASONING = ("reasoning_content", "reasoning")  # where chat upstreams write it; some send both
READ = ("role", "content", "refusal", "tool_calls", "annotations", *REASONING)


@dataclass
class Text:
    """A message or a reasoning item that is being written, and its part that is."""

    place: int  # its output_index
    item: dict[str, Any]
    part: dict[str, Any] | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)


@dataclass
class Call:
    """A call of a tool that is being written."""

    id: str | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)
    place: int | None = None  # its output_index; None: its name is not known yet
    item: dict[str, Any] = field(default_factory=dict)
    is_closed: bool = False


class Output:
    """Output items that grow by chat deltas.

    `add` and `close` yield the events of their growth, without sequence numbers. `summarises`
    means that the client requested summaries of the model's reasoning.
    """

    def __init__(self, suffix: str, tools: Tools, summarises: bool = False) -> None:
        self.items: list[dict[str, Any]] = []
        self._suffix = suffix  # of the ids of items
        self._tools = tools
        self._summarises = summarises
        self._text: Text | None = None
        self._calls: dict[int, Call] = {}

    def add(self, message: Message, logprobs: Any = None) -> Iterator[Event]:
        """The events of a chat delta. A whole message is one too."""
        thoughts = next((message[key] for key in REASONING if message.get(key)), None)
        if isinstance(thoughts, str):
            yield from self._add_reasoning(thoughts)
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, Mapping) and not isinstance(part.get("text"), str):
                yield from self._add_part(part)
            elif text := (part.get("text") if isinstance(part, Mapping) else part):
                yield from self._add_text("output_text", text, logprobs)
        if isinstance(refusal := message.get("refusal"), str) and refusal:
            yield from self._add_text("refusal", refusal)
        for annotation in message.get("annotations") or ():
            yield from self._annotate(annotation)
        if rest := {key: value for key, value in message.items() if key not in READ and value}:
            text = yield from self._opened("message")
            join(text.item, {key: value for key, value in rest.items() if key not in text.item})
        for number, call in enumerate(message.get("tool_calls") or ()):
            if isinstance(call, Mapping):
                yield from self._add_call(call, call.get("index", number))

    def close(self, status: str) -> Iterator[Event]:
        """The events that end all items; `status` is that of a message that was being written."""
        yield from self._close_text(status)
        for call in self._calls.values():
            yield from self._close_call(call, status)

    # --- texts --------------------------------------------------------------------------------

    def _add_reasoning(self, text: str) -> Iterator[Event]:
        item = yield from self._opened("reasoning")
        if item.part is None:
            kind = "summary_text" if self._summarises else "reasoning_text"
            yield from self._open_part(item, {"type": kind, "text": ""})
        yield from self._grow(item, text)

    def _add_text(self, kind: str, text: str, logprobs: Any = None) -> Iterator[Event]:
        item = yield from self._opened("message")
        if item.part is None or item.part["type"] != kind:
            yield from self._close_part(item)
            part = {"type": kind, **({"refusal": ""} if kind == "refusal" else {"text": ""})}
            more: dict[str, Any] = (
                {"annotations": [], "logprobs": []} if kind == "output_text" else {}
            )
            yield from self._open_part(item, {**part, **more})
        yield from self._grow(item, text, _logprobs(logprobs))

    def _add_part(self, part: Mapping[str, Any]) -> Iterator[Event]:
        """A part of a message that is no text, such as an image: it is passed on as it is."""
        item = yield from self._opened("message")
        yield from self._close_part(item)
        item.item["content"].append(dict(part))
        place = {**_place(item), "content_index": len(item.item["content"]) - 1}
        yield {"type": "response.content_part.added", **place, "part": dict(part)}
        yield {"type": "response.content_part.done", **place, "part": dict(part)}

    def _annotate(self, annotation: Any) -> Iterator[Event]:
        item = yield from self._opened("message")
        if item.part is None or item.part["type"] != "output_text":
            yield from self._close_part(item)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield from self._open_part(item, part)
        assert item.part is not None
        annotation = _flat(annotation)
        item.part["annotations"].append(annotation)
        number = len(item.part["annotations"]) - 1
        name = "response.output_text.annotation.added"
        place = _part_place(item)
        yield {"type": name, **place, "annotation_index": number, "annotation": annotation}

    def _opened(self, kind: str) -> Generator[Event, None, Text]:
        """The item of this kind that is being written; begins one if there is none."""
        if self._text is not None and self._text.item["type"] == kind:
            return self._text
        yield from self._close_text("completed")
        yield from self._close_last_call()
        item: dict[str, Any] = {"id": self._id("msg" if kind == "message" else "rs"), "type": kind}
        if kind == "message":
            item |= {"role": "assistant", "status": "in_progress", "content": []}
        else:
            item |= {"summary": [], "status": "in_progress"}
        self.items.append(item)
        self._text = Text(len(self.items) - 1, item)
        yield _added(self._text.place, item)
        return self._text

    def _open_part(self, text: Text, part: dict[str, Any]) -> Iterator[Event]:
        text.part, text.pieces, text.logprobs = part, [], []
        _parts_of(text.item, part).append(part)
        yield {**_part_event(text, "added"), "part": _copy(part)}

    def _grow(self, text: Text, piece: str, logprobs: list[Any] | None = None) -> Iterator[Event]:
        assert text.part is not None
        text.pieces.append(piece)
        text.logprobs += logprobs or []
        more = {"logprobs": logprobs or []} if text.part["type"] == "output_text" else {}
        yield {**_text_event(text, "delta"), "delta": piece, **more}

    def _close_part(self, text: Text) -> Iterator[Event]:
        part = text.part
        if part is None:
            return
        key = "refusal" if part["type"] == "refusal" else "text"
        part[key] = "".join(text.pieces)
        more = {}
        if part["type"] == "output_text":
            part["logprobs"] = text.logprobs
            more = {"logprobs": text.logprobs}
        yield {**_text_event(text, "done"), key: part[key], **more}
        yield {**_part_event(text, "done"), "part": _copy(part)}
        text.part = None

    def _close_text(self, status: str) -> Iterator[Event]:
        text, self._text = self._text, None
        if text is not None:
            yield from self._close_part(text)
            text.item["status"] = status
            yield _done(text.place, text.item)

    # --- calls --------------------------------------------------------------------------------

    def _add_call(self, delta: Mapping[str, Any], number: Any) -> Iterator[Event]:
        if number not in self._calls:
            yield from self._close_text("completed")
            yield from self._close_last_call()
            self._calls[number] = Call()
        call = self._calls[number]
        function = delta.get("function")
        function = function if isinstance(function, Mapping) else {}
        call.id = call.id or delta.get("id")
        call.name += function.get("name") or ""
        left_out = ("index", "id", "type", "function")
        call.rest |= {key: value for key, value in delta.items() if key not in left_out}
        arguments = function.get("arguments") or ""
        call.arguments.append(arguments)
        if call.place is None and call.name:
            yield from self._open_call(call)
        elif call.place is not None and arguments and call.item["type"] == "function_call":
            yield self._arguments_event(call, "delta", delta=arguments)

    def _open_call(self, call: Call) -> Iterator[Event]:
        origin = self._tools.origin(call.name)
        call.place = len(self.items)
        call.item = self._call_item(call, origin)
        self.items.append(call.item)
        yield _added(call.place, call.item)
        arguments = "".join(call.arguments)
        if arguments and not origin.is_custom:
            yield self._arguments_event(call, "delta", delta=arguments)

    def _call_item(self, call: Call, origin: Origin) -> dict[str, Any]:
        """The item of a call that begins, with the names that the client gave."""
        number = len(self.items)
        namespace = {} if origin.namespace is None else {"namespace": origin.namespace}
        fields = {
            "id": self._id("ctc" if origin.is_custom else "fc"),
            "type": "custom_tool_call" if origin.is_custom else "function_call",
            "status": "in_progress",
            "call_id": call.id or f"call_{self._suffix}_{number}",
            "name": origin.name,
            **namespace,
        }
        return {**fields, ("input" if origin.is_custom else "arguments"): ""}

    def _close_last_call(self) -> Iterator[Event]:
        """The end of the last call, if it is whole. Of thousands, not all are read every time."""
        call = next(reversed(self._calls.values()), None)
        if call is not None and _is_json("".join(call.arguments)):
            yield from self._close_call(call, "completed")

    def _close_call(self, call: Call, status: str) -> Iterator[Event]:
        if call.is_closed:
            return
        if call.place is None:
            yield from self._open_call(call)
        call.is_closed = True
        arguments = "".join(call.arguments)
        call.item |= {key: value for key, value in call.rest.items() if key not in call.item}
        call.item["status"] = status if not _is_json(arguments) else "completed"
        if call.item["type"] == "custom_tool_call":
            text = call.item["input"] = input_of(arguments)
            place = {"item_id": call.item["id"], "output_index": call.place}
            name = "response.custom_tool_call_input"
            yield {"type": f"{name}.delta", **place, "delta": text}
            yield {"type": f"{name}.done", **place, "input": text}
        else:
            call.item["arguments"] = arguments
            name = call.item["name"]
            yield self._arguments_event(call, "done", arguments=arguments, name=name)
        assert call.place is not None
        yield _done(call.place, call.item)

    def _arguments_event(self, call: Call, stage: str, **more: Any) -> Event:
        place = {"item_id": call.item["id"], "output_index": call.place}
        return {"type": f"response.function_call_arguments.{stage}", **place, **more}

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._suffix}_{len(self.items)}"


def written(items: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """The events of items that are whole already, as an upstream would have streamed them."""
    for place, item in enumerate(items):
        kind = item.get("type")
        at = {"item_id": item.get("id", ""), "output_index": place}
        if kind in ("message", "reasoning"):
            yield _added(
                place, {**item, **{key: [] for key in ("content", "summary") if key in item}}
            )
            for key in ("summary", "content"):
                for number, part in enumerate(item.get(key) or ()):
                    yield from _written_part(at, key, number, part)
        elif kind in ("function_call", "custom_tool_call"):
            is_custom = kind == "custom_tool_call"
            key = "input" if is_custom else "arguments"
            name = (
                f"response.{'custom_tool_call_input' if is_custom else 'function_call_arguments'}"
            )
            yield _added(place, {**item, key: ""})
            yield {"type": f"{name}.delta", **at, "delta": item.get(key, "")}
            own_name = {} if is_custom else {"name": item.get("name", "")}
            yield {"type": f"{name}.done", **at, key: item.get(key, ""), **own_name}
        else:
            yield _added(place, item)
        yield _done(place, item)


def _written_part(
    at: Mapping[str, Any], key: str, number: int, part: Mapping[str, Any]
) -> Iterator[Event]:
    """The events of one part of a whole item."""
    kind = part.get("type")
    is_summary = key == "summary"
    place = {**at, ("summary_index" if is_summary else "content_index"): number}
    frame = "response.reasoning_summary_part" if is_summary else "response.content_part"
    text_key = "refusal" if kind == "refusal" else "text"
    text = part.get(text_key)
    yield {"type": f"{frame}.added", **place, "part": {**part, **({text_key: ""} if text else {})}}
    if isinstance(text, str) and kind in NAMES:
        more = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
        yield {"type": f"{NAMES[kind]}.delta", **place, "delta": text, **more}
        yield {"type": f"{NAMES[kind]}.done", **place, text_key: text, **more}
    yield {"type": f"{frame}.done", **place, "part": part}


# --- events --------------------------------------------------------------------------------

NAMES = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
    "summary_text": "response.reasoning_summary_text",
}


def _added(place: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.added", "output_index": place, "item": _copy(item)}


def _done(place: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.done", "output_index": place, "item": _copy(item)}


def _copy(item: Mapping[str, Any]) -> dict[str, Any]:
    """The item as it is now, because it grows."""
    return {k: list(value) if isinstance(value, list) else value for k, value in item.items()}


def _parts_of(item: dict[str, Any], part: Mapping[str, Any]) -> list[Any]:
    """The list that a part belongs to."""
    key = "summary" if part["type"] == "summary_text" else "content"
    parts: list[Any] = item.setdefault(key, [])
    return parts


def _place(text: Text) -> dict[str, Any]:
    return {"item_id": text.item["id"], "output_index": text.place}


def _part_place(text: Text) -> dict[str, Any]:
    """Where the part is that is being written."""
    assert text.part is not None
    number = len(_parts_of(text.item, text.part)) - 1
    key = "summary_index" if text.part["type"] == "summary_text" else "content_index"
    return {**_place(text), key: number}


def _part_event(text: Text, stage: str) -> Event:
    assert text.part is not None
    is_summary = text.part["type"] == "summary_text"
    name = "response.reasoning_summary_part" if is_summary else "response.content_part"
    return {"type": f"{name}.{stage}", **_part_place(text)}


def _text_event(text: Text, stage: str) -> Event:
    assert text.part is not None
    return {"type": f"{NAMES[text.part['type']]}.{stage}", **_part_place(text)}


def _logprobs(logprobs: Any) -> list[Any]:
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return list(content) if isinstance(content, list) else []


def _flat(annotation: Any) -> Any:
    """A citation as Responses writes it, without chat's object inside."""
    inner = annotation.get(annotation.get("type")) if isinstance(annotation, Mapping) else None
    return {"type": annotation["type"], **inner} if isinstance(inner, Mapping) else annotation


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
