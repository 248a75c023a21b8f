"""The items of a Responses request as OpenAI chat messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from routewright.gateway.body import MAX_MESSAGES
from routewright.gateway.errors import BadRequest
from routewright.gateway.responses.tools import Tools, arguments_of

TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
CALLS = ("function_call", "custom_tool_call")
OUTPUTS = ("function_call_output", "custom_tool_call_output")
REFERENCE = "item_reference"


def checked(value: Any) -> list[dict[str, Any]]:
    """The items of `input`; raises BadRequest, which names the one that cannot be read."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise BadRequest("input must be a text or a list of items", "input")
    if len(value) > MAX_MESSAGES:
        message = f"there are {len(value):,} items: send at most {MAX_MESSAGES:,}"
        raise BadRequest(message, "input")
    for place, item in enumerate(value):
        _check(item, f"input[{place}]")
    return value


def kind_of(item: Mapping[str, Any]) -> str:
    """The type of an item; a message may leave it out."""
    kind = item.get("type")
    return kind if isinstance(kind, str) else "message"


def _check(item: Any, field: str) -> None:
    if not isinstance(item, dict) or not isinstance(item.get("type", ""), str | None):
        raise BadRequest(f"{field} must be an object with a type", field)
    kind = kind_of(item)
    if kind == "message":
        if not isinstance(item.get("role"), str):
            raise BadRequest(f"{field}.role must be a text", f"{field}.role")
        _check_parts(item.get("content"), f"{field}.content")
    elif kind in CALLS:
        text = "arguments" if kind == "function_call" else "input"
        for name in ("call_id", "name", text):
            if not isinstance(item.get(name), str):
                raise BadRequest(f"{field}.{name} must be a text", f"{field}.{name}")
    elif kind in OUTPUTS:
        if not isinstance(item.get("call_id"), str):
            raise BadRequest(f"{field}.call_id must be a text", f"{field}.call_id")
        _check_parts(item.get("output"), f"{field}.output")
    elif kind == REFERENCE and not isinstance(item.get("id"), str):
        raise BadRequest(f"{field}.id must be a text", f"{field}.id")


def _check_parts(content: Any, field: str) -> None:
    if isinstance(content, str | None):
        return
    if not isinstance(content, list):
        raise BadRequest(f"{field} must be a text or a list of parts", field)
    for place, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type", ""), str):
            where = f"{field}[{place}]"
            raise BadRequest(f"{where} must be an object with a type", where)


def chat_messages(
    instructions: str | None, items: Iterable[Mapping[str, Any]], tools: Tools
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The chat messages of checked items, and the names of what they cannot carry."""
    conversation = Conversation(tools)
    if instructions:
        conversation.messages.append({"role": "system", "content": instructions})
    for item in items:
        conversation.add(item)
    conversation.end()
    return conversation.messages, tuple(conversation.lost)


class Conversation:
    """Chat messages that grow by items."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.messages: list[dict[str, Any]] = []
        self.lost: dict[str, None] = {}
        self._images: list[dict[str, Any]] = []  # of tools' outputs, which chat has no place for

    def add(self, item: Mapping[str, Any]) -> None:
        kind = kind_of(item)
        if kind in OUTPUTS:
            self._output(item)
            return
        self.end()
        if kind == "message":
            self._message(item)
        elif kind in CALLS:
            self._call(item, kind)
        else:
            self.lost[f"{kind[:60]} items"] = None

    def end(self) -> None:
        """Ends a run of tools' outputs: their images follow as a message of the user."""
        if self._images:
            self.messages.append({"role": "user", "content": self._images})
            self._images = []

    def _message(self, item: Mapping[str, Any]) -> None:
        role, content = item["role"], item.get("content")
        message: dict[str, Any] = {"role": role}
        if isinstance(item.get("name"), str):
            message["name"] = item["name"]
        if isinstance(content, list) and role == "assistant":
            message |= self._of_assistant(content)
        elif isinstance(content, list):
            message["content"] = _plain(self._parts(content))
        else:
            message["content"] = content or ""
        self.messages.append(message)

    def _of_assistant(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The fields of an assistant's message: one text, as chat has it, and a refusal."""
        texts = [part["text"] for part in content if _is_text(part)]
        refusals = [part.get("refusal") for part in content if part.get("type") == "refusal"]
        others = [p for p in content if not _is_text(p) and p.get("type") != "refusal"]
        self.lost |= {f"{part.get('type', '?')[:60]} parts": None for part in others}
        fields: dict[str, Any] = {"content": "".join(texts) if texts or not refusals else None}
        if refusals:
            fields["refusal"] = "".join(text for text in refusals if isinstance(text, str))
        return fields

    def _call(self, item: Mapping[str, Any], kind: str) -> None:
        """Adds a call to the assistant's message that stands last."""
        arguments = item["arguments"] if kind == "function_call" else arguments_of(item["input"])
        name = self.tools.chat_name(item["name"], item.get("namespace"))
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": None})
        calls = self.messages[-1].setdefault("tool_calls", [])
        function = {"name": name, "arguments": arguments}
        calls.append({"id": item["call_id"], "type": "function", "function": function})

    def _output(self, item: Mapping[str, Any]) -> None:
        output = item.get("output")
        parts = self._parts(output) if isinstance(output, list) else []
        texts = [part for part in parts if part.get("type") == "text"]
        self._images += [part for part in parts if part.get("type") != "text"]
        content = _plain(texts) if isinstance(output, list) else output or ""
        message = {"role": "tool", "tool_call_id": item["call_id"], "content": content}
        self.messages.append(message)

    def _parts(self, content: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        parts = []
        for part in content:
            if (chat_part := _part(part)) is not None:
                parts.append(chat_part)
            else:
                self.lost[f"{_lost_part(part)} parts"] = None
        return parts


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") in TEXTS and isinstance(part.get("text"), str)


def _plain(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The parts of a message; a single text as such, which every endpoint reads."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts


def _part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """A part as chat writes it; None if chat cannot."""
    kind = part.get("type")
    if _is_text(part):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image" and isinstance(url := part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": url, **detail}}
    if kind == "input_file" and not part.get("file_url"):
        names = ("file_id", "file_data", "filename")
        return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    return dict(part) if kind in ("image_url", "file") else None


def _lost_part(part: Mapping[str, Any]) -> str:
    kind = str(part.get("type", "?"))[:60]
    names = [name for name in ("file_id", "file_url") if part.get(name)]
    return " ".join([kind, *names[:1]])
