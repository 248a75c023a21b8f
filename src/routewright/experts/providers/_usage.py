"""Reads the token counts of an upstream's `usage` object, in the shapes of the common vendors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

MOST_TOKENS = 10**8  # of one answer; a larger number is not a count

# Where vendors report input tokens that were read from a cache: OpenAI (chat and Responses),
# DeepSeek, Moonshot, and Anthropic, also behind proxies that speak OpenAI's API.
CACHED = (
    ("prompt_tokens_details", "cached_tokens"),
    ("input_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),
    ("cached_tokens",),
    ("cache_read_input_tokens",),
)
# Input tokens that were written to a cache: Anthropic, LiteLLM and OpenRouter.
WRITTEN = (
    ("cache_creation_input_tokens",),
    ("prompt_tokens_details", "cache_creation_tokens"),
    ("prompt_tokens_details", "cache_write_tokens"),
)
ANTHROPIC = (("cache_read_input_tokens",), ("cache_creation_input_tokens",))
REASONING = ("completion_tokens_details", "reasoning_tokens")


@dataclass(frozen=True)
class Counts:
    """The tokens of one answer. None means that the upstream reports none that can be true."""

    sent: int | None = None  # the whole input, caches included
    received: int | None = None  # the whole output, reasoning included
    cached: int = 0  # input tokens read from a cache
    written: int = 0  # input tokens written to a cache
    doubtful: bool = False  # whether the counts of the cache cannot be true and are ignored


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a number of tokens: a whole number, not negative, not absurd."""
    return type(value) is int and 0 <= value <= MOST_TOKENS


def counts(usage: object) -> Counts:
    """The counts of a usage object.

    In OpenAI's shape (`prompt_tokens`) the counts of the cache are part of the input. In
    Anthropic's (`input_tokens`) they come in addition. A proxy that translates Anthropic's may
    send either under `prompt_tokens`: they come in addition if they exceed it, or if only then
    `total_tokens` is the sum. xAI's reasoning comes in addition to the output; its total tells.
    """
    if not isinstance(usage, Mapping):
        return Counts()
    sent = _first(usage, ("prompt_tokens",), ("input_tokens",))
    received = _first(usage, ("completion_tokens",), ("output_tokens",))
    cached, written = _first(usage, *CACHED) or 0, _first(usage, *WRITTEN) or 0
    total = _first(usage, ("total_tokens",))
    numbers = [_at(usage, path) for path in (*CACHED, *WRITTEN)]
    if sent is None or any(number is not None and not is_count(number) for number in numbers):
        return Counts(sent, received, doubtful=True)
    beside = sum(_first(usage, path) or 0 for path in ANTHROPIC)
    is_anthropic = usage.get("prompt_tokens") is None and "input_tokens_details" not in usage
    if is_anthropic or beside > sent or (beside and total == sent + (received or 0) + beside):
        sent += beside
    reasoning = _first(usage, REASONING) or 0
    if received is not None and total == sent + received + reasoning:
        received += reasoning
    if cached + written > sent:
        return Counts(sent, received, doubtful=True)
    return Counts(sent, received, cached, written)


def merged(usage: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of a stream that reports it several times, in parts or as sums so far.

    A count never shrinks, and neither null nor something else replaces one.
    """
    result = dict(usage)
    for key, value in more.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = merged(old, value)
        elif is_count(old):
            result[key] = max(old, value) if is_count(value) else old
        elif value is not None or key not in result:
            result[key] = value
    return result


def _first(usage: Mapping[str, Any], *paths: tuple[str, ...]) -> int | None:
    """The first count among these places."""
    values = (_at(usage, path) for path in paths)
    return next((value for value in values if is_count(value)), None)


def _at(usage: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = usage
    for key in path:
        value = value.get(key) if isinstance(value, (dict, Mapping)) else None
    return value
