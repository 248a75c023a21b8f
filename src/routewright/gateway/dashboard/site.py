"""The application behind the dashboard: its addresses, its checks, and how a page is written."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import Headers, MutableHeaders
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routewright import __version__
from routewright.errors import RoutewrightError
from routewright.gateway.dashboard import formats, is_page
from routewright.gateway.dashboard.signins import SignIns, Viewer, is_open, set_cookie
from routewright.gateway.errors import BadRequest, headers_of, status_of

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
MAX_FORM = 64 * 1024
MAX_FIELDS = 100
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # `no-referrer` would hide the origin of forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
FREE = ("/dashboard/static/", "/dashboard/signin")  # addresses for strangers


def build() -> ASGIApp:
    """The pages of the dashboard, behind their checks."""
    from routewright.gateway.dashboard import decisions, experts, frontier, keys, playground, today

    routes = [
        Route("/", today.today),
        Route("/dashboard/", lambda request: to(request, "/")),
        Route("/dashboard/live", today.live),
        Route("/dashboard/frontier", frontier.frontier),
        Route("/dashboard/frontier/example", frontier.example, methods=["POST"]),
        Route("/dashboard/frontier/write", frontier.write, methods=["POST"]),
        Route("/dashboard/decisions", decisions.decisions),
        Route("/dashboard/decisions/{id}", decisions.decision),
        Route("/dashboard/decisions/{id}/score", decisions.score, methods=["POST"]),
        Route("/dashboard/experts", experts.experts),
        Route("/dashboard/keys", keys.Keys),
        Route("/dashboard/keys/{name}", keys.show),
        Route("/dashboard/keys/{name}/{action}", keys.change, methods=["POST"]),
        Route("/dashboard/playground", playground.playground),
        Route("/dashboard/playground/ask", playground.Ask(), methods=["POST"]),
        Route("/dashboard/signin", SignInPage),
        Route("/dashboard/signout", sign_out, methods=["POST"]),
        Mount("/dashboard/static", StaticFiles(directory=STATIC)),
    ]
    return Visitors(Router(routes), SignIns())


# --- pages --------------------------------------------------------------------------------------


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=PackageLoader("routewright.gateway.dashboard"),
    )
    environment.filters.update({show.__name__: show for show in formats.FILTERS})
    environment.globals["static"] = static
    environment.globals["version"] = __version__
    return environment


@cache
def static(name: str) -> str:
    """The address of a file below the root, which changes with the file."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/dashboard/static/{name}?v={digest}"


async def page(
    request: Request, template_name: str, status: int = 200, /, **values: Any
) -> HTMLResponse:
    """A page, or a part of one, from its template; it is written in a thread."""
    template = _environment().get_template(template_name)
    text = await asyncio.to_thread(
        template.render,
        base=request.scope.get("root_path", ""),
        here=request.state.path,
        viewer=getattr(request.state, "viewer", None),
        config=request.state.services.config,
        **values,
    )
    return HTMLResponse(text, status)


def to(request: Request, place: str, **query: str) -> Response:
    """Sends the browser to another page."""
    arguments = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    address = f"{request.scope.get('root_path', '')}{place}{'?' if arguments else ''}{arguments}"
    return RedirectResponse(address, 303)


async def refusal(request: Request, error: Exception) -> Response:
    """The page that says what was wrong with a request, or that the gateway failed."""
    if isinstance(error, HTTPException):
        title = "There is no such page" if error.status_code == 404 else error.detail
        message = "The address may be mistyped, or what it names was deleted."
        return await problem(request, error.status_code, title, message)
    if isinstance(error, RoutewrightError) and (status := status_of(error)) < 500:
        response = await problem(request, status, "That did not work", f"{error}.")
        response.headers.update(headers_of(error))
        return response
    status = status_of(error) if isinstance(error, RoutewrightError) else 500
    reason = str(error) if isinstance(error, BadRequest) else "the gateway failed; its log says why"
    log.error("a page of the dashboard failed", exc_info=error)
    return await problem(request, status, "That did not work", f"{reason}.")


async def problem(request: Request, status: int, title: str, message: str) -> Response:
    return await page(request, "error.html", status, title=title, message=message)


# --- checks -------------------------------------------------------------------------------------


class Visitors:
    """Lets in who may look: strangers are sent to sign in, and no other site may send anything.

    What changes something must come from a page of this gateway (`Origin`, `Sec-Fetch-Site`) and
    carry the token of its reader's session. `state.form` has the fields of a form.
    """

    def __init__(self, app: ASGIApp, signins: SignIns) -> None:
        self.app = app
        self.signins = signins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        # The gateway's own handlers would answer in JSON.
        scope = {k: v for k, v in scope.items() if k != "starlette.exception_handlers"}
        request = Request(scope, receive)
        path: str = scope["state"]["path"]
        scope["state"]["signins"] = self.signins

        has_begun = False

        async def send_safely(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                is_static = path.startswith(FREE[0])
                headers["cache-control"] = "public, max-age=86400" if is_static else "no-store"
            await send(message)

        try:
            await self._answer(request, receive, send_safely)
        except ClientDisconnect:
            raise
        except Exception as error:
            if has_begun:
                raise
            response = await refusal(request, error)
            await response(scope, receive, send_safely)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        if request.state.path.startswith(FREE[0]):
            return await self.app(request.scope, receive, send)
        viewer = request.state.viewer = await self.signins.viewer(request)
        response = await self._objection(request, viewer)
        await (response or self.app)(request.scope, receive, send)

    async def _objection(self, request: Request, viewer: Viewer | None) -> Response | None:
        """The reply to a request that may not go on."""
        is_change = request.method not in ("GET", "HEAD")
        if not is_own(request.scope, is_change):
            return await problem(
                request, 403, "This request comes from another site.", "Open the page."
            )
        if request.state.path not in FREE and viewer is None:
            return await _to_sign_in(request)
        if is_change:
            request.state.form = await form(request)
            sent = request.headers.get("x-csrf-token") or request.state.form.get("token", "")
            token = viewer.token if viewer and request.state.path not in FREE else sent
            if not hmac.compare_digest(sent.encode(), token.encode()):
                message = "Its page is from before you signed in, or from long ago: load it again."
                return await problem(request, 403, "This form is out of date.", message)
        return None


def is_own(scope: Scope, is_change: bool) -> bool:
    """Whether a page of this gateway, or its reader, sends a request.

    Links on other sites lead here, if they are followed and not fetched.
    """
    headers = Headers(scope=scope)
    site, origin, hosts = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host")
    is_same = origin is not None and urlsplit(origin).netloc == hosts and origin != "null"
    if origin is not None and not is_same:
        return False
    if is_change:
        return site == "same-origin" or (site is None and is_same)
    if site in (None, "same-origin", "none"):
        return True
    modes = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return modes == ("navigate", "document")


async def form(request: Request) -> dict[str, str]:
    """The fields of a form; empty if the body is none. Raises BadRequest if it is too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return {}
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM:
            raise BadRequest("the form is too large", status=413)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise BadRequest("the form cannot be read") from error
    return {name: value.strip() for name, value in fields}


# --- signing in ---------------------------------------------------------------------------------


async def _to_sign_in(request: Request) -> Response:
    """Sends a stranger to sign in.

    Browsers do not send the cookie with the first request of a link from another site. So a page of
    our own, which asks again, stands between.
    """
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-refresh": "true"})
    if request.method not in ("GET", "HEAD"):
        return await problem(
            request, 401, "You are signed out.", "Sign in, and send the form again."
        )
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return await page(request, "again.html")
    place = request.state.path + (f"?{request.url.query}" if request.url.query else "")
    return to(request, "/dashboard/signin", **({} if place == "/" else {"next": place}))


INVALID = "That key is not valid here: it may be mistyped, revoked or expired."


async def ask_for_key(request: Request) -> Response:
    """Asks for a key, or says what to do where there is none."""
    place = _place(request.query_params.get("next"))
    has_no_key = is_open(request.state.services)
    return await page(request, "signin.html", is_open=has_no_key, place=place, problem="")


async def sign_in(request: Request) -> Response:
    """Opens a session for who has a valid key."""
    fields, signins = request.state.form, request.state.signins
    place = _place(fields.get("next"))
    session = await signins.sign_in(request, fields.get("key", ""))
    if session is None:
        return await page(request, "signin.html", 401, is_open=False, place=place, problem=INVALID)
    response = to(request, place)
    set_cookie(request, response, session)
    return response


class SignInPage(HTTPEndpoint):
    """The page on which people sign in, with an API key or an admin key."""

    get = staticmethod(ask_for_key)
    post = staticmethod(sign_in)


async def sign_out(request: Request) -> Response:
    """Ends the session."""
    await request.state.signins.sign_out(request)
    response = to(request, "/dashboard/signin")
    set_cookie(request, response, None)
    return response


def _place(text: str | None) -> str:
    """A page of this dashboard; `/` instead of anything else."""
    path = (text or "/").partition("?")[0]
    is_safe = is_page(path) and "\\" not in path and "//" not in path
    return text if text and is_safe and text.isprintable() else "/"
