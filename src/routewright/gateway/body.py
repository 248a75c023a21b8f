"""What a request asks for, checked field by field; pure once the body is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request

from routewright.gateway.errors import BadRequest
from routewright.types import DataClass, Query

# Keys that are ours and do not travel upstream.
OURS = {"model", "messages", "stream", "stream_options", "metadata", "routewright", "n"}
MOST_METADATA = 100  # keys; OpenAI takes 16
PARTS = {"image_url": "vision", "input_audio": "audio", "file": "files"}  # part ▶ capability


def number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Number = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Money = Annotated[Number, Field(gt=0)]


class Limits(BaseModel):
    """What a client may ask of the decision, in `routewright` or, as strings, in `metadata`."""

    model_config = ConfigDict(extra="forbid")

    max_cost: Money | None = None  # US$ for everything this request takes
    min_quality: Annotated[Number, Field(ge=0, le=1)] | None = None
    max_latency_ms: Annotated[Number, Field(gt=0)] | None = None
    data_class: DataClass | None = None
    region: Annotated[str, Field(min_length=1)] | None = None
    price: Annotated[Number, Field(ge=0)] | None = Field(default=None, alias="lambda")
    latency_price: Annotated[Number, Field(ge=0)] | None = None  # quality per second
    domain: str | None = None
    tags: tuple[str, ...] = ()


LIMITS = tuple(field.alias or name for name, field in Limits.model_fields.items())


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion request, validated."""

    query: Query
    model: str | None = None
    stream: bool = False
    include_usage: bool = False


async def read(request: Request, max_bytes: int) -> Any:
    """The JSON body; raises BadRequest (413, 415 or 400)."""
    kind = request.headers.get("content-type", "")
    if "origin" in request.headers and "json" not in kind.lower():
        # A browser sends such a request for any web page, without asking us whether it may.
        message = f"a web page must send application/json, not {kind[:60] or 'nothing'}"
        raise BadRequest(message, status=415, code="unsupported_media_type")
    raw = bytearray()
    too_large = BadRequest(
        f"the request is larger than server.max_body_bytes ({max_bytes})",
        status=413,
        code="request_too_large",
    )
    if int(request.headers.get("content-length") or 0) > max_bytes:
        raise too_large
    async for piece in request.stream():
        raw += piece
        if len(raw) > max_bytes:
            raise too_large
    try:
        body = json.loads(raw.decode("utf-8-sig"), parse_constant=_not_json, parse_float=_finite)
        if b"\\ud" in raw.lower():
            json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text
        return body
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}", code="bad_json") from error


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant[:40]} is no JSON number")


def _finite(written: str) -> float:
    """A number, unless it is one like 1e999, which the next JSON would call Infinity."""
    value = float(written)
    return value if math.isfinite(value) else _not_json(written)


def understand(body: Any, default_data_class: DataClass) -> ChatRequest:
    """A request from its JSON body; raises BadRequest naming the field and its value."""
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    body = _flat(body)
    messages = _messages(body.get("messages"))
    _shape(body)
    limits = _limits(body)
    query = Query(
        messages=messages,
        domain=limits.domain,
        tags=limits.tags,
        data_class=limits.data_class or default_data_class,
        needs=_needs(body),
        region=limits.region,
        max_cost=limits.max_cost,
        min_quality=limits.min_quality,
        max_latency=limits.max_latency_ms and limits.max_latency_ms / 1000,
        price=limits.price,
        latency_price=limits.latency_price,
        options={k: v for k, v in body.items() if k not in OURS and v is not None},
    )
    return ChatRequest(
        query,
        model=body.get("model"),
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def _flat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with its `extra_body` unpacked, as OpenAI's own client does before it sends one.

    A limit that stands where nobody would read it must not look as if it were kept.
    """
    extra = body.get("extra_body") or {}
    if not isinstance(extra, dict):
        raise BadRequest(f"extra_body must be an object, not {shown(extra)}", "extra_body")
    if twice := [key for key in extra if key in body and extra[key] != body[key]]:
        raise BadRequest(f"{twice[0]} and extra_body.{twice[0]} differ: send one", twice[0])
    flat = {**{key: value for key, value in body.items() if key != "extra_body"}, **extra}
    if astray := [limit for limit in LIMITS if limit in flat and limit not in ("domain", "tags")]:
        hint = f'write {{"routewright": {{"{astray[0]}": …}}}}, or metadata.{astray[0]}'
        raise BadRequest(f"{astray[0]} is a limit, and no field of its own: {hint}", astray[0])
    return flat


# --- shapes --------------------------------------------------------------------------------


def _messages(messages: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message", "messages")
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest(f"{where} must be an object with a role", where)
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if not isinstance(content, str | list | None) or not all(
            isinstance(part, dict) and isinstance(part.get("type", ""), str) for part in parts
        ):
            raise BadRequest(f"{where}.content must be a text or a list of parts", where)
    return tuple(messages)


def _shape(body: Mapping[str, Any]) -> None:
    """The fields that we read ourselves; the others are for the expert to judge."""
    kinds: dict[str, tuple[type, str]] = {
        "model": (str, "a text"),
        "stream": (bool, "true or false"),
        "stream_options": (dict, "an object"),
        "response_format": (dict, "an object"),
        "tools": (list, "a list"),
        "functions": (list, "a list"),
    }
    for field, (kind, words) in kinds.items():
        if body.get(field) is not None and not isinstance(body[field], kind):
            raise BadRequest(f"{field} must be {words}, not {shown(body[field])}", field)
    for field in ("max_tokens", "max_completion_tokens"):
        value = body.get(field)
        if value is not None and (type(value) is not int or value < 1):
            raise BadRequest(f"{field} must be at least 1, not {shown(value)}", field)
    if body.get("n") not in (None, 1):
        raise BadRequest(f"n must be 1, not {shown(body['n'])}: one answer per request", "n")


def _needs(body: Mapping[str, Any]) -> frozenset[str]:
    """The capabilities without which an expert could not read or answer this."""
    needs = set()
    if body.get("tools") or body.get("functions"):
        needs.add("tools")
    if str((body.get("response_format") or {}).get("type", "")).startswith("json"):
        needs.add("json")
    for message in body["messages"]:
        if message.get("role") == "tool" or message.get("tool_calls"):
            needs.add("tools")
        parts = message["content"] if isinstance(message.get("content"), list) else []
        needs.update(PARTS[part["type"]] for part in parts if part.get("type") in PARTS)
    return frozenset(needs)


# --- limits --------------------------------------------------------------------------------


def _limits(body: Mapping[str, Any]) -> Limits:
    """The limits from both places; raises BadRequest where they disagree."""
    own, metadata = body.get("routewright") or {}, body.get("metadata") or {}
    for field, value in (("routewright", own), ("metadata", metadata)):
        if not isinstance(value, dict):
            raise BadRequest(f"{field} must be an object, not {shown(value)}", field)
    from_metadata = _from_metadata(metadata)
    ours, theirs = _checked(own, "routewright"), _checked(from_metadata, "metadata")
    for name in ours.model_fields_set & theirs.model_fields_set:
        if getattr(ours, name) != getattr(theirs, name):
            raise BadRequest(f"routewright.{name} and metadata.{name} differ: send one", name)
    return theirs.model_copy(update={name: getattr(ours, name) for name in ours.model_fields_set})


def _from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys among the client's own; one that looks like a misspelt limit is refused."""
    if len(metadata) > MOST_METADATA:  # each is compared with every limit
        message = f"metadata has {len(metadata)} keys: send at most {MOST_METADATA}"
        raise BadRequest(message, "metadata")
    if "routewright" in metadata:
        message = "metadata.routewright is not read: write its limits into metadata itself"
        raise BadRequest(message, "metadata")
    for key in metadata:
        plain = key.lower().replace("-", "_")
        meant = get_close_matches(plain, LIMITS, n=1, cutoff=0.85)
        if key not in LIMITS and meant:
            raise BadRequest(f"metadata.{key} is unknown: did you mean '{meant[0]}'?", "metadata")
    ours = {key: metadata[key] for key in LIMITS if key in metadata}
    if isinstance(ours.get("tags"), str):
        ours["tags"] = [tag.strip() for tag in ours["tags"].split(",")]
    return ours


def _checked(values: Mapping[str, Any], where: str) -> Limits:
    try:
        return Limits.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"])
        value, why = shown(first["input"]), first["msg"]
        if first["type"] == "extra_forbidden":
            why = f"unknown; there are {', '.join(LIMITS)}"
        raise BadRequest(f"{where}.{field} ({value}): {why}", f"{where}.{field}") from error


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
