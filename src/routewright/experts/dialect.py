"""Writes a request in the fields that an expert's endpoint knows. Pure functions.

Endpoints that speak OpenAI chat completions disagree on five things: the name of the output
limit, the role `developer`, system messages after the first turn, `metadata`, and
`reasoning_effort`. The defaults follow the address and the model's name, the config overrides them,
and a refusal that names one of the five teaches the client better.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from routewright.errors import UpstreamRefused
from routewright.experts.spending import LIMITS, output_limit
from routewright.types import Expert

OLD_LIMIT, NEW_LIMIT = LIMITS
OPENAI_HOST = "api.openai.com"
# The models whose API knows only `max_completion_tokens`, and those that know `developer`.
REASONING_MODEL = re.compile(r"(?:o\d|gpt-[5-9])(?!\d)", re.IGNORECASE)
OPENAI_MODEL = re.compile(r"(?:o\d(?!\d)|gpt-\d|chatgpt-)", re.IGNORECASE)
UNKNOWN = re.compile(
    r"un(?:supported|recogni[sz]ed|known|expected)|not (?:supported|permitted|allowed|recogni[sz]ed"
    r"|a valid|known)|extra (?:inputs?|fields?)|extra_forbidden|does not (?:support|accept|know)"
    r"|only allowed|deprecated|instead|invalid (?:value|role)|must be one of|should be ",
    re.IGNORECASE,
)
EFFORT = re.compile(r"reasoning[_. ]?effort|output_config\.effort|thinking", re.IGNORECASE)
# How chat templates refuse a system message that is not the first one: Qwen, Mistral, Gemma, …
FIRST_ONLY = re.compile(
    r"system (?:message|role|prompt)s? (?:must|should|can only|is only|not supported)"
    r"|roles must alternate|(?:must|should) be at the (?:beginning|start)|unexpected role .?system",
    re.IGNORECASE,
)
SYSTEM = ("system", "developer")
TEACHING = {400, 404, 422}  # statuses of a refusal that may be about a field


@dataclass(frozen=True)
class Dialect:
    """What an endpoint knows. `settled` names the fields that the config decides."""

    limit_field: str = OLD_LIMIT
    developer_role: bool = False
    metadata: bool = True  # without `store`
    effort: bool = True  # `reasoning_effort`
    late_system: bool = True  # system messages after the first turn
    settled: frozenset[str] = frozenset()

    def translate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as the endpoint knows it. Of two output limits the smaller one holds.

        >>> body = {"messages": [{"role": "developer", "content": "Be brief."}], "max_tokens": 9}
        >>> Dialect("max_completion_tokens").translate(body)["messages"][0]["role"]
        'system'
        >>> Dialect("max_completion_tokens").translate(body)["max_completion_tokens"]
        9
        """
        translated = {key: value for key, value in body.items() if key not in LIMITS}
        if any(body.get(key) is not None for key in LIMITS):
            translated[self.limit_field] = output_limit(body)
        if not self.developer_role:
            translated["messages"] = [_as_system(message) for message in body["messages"]]
        if not self.late_system:
            translated["messages"] = _with_early_system(translated["messages"])
        if not self.metadata and not body.get("store"):
            translated.pop("metadata", None)
        if not self.effort:
            translated.pop("reasoning_effort", None)
        return translated

    def dropped(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        """What of a request the endpoint is not sent, although it may change the answer."""
        is_dropped = not self.effort and body.get("reasoning_effort") is not None
        return ("reasoning_effort",) if is_dropped else ()

    def taught(self, refusal: UpstreamRefused, body: Mapping[str, Any]) -> Dialect | None:
        """The dialect after a refusal of `body`; None if the refusal is about something else."""
        text = f"{refusal.code} {refusal.param} {refusal.reason}"
        if refusal.status not in TEACHING:
            return None
        is_late = _with_early_system(body["messages"]) != list(body["messages"])
        if self.late_system and is_late and FIRST_ONLY.search(text):
            return self._settle("late_system", False)
        if not UNKNOWN.search(text):
            return None
        if self._refuses_limit(text, refusal.param) and output_limit(body) < float("inf"):
            other = NEW_LIMIT if self.limit_field == OLD_LIMIT else OLD_LIMIT
            return self._settle("limit_field", other)
        roles = {message.get("role") for message in body["messages"]}
        if self.developer_role and "developer" in roles and re.search("developer|role", text):
            return self._settle("developer_role", False)
        unstored = body.get("metadata") and not body.get("store")
        if self.metadata and unstored and "metadata" in text:
            return self._settle("metadata", False)
        if self.effort and body.get("reasoning_effort") and EFFORT.search(text):
            return self._settle("effort", False)
        return None

    def _refuses_limit(self, text: str, param: str | None) -> bool:
        """Whether a refusal is about the name of the output limit, and not about its value.

        An endpoint that does not know `max_completion_tokens` may ignore it. So only one that
        names it gets it.
        """
        if self.limit_field == OLD_LIMIT:
            unknown = param == OLD_LIMIT and "unsupported_parameter" in text
            return unknown or (OLD_LIMIT in text and NEW_LIMIT in text and "instead" in text)
        return NEW_LIMIT in text

    def _settle(self, name: str, value: object) -> Dialect | None:
        """The dialect with one field changed, once; None if the config or a refusal decided it."""
        if name in self.settled:
            return None
        changes: dict[str, Any] = {name: value, "settled": self.settled | {name}}
        return replace(self, **changes)


def dialect_of(expert: Expert) -> Dialect:
    """The dialect of an expert, as far as the config and the model's name tell."""
    host = urlsplit(expert.base_url or f"https://{OPENAI_HOST}").hostname or ""
    at_openai = expert.provider == "openai" and host == OPENAI_HOST
    model = (expert.model or expert.name).rpartition("/")[2]
    limit_field = NEW_LIMIT if at_openai or REASONING_MODEL.match(model) else OLD_LIMIT
    defaults = Dialect(
        _limit_field_of(expert.options) or limit_field,
        developer_role=at_openai or bool(OPENAI_MODEL.match(model)),
    )
    decided: dict[str, Any] = {
        "limit_field": expert.max_tokens_field,
        "developer_role": expert.developer_role,
    }
    decided = {name: value for name, value in decided.items() if value is not None}
    return replace(defaults, **decided, settled=frozenset(decided))


def _limit_field_of(options: Mapping[str, Any]) -> str | None:
    """The name of the output limit that an expert's `options` choose; null takes a name away."""
    removed = {name for name in LIMITS if name in options and options[name] is None}
    if options.get(NEW_LIMIT) is not None or removed == {OLD_LIMIT}:
        return NEW_LIMIT
    return OLD_LIMIT if removed == {NEW_LIMIT} else None


def _as_system(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def _with_early_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages, with those of the system after the first turn as words of the user.

    >>> turns = [{"role": "user", "content": "hi"}, {"role": "system", "content": "No."}]
    >>> _with_early_system(turns)
    [{'role': 'user', 'content': 'hi\\n\\nNo.'}]
    """
    result: list[Mapping[str, Any]] = []
    for message in messages:
        is_late = any(other.get("role") not in SYSTEM for other in result)
        if not is_late or message.get("role") not in SYSTEM:
            result.append(message)
        elif result[-1].get("role") == "user":
            result[-1] = {**result[-1], "content": _joined(result[-1], message)}
        else:
            result.append({**message, "role": "user"})
    return result


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | list[Any]:
    """The contents of two messages as one."""
    contents = [message.get("content") or "" for message in (first, second)]
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents)
    parts = ([{"type": "text", "text": c}] if isinstance(c, str) else c for c in contents)
    return [part for own in parts for part in own]
