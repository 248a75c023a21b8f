"""`routewright serve`: the OpenAI-compatible gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from routewright.config import Config


def serve(
    config: Annotated[Path, typer.Argument(help="The config, e.g. routewright.yaml.")],
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; default: the config's, else 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; 0 takes a free one; default: the config's."),
    ] = None,
) -> None:
    """Serve a config to any OpenAI client, until Ctrl-C.

    Exit code 2 if the config is wrong or the port is taken.
    """
    from routewright.config import load
    from routewright.gateway.server import run

    checked = load(config)
    host = checked.server.host if host is None else host
    port = checked.server.port if port is None else port
    run(checked, host, port, lambda url: typer.echo(welcome(checked, url)))


def welcome(config: Config, url: str) -> str:
    """Where the gateway is, what it offers, and a command that tries it."""
    policies = ", ".join(f"routewright/{name}" for name in config.policies)
    experts = ", ".join(entry.name for entry in config.experts)
    asks_for_key = bool(config.server.api_keys)
    key = "one of server.api_keys" if asks_for_key else "none asked"
    header = " \\\n    -H 'Authorization: Bearer KEY'" if asks_for_key else ""
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
