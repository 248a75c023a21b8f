"""The tools of a Responses request as chat tools, and their calls as the client knows them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from routewright.gateway.errors import BadRequest

LONGEST_NAME = 64  # characters of a chat function's name
INPUT = "input"  # the one parameter of a custom tool
UNCARRIED = ("defer_loading", "allowed_callers", "output_schema", "async")  # fields of tools


@dataclass(frozen=True)
class Origin:
    """What a chat function is in the request: its name there, and what kind of tool."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True)
class Tools:
    """The tools that chat can carry, what it cannot, and where each function came from."""

    functions: tuple[dict[str, Any], ...] = ()
    built_in: tuple[str, ...] = ()  # the types of the others, as web_search
    origins: Mapping[str, Origin] = field(default_factory=dict)  # by name of the function
    lost: tuple[str, ...] = ()

    def origin(self, name: str) -> Origin:
        return self.origins.get(name) or Origin(name)

    def chat_name(self, name: str, namespace: object = None) -> str:
        """The name that a tool of the request has in chat; a namespace that is no text is none."""
        return _joined(namespace, name) if isinstance(namespace, str) else name


def read(tools: Any) -> Tools:
    """The tools of a request; raises BadRequest, which names the one that cannot be read."""
    if tools is None:
        return Tools()
    if not isinstance(tools, list):
        raise BadRequest("tools must be a list", "tools")
    functions: list[dict[str, Any]] = []
    built_in: dict[str, None] = {}
    lost: dict[str, None] = {}
    origins: dict[str, Origin] = {}
    for field_name, tool, namespace in _flat(tools):
        kind = tool["type"]
        if kind not in ("function", "custom"):
            built_in[kind[:LONGEST_NAME]] = None
            continue
        name = tool.get("name")
        if not isinstance(name, str) or not name:
            raise BadRequest(f"{field_name}.name must be a text", f"{field_name}.name")
        chat_name = name if namespace is None else _joined(namespace, name)
        origins[chat_name] = Origin(name, namespace, kind == "custom")
        functions.append(
            _custom(tool, chat_name) if kind == "custom" else _function(tool, chat_name)
        )
        lost |= {f"tools.{key}": None for key in UNCARRIED if tool.get(key)}
    lost = {f"built-in tool {kind}": None for kind in built_in} | lost
    return Tools(tuple(functions), tuple(built_in), origins, tuple(lost))


def choice(value: Any, tools: Tools) -> tuple[Any, str | None]:
    """A `tool_choice` in chat's words, and the name of what that cannot carry."""
    if value is None or isinstance(value, str):
        return value, None
    if not isinstance(value, dict) or not isinstance(kind := value.get("type"), str):
        raise BadRequest("tool_choice must be a text or an object with a type", "tool_choice")
    if kind in ("function", "custom") and isinstance(name := value.get("name"), str):
        return _named(tools.chat_name(name, value.get("namespace"))), None
    if kind == "allowed_tools" and isinstance(allowed := value.get("tools"), list):
        named = [choice(tool, tools)[0] for tool in allowed if isinstance(tool, dict)]
        kept = [tool for tool in named if tool is not None]
        mode = {"mode": value.get("mode", "auto"), "tools": kept}
        return ({"type": kind, "allowed_tools": mode} if kept else None), None
    return None, f"tool_choice {kind[:LONGEST_NAME]}"


def arguments_of(text: str) -> str:
    """The input of a custom tool as the arguments of its function."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """The input of a custom tool, from the arguments that a model wrote for its function.

    >>> input_of('{"input": "*** Begin Patch"}'), input_of("*** Begin Patch")
    ('*** Begin Patch', '*** Begin Patch')
    """
    try:
        value = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return arguments
    text = value.get(INPUT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


def _flat(
    tools: Sequence[Any], namespace: str | None = None, prefix: str = "tools"
) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """Every tool with its field and its namespace."""
    for place, tool in enumerate(tools):
        name = f"{prefix}[{place}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise BadRequest(f"{name} must be an object with a type", name)
        if tool["type"] == "namespace" and namespace is None:
            inner, outer = tool.get("tools"), tool.get("name")
            if not isinstance(inner, list) or not isinstance(outer, str):
                raise BadRequest(f"{name} must have a name and a list of tools", name)
            yield from _flat(inner, outer, f"{name}.tools")
        else:
            yield name, tool, namespace


def _function(tool: Mapping[str, Any], name: str) -> dict[str, Any]:
    if isinstance(tool.get("function"), dict) and "parameters" not in tool:
        tool = {**tool["function"], "type": "function"}  # some clients write chat's shape
    left_out = ("type", "name", *UNCARRIED)
    rest = {key: value for key, value in tool.items() if key not in left_out and value is not None}
    return {"type": "function", "function": {"name": name, **rest}}


def _custom(tool: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A custom tool as a function with one text; a grammar becomes the text's description."""
    form = tool.get("format")
    grammar = form.get("definition") if isinstance(form, dict) else None
    text = {"type": "string", **({"description": grammar} if isinstance(grammar, str) else {})}
    parameters = {"type": "object", "properties": {INPUT: text}, "required": [INPUT]}
    description = tool.get("description")
    described = {"description": description} if isinstance(description, str) else {}
    return {"type": "function", "function": {"name": name, **described, "parameters": parameters}}


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _joined(namespace: str, name: str) -> str:
    """The name of a tool with its namespace, as short as a function's name must be."""
    joined = f"{namespace}{'' if namespace.endswith('_') else '__'}{name}"
    if len(joined) <= LONGEST_NAME:
        return joined
    digest = hashlib.blake2b(joined.encode("utf-8", "replace"), digest_size=4).hexdigest()
    return f"{joined[: LONGEST_NAME - 9]}_{digest}"
