"""Reads tool calls in an answer, so that two answers that call the same tools count as equivalent.

Three notations are read: the `tool_calls` of a chat completion as JSON, the shorter
`[{"get_weather": "{\\"city\\": \\"Rome\\"}"}]`, and calls as Python writes them,
`[get_weather(city="Rome"), get_time(zone="CET")]`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable
from typing import Any

from routewright.answers.python import syntax_tree
from routewright.errors import BadInput
from routewright.files import parse_json

MAX_LENGTH = 20_000  # characters of a longer answer, which is read as prose
DEEPEST = 50  # brackets within brackets
NO_CALL = "no call"  # the form of an answer in prose
_START = re.compile(r"\s*+(?:\[\s*+)?(?:\{|[A-Za-z_][\w.]*+\()")
LANGUAGES = ("", "python", "json", "tool_code")  # of code fences

Form = tuple[Hashable, ...]


def key(text: str) -> Hashable | None:
    """The canonical form of the calls in an answer: names and arguments, in any order of both.

    Every answer without a call has the form NO_CALL. An answer that begins as a call and cannot be
    read (it is cut short, for example) is compared as it is written, without spaces.

    >>> key('[get_weather(city="Rome", days=2)]') == key(
    ...     '[{"name": "get.weather", "arguments": {"days": 2.0, "city": " rome"}}]'
    ... )
    True
    >>> key("I cannot do that with these tools.")
    'no call'
    """
    text = _unfenced(text)
    if not text:
        return None
    if len(text) > MAX_LENGTH or not _START.match(text):
        return NO_CALL
    calls = _read(text)
    if calls is None:
        return "".join(text.casefold().split())
    return tuple(sorted(calls, key=repr)) or NO_CALL


def is_call(text: str) -> bool:
    """Whether the whole answer is one or more calls."""
    text = _unfenced(text)
    return bool(len(text) <= MAX_LENGTH and _START.match(text) and _read(text))


def _unfenced(text: str) -> str:
    """The text without a code fence around all of it."""
    text = text.strip()
    if not text.startswith("```"):
        return text
    first, _, rest = text[3:].partition("\n")
    inside = rest if first.strip() in LANGUAGES else text[3:]
    return inside.removesuffix("```").strip()


def _read(text: str) -> list[Form] | None:
    """The calls of a text; None if it is in no notation."""
    if _depth(text) > DEEPEST:
        return None
    calls = _from_json(text)
    return _from_python(text) if calls is None else calls


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


# --- JSON ----------------------------------------------------------------------------------


def _from_json(text: str) -> list[Form] | None:
    try:
        value = parse_json(text.encode("utf-8", "replace"), "answer")
    except BadInput:
        return None
    calls = [_call_in_json(call) for call in (value if isinstance(value, list) else [value])]
    return None if None in calls else [call for call in calls if call is not None]


def _call_in_json(call: Any) -> Form | None:
    if not isinstance(call, dict):
        return None
    call = call.get("function", call)
    if not isinstance(call, dict):
        return None
    if isinstance(call.get("name"), str):
        name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
    elif len(call) == 1:
        name, arguments = next(iter(call.items()))
    else:
        return None
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments.encode("utf-8", "replace") or b"{}", "arguments")
        except BadInput:
            return None
    return _form(name, arguments) if isinstance(arguments, dict) else None


# --- Python --------------------------------------------------------------------------------


def _from_python(text: str) -> list[Form] | None:
    try:
        module = syntax_tree(text)
        statements = [line.value for line in module.body if isinstance(line, ast.Expr)]
        if len(statements) != len(module.body):
            return None
        parts = [
            call
            for value in statements
            for call in (value.elts if isinstance(value, ast.List | ast.Tuple) else [value])
        ]
        calls = [_call_in_python(call) for call in parts]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return None if None in calls else [call for call in calls if call is not None]


def _call_in_python(call: ast.expr) -> Form | None:
    """The form of a call with literal arguments. Raises ValueError for other arguments."""
    if not isinstance(call, ast.Call):
        return None
    arguments = {str(i): ast.literal_eval(value) for i, value in enumerate(call.args)}
    arguments |= {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    return _form(ast.unparse(call.func), arguments)


# --- both ----------------------------------------------------------------------------------


def _form(name: str, arguments: dict[str, Any]) -> Form:
    """Names with dots and underscores are equal: providers allow no dots in the names of tools."""
    pairs = sorted((str(word), _value(value)) for word, value in arguments.items())
    return name.strip().replace(".", "_"), tuple(pairs)


def _value(value: Any) -> str:
    """A value in one notation: 2 and 2.0 are equal, and so are texts but for case and spaces."""
    if isinstance(value, str):
        return repr(" ".join(value.casefold().split()))
    if isinstance(value, dict):
        pairs = sorted((str(name), _value(part)) for name, part in value.items())
        return f"{{{', '.join(f'{name}: {part}' for name, part in pairs)}}}"
    if isinstance(value, list | tuple | set):
        return f"[{', '.join(_value(part) for part in value)}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return repr(value)
