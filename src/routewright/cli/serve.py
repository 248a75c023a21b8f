"""`routewright serve`: runs the OpenAI-compatible gateway."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from routewright.config import Config


def serve(
    config: Annotated[Path, typer.Argument(help="The config.")] = Path("routewright.yaml"),
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; default: that of the config, else 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0 takes a free one; default: that of the config."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, max=256, help="Processes that answer on the port; they share the store."
        ),
    ] = 1,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show nothing but warnings and errors.")
    ] = False,
    as_worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve a config to any OpenAI client until Ctrl-C or SIGTERM; SIGHUP reads the config again.

    On a terminal the log has a readable line per decision; elsewhere each line is a JSON object.
    The exit code is 2 if the config has mistakes or the port is in use.
    """
    from routewright.config import load
    from routewright.gateway.lines import log_to_stderr
    from routewright.gateway.server import run, run_worker

    settings = load(config)
    log_to_stderr(quiet)
    if as_worker is not None:
        run_worker(settings, as_worker, lambda: load(config))
        return end()
    if not quiet:
        for line in settings.from_price_list:
            typer.echo(line)
    host = settings.server.host if host is None else host
    port = settings.server.port if port is None else port

    def ready(url: str) -> None:
        if not quiet:
            typer.echo(welcome(settings, url))

    if workers > 1:
        from routewright.gateway import workers as several

        several.check(settings, workers)
        words = several.command(config, quiet)
        raise typer.Exit(several.run(words, workers, host, port, ready))
    run(settings, host, port, ready, lambda: load(config))
    end()


def end(seconds: float = 3.0) -> None:
    """Ends the process if a thread outlives the gateway: it may wait for a name server."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                os._exit(0)


def welcome(config: Config, url: str) -> str:
    """The gateway's address, policies and experts, and a command to try it."""
    policies = ", ".join(f"routewright/{name}" for name in config.policies)
    experts = ", ".join(entry.name for entry in config.experts)
    needs_key = bool(config.server.api_keys)
    key = "one of server.api_keys" if needs_key else "none required"
    header = " \\\n    -H 'Authorization: Bearer KEY'" if needs_key else ""
    return f"""\
Routewright serves OpenAI clients at {url}/v1

  policies  auto (= routewright/{config.default_policy}), {policies}
  experts   {experts}
  key       {key}

Try it:
  curl -i {url}/v1/chat/completions{header} \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "What is 2 + 2?"}}]}}'
"""
