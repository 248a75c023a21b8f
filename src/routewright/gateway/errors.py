"""Writes failures as OpenAI error objects, which OpenAI clients know how to handle."""

from __future__ import annotations

import logging
import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from routewright.errors import (
    BadInput,
    DeadlineExceeded,
    NotAdmissible,
    RoutewrightError,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)

log = logging.getLogger(__name__)

CLIENT_FAULTS = {400, 413, 422}  # an upstream's statuses for a request that the client must fix


class BadRequest(BadInput):
    """A request that cannot be served; `param` names the field at fault."""

    def __init__(
        self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code


def error_object(
    message: str, kind: str, code: str | None = None, param: str | None = None, **more: Any
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code, **more}}


def status_of(error: RoutewrightError) -> int:
    if isinstance(error, BadRequest):
        return error.status
    if isinstance(error, BadInput):
        return 400
    if isinstance(error, NotAdmissible):
        return 422
    if isinstance(error, DeadlineExceeded | UpstreamTimeout):
        return 504
    if isinstance(error, UpstreamRefused):
        return 400 if error.status in CLIENT_FAULTS else 502
    if isinstance(error, UpstreamError):
        return error.status if error.status in (429, 503) else 502
    return 500


def body_of(error: RoutewrightError) -> dict[str, Any]:
    message, status = str(error), status_of(error)
    if isinstance(error, BadRequest):
        kind = "invalid_request_error" if status < 500 else "server_error"
        return error_object(message, kind, error.code, error.param)
    if isinstance(error, NotAdmissible):
        rejected = dict(error.rejected)
        return error_object(
            message, "invalid_request_error", "no_admissible_expert", rejected=rejected
        )
    if status == 400:
        return error_object(message, "invalid_request_error", "bad_request")
    if status == 429:
        return error_object(message, "rate_limit_error", "upstream_rate_limited")
    if status == 504:
        return error_object(message, "timeout_error", "timeout")
    return error_object(message, "upstream_error" if status < 504 else "server_error", "failed")


def headers_of(error: RoutewrightError) -> dict[str, str]:
    seconds = getattr(error, "retry_after", None)
    return {} if seconds is None else {"retry-after": str(math.ceil(seconds))}


async def routewright_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RoutewrightError)
    return JSONResponse(body_of(error), status_of(error), headers_of(error))


async def http_error(request: Request, error: Exception) -> Response:
    """Answers a request for a path or method that does not exist."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    body = error_object(message, "invalid_request_error", code)
    return JSONResponse(body, error.status_code, error.headers)


async def client_disconnected(request: Request, error: Exception) -> Response:
    """Ends a request whose client disconnected before it was complete; no one reads this."""
    return Response(status_code=499)


async def internal_error(request: Request, error: Exception) -> Response:
    body = error_object("the gateway failed; its log says why", "server_error", "internal")
    return JSONResponse(body, 500)
