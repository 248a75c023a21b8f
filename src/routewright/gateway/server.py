"""Runs the gateway on a socket until it is told to stop."""

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

PATIENCE = 10  # seconds that requests under way get at shutdown


def run(config: Config, host: str, port: int, ready: Callable[[str], None]) -> Starlette:
    """Serves until interrupted; calls `ready` with the URL once the port is ours. Returns the
    application that was served.

    Raises BadInput if the config cannot be served or the port is taken.
    """
    app = build(config)
    with listen(host, port) as listener:
        logging.getLogger("routewright").setLevel(logging.INFO)
        logging.basicConfig(format="%(message)s", level=logging.WARNING)
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # every decision has its own line, without paths or texts
            timeout_graceful_shutdown=PATIENCE,
        )
        ready(url_of(listener))
        with suppress(KeyboardInterrupt):  # how a server is stopped
            uvicorn.Server(settings).run(sockets=[listener])
    return app


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises BadInput with the way out if there is none to be had."""
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
            f"cannot listen on {host}:{port}: {error.strerror}; stop whoever uses it, "
            "or choose another port with --port (0 takes a free one)"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
