"""Writes failures as OpenAI error objects, which OpenAI clients know how to handle."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from routewright.errors import (
    BadConfig,
    BadInput,
    BadRouter,
    BadTable,
    DeadlineExceeded,
    LocalFailure,
    MissingExtra,
    NotAdmissible,
    RoutewrightError,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)
from routewright.experts.redaction import redact
from routewright.experts.resources import lack
from routewright.gateway.replies import event
from routewright.types import Expert

log = logging.getLogger(__name__)

OUT = "out_of_resources"  # the code of failures of this machine
CLIENT_FAULTS = {400, 413, 415, 422}  # an upstream's statuses for what the client must correct
OUR_KEY = {401, 403}  # an upstream's statuses for our key, about which the client can do nothing
PASSED_ON = {429: 429, 503: 503, 504: 504, 529: 503}  # of an upstream that is busy; others are 502
OWN_FILES = (BadTable, BadRouter, MissingExtra)  # faults of the gateway's own files
TOO_LONG = "context_length_exceeded"
ANTHROPIC_TOO_LONG = "prompt is too long"  # the words by which agents shorten their conversation
ANTHROPIC_TYPES = {  # by status
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
PREFIXES = {"/v1/messages": "messages", "/v1/responses": "responses"}


class BadRequest(BadInput):
    """A request that cannot be served; `param` names the field at fault."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code
        self.kind = "invalid_request_error" if status < 500 else "server_error"
        self.headers: dict[str, str] = {}


def error_object(
    message: str, kind: str, code: str | None = None, param: str | None = None, **more: Any
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


INTERNAL = error_object("the gateway failed; its log says why", "server_error", "internal")


def protocol_of(scope: Scope) -> str:
    """The protocol that a request speaks, by its address or by Anthropic's header."""
    path = scope.get("state", {}).get("path", scope["path"])
    names = (name for prefix, name in PREFIXES.items() if path.startswith(prefix))
    spoken = "messages" if "anthropic-version" in Headers(scope=scope) else "chat"
    return next(names, spoken)


def in_protocol(protocol: str, body: Mapping[str, Any], status: int) -> dict[str, Any]:
    """An OpenAI error object as the protocol writes it.

    Anthropic's has another `type`, by the status; what OpenAI's says beyond it is kept.
    """
    if protocol != "messages":
        return dict(body)
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    rest = {name: value for name, value in body["error"].items() if value is not None}
    if rest.get("code") == TOO_LONG and ANTHROPIC_TOO_LONG not in rest["message"]:
        rest["message"] = f"{ANTHROPIC_TOO_LONG}: {rest['message']}"
    return {"type": "error", "error": {**rest, "type": kind}}


def error_event(protocol: str, body: Mapping[str, Any], **more: Any) -> bytes:
    """The event that ends a stream with an OpenAI error object, as the protocol writes it."""
    if protocol == "messages":
        return event(in_protocol(protocol, body, 500), "error")
    if protocol == "responses":
        details = {name: body["error"].get(name) for name in ("code", "message", "param")}
        return event({"type": "error", "sequence_number": 0, **details, **more}, "error")
    return event(body)


def error_response(
    scope: Scope, body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The reply with an OpenAI error object, in the protocol that the request speaks."""
    return JSONResponse(in_protocol(protocol_of(scope), body, status), status, headers)


def status_of(error: RoutewrightError, *, direct: bool = False) -> int:
    """The HTTP status of a failure. `direct` means that the client named the expert itself."""
    if isinstance(error, BadRequest):
        return error.status
    if isinstance(error, OWN_FILES):
        return 500
    if isinstance(error, BadInput):
        return 400
    if isinstance(error, NotAdmissible):
        return 422
    if isinstance(error, DeadlineExceeded | UpstreamTimeout):
        return 504
    if isinstance(error, UpstreamError):
        return _upstream_status(error, direct)
    return 500


def _upstream_status(error: UpstreamError, direct: bool) -> int:
    status = error.status or 502
    if error.code == TOO_LONG:
        return 400
    if isinstance(error, UpstreamRefused):
        is_clients = status in CLIENT_FAULTS or (status == 404 and direct)
        return status if is_clients else 502
    return PASSED_ON.get(status, 502)


def body_of(error: RoutewrightError, *, direct: bool = False) -> dict[str, Any]:
    """The error object of a failure. An upstream's own `type`, `param` and `code` are kept."""
    message, status = str(error), status_of(error, direct=direct)
    if isinstance(error, OWN_FILES):  # its message names files of this machine
        log.error("a request failed: %s", message)
        return INTERNAL
    if isinstance(error, BadRequest):
        return error_object(message, error.kind, error.code, error.param)
    if isinstance(error, NotAdmissible):
        rejected = dict(error.rejected)
        return error_object(
            message, "invalid_request_error", "no_admissible_expert", rejected=rejected
        )
    if isinstance(error, LocalFailure):
        return error_object(message, "server_error", OUT)
    if isinstance(error, BadInput) and not isinstance(error, BadConfig):
        # A strategy's message may name files. A config's mistakes are for its owner only.
        message = redact(message, Expert(""))
    kind, code = _type_and_code(status)
    if isinstance(error, UpstreamError) and error.status not in OUR_KEY:
        return error_object(message, error.kind or kind, error.code or code, error.param)
    return error_object(message, kind, code)


def _type_and_code(status: int) -> tuple[str, str]:
    """The `type` and the `code` of a failure with this status, where an upstream told none."""
    if status == 404:
        return "invalid_request_error", "model_not_found"
    if 400 <= status < 429:
        return "invalid_request_error", "bad_request"
    if status == 429:
        return "rate_limit_error", "upstream_rate_limited"
    if status == 504:
        return "timeout_error", "timeout"
    return "upstream_error" if status < 504 else "server_error", "failed"


def headers_of(error: RoutewrightError) -> dict[str, str]:
    seconds = getattr(error, "retry_after", None)
    headers = {} if seconds is None else {"retry-after": str(math.ceil(seconds))}
    return headers | getattr(error, "headers", {})


async def routewright_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RoutewrightError)
    return error_response(request.scope, body_of(error), status_of(error), headers_of(error))


async def http_error(request: Request, error: Exception) -> Response:
    """Answers a request for a path or method that does not exist."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    body = error_object(message, "invalid_request_error", code)
    return error_response(request.scope, body, error.status_code, error.headers)


async def client_disconnected(request: Request, error: Exception) -> Response:
    """Ends a request whose client disconnected before it was complete; no one reads this."""
    return Response(status_code=499)


async def machine_error(request: Request, error: Exception) -> Response:
    """Answers 503 if this machine lacks descriptors or memory; any other error is a fault."""
    if (reason := lack(error)) is None:
        raise error
    body = error_object(f"this machine lacks resources: {reason}", "server_error", OUT)
    return error_response(request.scope, body, 503, {"retry-after": "1"})


async def internal_error(request: Request, error: Exception) -> Response:
    return error_response(request.scope, INTERNAL, 500)
