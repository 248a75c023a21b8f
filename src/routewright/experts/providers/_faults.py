"""Reads the error bodies of upstreams, which have many shapes. Nothing here does I/O."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

from routewright.errors import UpstreamError, UpstreamRefused

TRANSIENT = {408, 409, 429}  # statuses that are retried, as is every 5xx
KEYS_REFUSED = {401, 403}
TOO_LONG = "context_length_exceeded"  # OpenAI's code, by which agents shorten their conversation
LARGEST_JSON = 1 << 20  # bytes of an error body that is read as JSON
LARGEST_TEXT = 1 << 14  # bytes of one that is read as text
LONGEST_PAGE = 300  # characters of a web page's text
DEEPEST, MOST = 8, 5  # levels that are read, and members of a list
OWN = ("message", "msg", "error_message", "error_description", "errorMessage", "Message", "detail")
OWN_LAST = ("error", "title", "reason", "description", "statusText", "status")
NESTED = ("error", "errors", "detail", "message", "metadata", "raw")
CODES = ("code", "error_code", "errorCode", "ErrorCode")
KINDS = ("type", "error_type", "__type")
PARAMS = ("param", "parameter", "field")
STATUSES = {  # words in the codes and types of errors ▶ the HTTP status that they come with
    "rate_limit": 429,
    "too_many_requests": 429,
    "insufficient_quota": 429,
    "overloaded": 503,
    "unavailable": 503,
    "invalid_request": 400,
    "invalid_argument": 400,
    "invalid_prompt": 400,
    "content_filter": 400,
    "content_policy": 400,
    "bad_request": 400,
    "badrequest": 400,
    "authentication": 401,
    "invalid_api_key": 401,
    "permission": 403,
    "not_found": 404,
}
# How servers without the code of OpenAI say that a request is too long for the model. vLLM, SGLang,
# llama.cpp, Ollama, LM Studio, Anthropic, Gemini, Mistral, Cohere, TGI, Bedrock, xAI, Moonshot, …
TOO_LONG_WORDS = re.compile(
    r"maximum (?:context|model|prompt|input) length|model'?s? context length|max_model_len"
    r"|exceeds? (?:the |its |this )?(?:available |maximum |max |model'?s? )?(?:model'?s? )?"
    r"(?:maximum )?context|prompt(?: is)? too long|input(?: is)? too long|context the overflows"
    r"|context (?:window|length|size|limit) (?:is )?exceed|greater than the context length"
    r"|exceeds the maximum number of (?:input )?tokens|exceed(?:s|ed)? (?:the )?model token limit"
    r"|prompt exceeds max|too many (?:input )?tokens|tokens in the prompt cannot exceed"
    r"|prompt token count|max_new_tokens. must be <=|inputs. must have less than"
    r"|longer than the (?:model|maximum)|context_?window_?exceeded|exceed_context_size",
    re.IGNORECASE,
)
TAG = re.compile(
    r"<(?:!doctype|html|head|body|title|h\d|p|div|center|\?xml|error)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Fault:
    """What an upstream wrote about an error: its words, and the fields of OpenAI's error object.

    `status` is an HTTP status that stands in the body; `kind` is OpenAI's `type`.
    """

    words: str = ""
    code: str | None = None
    param: str | None = None
    kind: str | None = None
    status: int | None = None

    @property
    def is_too_long(self) -> bool:
        """Whether the request does not fit into the model's context window."""
        texts = (self.code or "", self.kind or "", self.words)
        return any(TOO_LONG in text or TOO_LONG_WORDS.search(text) for text in texts)


def read(raw: bytes) -> Fault:
    """The fault in an error body: JSON, an event, a web page, or plain text."""
    if len(raw) <= LARGEST_JSON and (value := _json(raw)) is not None:
        return of(value)
    text = raw[:LARGEST_TEXT].decode(errors="ignore").strip()
    if "\0" in text:
        return Fault()
    for line in text.splitlines():
        if line.startswith("data:") and isinstance(value := _json(line[5:]), Mapping):
            return of(value)
    return Fault(_plain(text))


def of(value: object, depth: int = DEEPEST) -> Fault:
    """The fault in parsed JSON, or in a part of it.

    >>> of([{"error": {"code": 400, "message": "no such tool", "status": "INVALID_ARGUMENT"}}])
    Fault(words='no such tool', code='INVALID_ARGUMENT', param=None, kind=None, status=400)
    >>> of({"detail": [{"loc": ["body", "top_k"], "msg": "must be an integer", "type": "int"}]})
    Fault(words='top_k: must be an integer', code='int', param='top_k', kind=None, status=None)
    """
    if depth == 0:
        return Fault()
    if isinstance(value, str):
        inner = _json(value) if value.lstrip()[:1] in ("{", "[") else None
        return Fault(_plain(value)) if inner is None else of(inner, depth - 1)
    if isinstance(value, list):
        faults = [of(item, depth - 1) for item in value[:MOST]]
        words = "; ".join(dict.fromkeys(fault.words for fault in faults if fault.words))
        return replace(faults[0], words=words) if faults else Fault()
    return _of_mapping(value, depth) if isinstance(value, Mapping) else Fault()


def failure(expert: str, fault: Fault, status: int | None = None, **more: Any) -> UpstreamError:
    """The error for a fault. `status` is the HTTP status; None if an answer held the fault.

    A request that is too long for the model is refused whatever the status: a retry is useless.
    """
    prefix = f"HTTP {status}" if status else ""
    status = status or fault.status or _status_of_words(fault)
    reason = ": ".join(part for part in (prefix, fault.words) if part) or "it reported an error"
    fields = {"code": fault.code, "param": fault.param, "kind": fault.kind, **more}
    refuses_key = status in KEYS_REFUSED or status == 429
    if fault.is_too_long and not refuses_key:
        if fault.code is None or "max_length" not in fault.code:
            fields["code"] = TOO_LONG
        return UpstreamRefused(expert, reason, status=status or 400, sent=False, **fields)
    if status is not None and 400 <= status < 500 and status not in TRANSIENT:
        return UpstreamRefused(expert, reason, status=status, sent=False, **fields)
    if prefix and status is not None and status < 400:  # a redirect, which is never followed
        return UpstreamRefused(expert, reason, status=status, sent=False, **fields)
    return UpstreamError(expert, reason, status=status, sent=False, transient=True, **fields)


def _of_mapping(value: Mapping[str, Any], depth: int) -> Fault:
    inner = Fault()
    for key in NESTED:
        part = value.get(key)
        if isinstance(part, Mapping | list) or (isinstance(part, str) and part[:1] in "{["):
            inner = of(part, depth - 1)
            if inner.words:
                break
    own = next((words for key in OWN if (words := _words(value.get(key)))), "")
    if not own and not inner.words:
        own = next((words for key in OWN_LAST if (words := _words(value.get(key)))), "")
    place = _place(value.get("loc"))
    if place and own:
        code, kind, own = _text(value.get("type")), None, f"{place}: {own}"
    else:
        code, kind = _code(value), next((k for key in KINDS if (k := _kind(value.get(key)))), None)
    param = place or next((text for key in PARAMS if (text := _text(value.get(key)))), None)
    both = f"{own}: {inner.words}" if inner.words else own
    return Fault(
        inner.words if own in inner.words else both,
        inner.code or code,
        inner.param or param,
        inner.kind or kind,
        inner.status or _status(value),
    )


def _words(value: object) -> str:
    """The words of a text, unless it is JSON itself, which is read as such."""
    is_json = isinstance(value, str) and value[:1] in ("{", "[") and _json(value) is not None
    return _plain(value) if isinstance(value, str) and not is_json else ""


def _text(value: object) -> str | None:
    return value.strip()[:200] or None if isinstance(value, str) else None


def _kind(value: object) -> str | None:
    """A `type`, unless it says nothing (Anthropic's "error") or is an address (RFC 9457)."""
    text = _text(value)
    return None if text is None or text == "error" or ":" in text else text


def _code(value: Mapping[str, Any]) -> str | None:
    """The code of an error. A number that is an HTTP status is none; Google adds `status` to it."""
    for key in CODES:
        code = value.get(key)
        if isinstance(code, int) and not isinstance(code, bool):
            code = str(code)[:20]
        if text := _text(code):
            return _text(value.get("status")) if _http_status(text) else text
    return None


def _status(value: Mapping[str, Any]) -> int | None:
    keys = (*CODES, "status", "statusCode", "status_code")
    statuses = (_http_status(str(value.get(key))[:20]) for key in keys)
    return next((status for status in statuses if status), None)


def _status_of_words(fault: Fault) -> int | None:
    for text in (fault.code, fault.kind):
        for words, status in STATUSES.items():
            if words in (text or "").lower():
                return status
    return None


def _http_status(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[45]\d\d", text, re.ASCII) else None


def _place(loc: object) -> str | None:
    """The field that a validator names, as in ["body", "top_k"]."""
    if not isinstance(loc, list) or not loc:
        return None
    steps = [str(step)[:60] for step in loc[:12]]
    return ".".join(steps[1:] if steps[0] == "body" and len(steps) > 1 else steps)


def _json(text: bytes | str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _plain(text: str) -> str:
    """A text on one line; of a web page, its visible words."""
    text = text[:LARGEST_TEXT]
    if TAG.search(text[:500]):
        page = _Page()
        page.feed(text)
        return " ".join(dict.fromkeys(page.pieces))[:LONGEST_PAGE].strip()
    return " ".join(html.unescape(text).split()) if "&" in text else " ".join(text.split())


class _Page(HTMLParser):
    """Collects the visible texts of a web page."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = 0  # depth of elements whose text is not shown

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden and (piece := " ".join(data.split())):
            self.pieces.append(piece)
