"""Reads a request and checks its fields. Everything but `read` is pure."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import Request

from routewright import files
from routewright.gateway.errors import BadRequest
from routewright.types import DataClass, Query

# Keys that the gateway reads and does not send upstream; of `metadata` it sends what is no limit.
OWN_KEYS = {"model", "messages", "stream", "stream_options", "metadata", "routewright", "n"}
LIMIT_FIELDS = ("routewright", "metadata")
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
PARTS = {"image_url": "vision", "input_audio": "audio", "file": "files"}  # type ▶ capability

INLINE = 100_000  # bytes; a larger body is read outside the event loop
MAX_VALUES = 100_000  # objects, lists, texts and numbers of a request
MAX_DEPTH = 100  # levels of objects and lists
MAX_KEYS = 10_000  # of one object
MAX_MESSAGES = 10_000
MAX_FIELDS = 1000  # of the body itself
MAX_METADATA = 100  # keys; OpenAI accepts 16
MAX_TAGS = 100
MAX_NAME = 256  # characters of a model's name, and of a tag, a domain or a region
MAX_TOKENS = 10_000_000  # that a request may ask for
MAX_DIGITS = 40  # of a whole number

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


def number(value: object) -> object:
    """Refuses true and false, which Pydantic would read as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


NUMBER = BeforeValidator(number)  # stands after `Field`, whose limits then reach /openapi.json
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NUMBER]
Name = Annotated[str, Field(max_length=MAX_NAME)]


class Open(BaseModel):
    """An object that may have more fields than its model names."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Metadata(Open):
    """The client's own fields; those that are named like limits are limits, also as strings."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"maxProperties": MAX_METADATA})


class Limits(BaseModel):
    """The limits that a client can set, in `routewright` or, as strings, in `metadata`."""

    model_config = ConfigDict(extra="forbid")

    # US$ for all asks of this request
    max_cost: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), NUMBER] | None = None
    min_quality: Share | None = None
    # At most a day
    max_latency_ms: (
        Annotated[float, Field(gt=0, le=86_400_000, allow_inf_nan=False), NUMBER] | None
    ) = None
    data_class: DataClass | None = None
    region: Annotated[Name, Field(min_length=1)] | None = None
    # Quality per US$ and per second
    price: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False), NUMBER] | None = Field(
        default=None, alias="lambda"
    )
    latency_price: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False), NUMBER] | None = None
    domain: Name | None = None
    tags: Annotated[tuple[Name, ...], Field(max_length=MAX_TAGS)] = ()


NO_LIMITS = Limits()
LIMITS = tuple(field.alias or name for name, field in Limits.model_fields.items())


@dataclass(frozen=True)
class ChatRequest:
    """A validated chat completion request."""

    query: Query
    model: str | None = None
    stream: bool = False
    include_usage: bool = False
    has_data_class: bool = False  # whether the client stated it
    built_in: tuple[str, ...] = ()  # types of tools that only some providers have, as web_search


async def read(request: Request, max_bytes: int, parse: Callable[[Any], T]) -> T:
    """Returns what `parse` makes of the JSON body; raises BadRequest (413, 408 or 400).

    A body of more than INLINE bytes is read and parsed in a thread, so that other requests go on.
    """
    raw = bytearray()
    too_large = BadRequest(
        f"the request is larger than server.max_body_bytes ({max_bytes})",
        status=413,
        code="request_too_large",
    )
    if _declared_length(request) > max_bytes:
        raise too_large
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > max_bytes:
            raise too_large
    if len(raw) <= INLINE:
        return parse(loads(bytes(raw)))
    return await asyncio.to_thread(lambda: parse(loads(bytes(raw))))


def _declared_length(request: Request) -> int:
    """The Content-Length; 0 if it is not a number, because the bytes are counted as well."""
    length = request.headers.get("content-length", "")
    return int(length[:20]) if length.isascii() and length.isdigit() else 0


# --- JSON ----------------------------------------------------------------------------------


def loads(raw: bytes) -> Any:
    """Parses a JSON body in UTF-8, with or without a byte-order mark; raises BadRequest.

    It refuses what readers of JSON understand differently: a key that an object has twice, numbers
    that Python or other languages cannot hold, and half surrogate pairs.
    """
    if _separators(raw) > MAX_VALUES and _separators_outside_texts(raw) > MAX_VALUES:
        message = f"the body holds more than {MAX_VALUES:,} values: send fewer"
        raise BadRequest(message, code="bad_json")
    try:
        body = json.loads(
            raw.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=files.not_json,
            parse_float=files.finite,  # Python would send 1e999 on as Infinity
            parse_int=_int,
        )
        if b"\\u" in raw and (b"\\ud" in raw or b"\\uD" in raw):
            json.dumps(body, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except RecursionError:
        raise _too_deep(None) from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not JSON in UTF-8: {error}", code="bad_json") from error
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}", code="bad_json") from error
    if isinstance(body, dict) and len(body) <= MAX_KEYS:
        for name, value in body.items():
            _check_shape(name[:60], value)
    else:
        _check_shape(None, body)
    return body


def _separators(raw: bytes) -> int:
    """The commas and opening brackets of a JSON text; every value follows one."""
    return sum(raw.count(sign) for sign in (b",", b"[", b"{"))


def _separators_outside_texts(raw: bytes) -> int:
    """Every step is short, because the parser of so many values would hold the interpreter for
    long."""
    plain = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 4 * MAX_VALUES:  # a value of an object has the quotes of two texts
        return MAX_VALUES + 1
    return sum(map(_separators, plain.split(b'"')[::2]))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has the key '{key[:60]}' twice")
    return fields


def _int(literal: str) -> int:
    if len(literal) > MAX_DIGITS:
        raise ValueError(f"the number {literal[:20]}… has {len(literal)} digits")
    return int(literal)


def _check_shape(field: str | None, value: Any) -> None:
    """Raises BadRequest if a field (None: the body) is nested too deeply or has an object with too
    many keys; takes no stack of its own."""
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = [item for item in level if isinstance(item, dict | list)]
        if any(isinstance(part, dict) and len(part) > MAX_KEYS for part in parts):
            message = f"{field or 'the body'} has an object with more than {MAX_KEYS:,} keys"
            raise BadRequest(message, field, code="bad_json")
        level = [
            item for part in parts for item in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return
    raise _too_deep(field)


def _too_deep(field: str | None) -> BadRequest:
    message = f"{field or 'the body'} is nested more than {MAX_DEPTH} levels deep: flatten it"
    return BadRequest(message, field, code="bad_json")


# --- requests ------------------------------------------------------------------------------


def parse(body: Any, default_data_class: DataClass) -> ChatRequest:
    """Validates a JSON body; raises BadRequest, which names the field and its value."""
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    body = unpacked(body)
    messages = _messages(body.get("messages"))
    _check_types(body)
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
        options={
            **{k: v for k, v in body.items() if k not in OWN_KEYS and v is not None},
            **own_metadata(body.get("metadata") or {}),
        },
    )
    return ChatRequest(
        query,
        model=body.get("model"),
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        has_data_class=limits.data_class is not None,
    )


def unpacked(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with its `extra_body` unpacked, as OpenAI's own client does before it sends one.

    Raises BadRequest for a limit at the top level, where it would have no effect, however it is
    spelt: without its limit a text might travel further than it may.
    """
    extra = {} if body.get("extra_body") is None else body["extra_body"]
    if not isinstance(extra, dict):
        raise BadRequest(f"extra_body must be an object, not {excerpt(extra)}", "extra_body")
    for key in extra:
        if key in body and extra[key] != body[key]:
            key = key[:60]
            raise BadRequest(f"{key} and extra_body.{key} differ: send one", key)
    fields = {**{key: value for key, value in body.items() if key != "extra_body"}, **extra}
    for limit in LIMITS:
        if limit in fields and limit not in ("domain", "tags"):
            hint = f'write {{"routewright": {{"{limit}": …}}}}, or metadata.{limit}'
            raise BadRequest(f"{limit} is a limit, not a field of the body: {hint}", limit)
    if len(fields) > MAX_FIELDS:  # every one is compared with every limit
        raise BadRequest(f"the body has {len(fields)} fields: send at most {MAX_FIELDS:,}")
    for key in fields.keys() - {*LIMIT_FIELDS, "domain", "tags"}:
        if (name := _meant(key[:MAX_NAME], (*LIMITS, *LIMIT_FIELDS))) not in (
            None,
            "domain",
            "tags",
        ):
            raise BadRequest(f"{key[:60]} is unknown: did you mean '{name}'?", key[:60])
    names = (*TOKEN_LIMITS, "max_output_tokens")  # the last one in Responses
    caps = {name: fields[name] for name in names if isinstance(fields.get(name), float)}
    whole = {name: int(cap) for name, cap in caps.items() if cap.is_integer()}
    return {**fields, **whole}  # in JSON 5.0 is the integer 5


# --- fields --------------------------------------------------------------------------------


def _messages(messages: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message", "messages")
    if len(messages) > MAX_MESSAGES:
        message = f"there are {len(messages):,} messages: send at most {MAX_MESSAGES:,}"
        raise BadRequest(message, "messages")
    for index, message in enumerate(messages):
        field = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest(f"{field} must be an object with a role", field)
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if not isinstance(content, str | list | None) or not all(
            isinstance(part, dict) and isinstance(part.get("type", ""), str) for part in parts
        ):
            raise BadRequest(f"{field}.content must be a text or a list of parts", field)
    return tuple(messages)


def _check_types(body: Mapping[str, Any]) -> None:
    """Checks the fields that the gateway reads itself; the expert judges the others."""
    types: dict[str, tuple[type, str]] = {
        "model": (str, "a text"),
        "stream": (bool, "true or false"),
        "stream_options": (dict, "an object"),
        "response_format": (dict, "an object"),
        "tools": (list, "a list"),
        "functions": (list, "a list"),
    }
    for field, (kind, description) in types.items():
        if body.get(field) is not None and not isinstance(body[field], kind):
            raise BadRequest(f"{field} must be {description}, not {excerpt(body[field])}", field)
    if len(model := body.get("model") or "") > MAX_NAME:
        raise BadRequest(f"model has more than {MAX_NAME} characters: {model[:60]}…", "model")
    for field in TOKEN_LIMITS:
        value = body.get(field)
        if value is not None and (type(value) is not int or not 1 <= value <= MAX_TOKENS):
            message = f"{field} must be from 1 to {MAX_TOKENS:,}, not {excerpt(value)}"
            raise BadRequest(message, field)
    if body.get("n") not in (None, 1) or body.get("n") is True:
        raise BadRequest(f"n must be 1, not {excerpt(body['n'])}: one answer per request", "n")


def _needs(body: Mapping[str, Any]) -> frozenset[str]:
    """The capabilities that an expert needs to read or answer this request."""
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
    """Merges the limits from both places; raises BadRequest if they differ."""
    own, metadata = ({} if body.get(name) is None else body[name] for name in LIMIT_FIELDS)
    for field, value in zip(LIMIT_FIELDS, (own, metadata), strict=True):
        if not isinstance(value, dict):
            raise BadRequest(f"{field} must be an object, not {excerpt(value)}", field)
    from_metadata = _metadata_limits(metadata)
    if not own and not from_metadata:
        return NO_LIMITS
    own_limits, limits = _validated(own, "routewright"), _validated(from_metadata, "metadata")
    for name in own_limits.model_fields_set & limits.model_fields_set:
        if getattr(own_limits, name) != getattr(limits, name):
            raise BadRequest(f"routewright.{name} and metadata.{name} differ: send one", name)
    update = {name: getattr(own_limits, name) for name in own_limits.model_fields_set}
    return limits.model_copy(update=update)


def _metadata_limits(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The limits among a client's metadata; raises BadRequest for a misspelt one."""
    if len(metadata) > MAX_METADATA:  # every key is compared with every limit
        message = f"metadata has {len(metadata)} keys: send at most {MAX_METADATA}"
        raise BadRequest(message, "metadata")
    for key in metadata.keys() - LIMITS:
        name = _meant(key[:MAX_NAME], (*LIMITS, "routewright"))
        if name == "routewright":
            message = f"metadata.{key[:60]} is not read: write its limits into metadata itself"
            raise BadRequest(message, "metadata")
        if name is not None:
            raise BadRequest(f"metadata.{key[:60]} is unknown: did you mean '{name}'?", "metadata")
    limits = {key: metadata[key] for key in LIMITS if key in metadata}
    if isinstance(limits.get("tags"), str):
        limits["tags"] = [tag.strip() for tag in limits["tags"].split(",")]
    return limits


@lru_cache(1024)
def _meant(key: str, names: tuple[str, ...]) -> str | None:
    """The name that a key seems to mean, although it is spelt otherwise.

    >>> _meant("dataClass", LIMITS), _meant("Route-Wright", LIMIT_FIELDS), _meant("user", LIMITS)
    ('data_class', 'routewright', None)
    """
    squeezed = {name.replace("_", ""): name for name in names}
    spelt = key.lower().replace("-", "").replace("_", "")
    matches = get_close_matches(spelt, squeezed, n=1, cutoff=0.85)
    return squeezed[matches[0]] if matches else None


def own_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The field `metadata` without the limits; nothing if it holds nothing else."""
    rest = {key: value for key, value in metadata.items() if key not in LIMITS}
    return {"metadata": rest} if rest else {}


def validated(model: type[M]) -> Callable[[Any], M]:
    """A parser for `read` that makes a model of a body; it raises BadRequest."""

    def parse(body: Any) -> M:
        try:
            return model.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))[:100] or "body"
            message = f"{field} ({excerpt(first['input'])}): {first['msg']}"
            raise BadRequest(message, field) from error

    return parse


def _validated(values: Mapping[str, Any], source: str) -> Limits:
    try:
        return Limits.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join([source, *map(str, first["loc"])])[:100]
        value, reason = excerpt(first["input"]), first["msg"]
        if first["type"] == "extra_forbidden":
            reason = f"unknown; the limits are {', '.join(LIMITS)}"
        raise BadRequest(f"{field} ({value}): {reason}", field) from error


def excerpt(value: Any) -> str:
    """A value as JSON, at most 60 characters of it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"
