"""Runs the gateway on a socket until it is stopped."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette

from routewright.config import Config
from routewright.errors import BadInput
from routewright.gateway.app import build

GRACE = 10  # seconds that requests in progress get at shutdown


def run(config: Config, host: str, port: int, ready: Callable[[str], None]) -> Starlette:
    """Serves a config until Ctrl-C and returns the ASGI application.

    Calls `ready` with the URL as soon as the socket listens.

    Raises BadInput if the config cannot be served or the port is taken.
    """
    app = build(config)
    with listen(host, port) as listener:
        logging.getLogger("routewright").setLevel(logging.INFO)
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # the gateway writes its own line per decision, without URLs
            timeout_graceful_shutdown=GRACE,
        )
        ready(url_of(listener))
        with suppress(KeyboardInterrupt):  # Ctrl-C is the usual way to stop it
            uvicorn.Server(settings).run(sockets=[listener])
    return app


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; raises BadInput if the address or port cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadInput(f"cannot listen on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise BadInput(
            f"cannot listen on {host}:{port}: {error.strerror}; stop the process that uses it, "
            "or choose another port with --port (0 takes a free one)"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
