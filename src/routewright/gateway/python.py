"""The gateway from Python: `serve` returns an ASGI application, `decide` answers one query."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from starlette.applications import Starlette

from routewright import drive
from routewright.config import Config, load
from routewright.experts.client import Client
from routewright.gateway import server
from routewright.gateway.app import build
from routewright.gateway.policies import Policies
from routewright.types import Decision, Query


def serve(
    config: Config | Path | str = "routewright.yaml",
    *,
    host: str | None = None,
    port: int | None = None,
    run: bool = True,
) -> Starlette:
    """Serves a config to OpenAI clients until Ctrl-C; `run=False` only returns the application.

    `host` and `port` (0 takes a free port) override the config's. Returns the ASGI application,
    which any ASGI server can run and any other application can mount. Raises BadConfig if the
    config has mistakes, BadInput if a router cannot be loaded or the port is taken.

    >>> import routewright as rw
    >>> from routewright.demo import example
    >>> app = rw.serve(example() / "routewright.yaml", run=False)

    An OpenAI client sends this request:

    >>> from starlette.testclient import TestClient
    >>> message = {"role": "user", "content": "What is 2 + 2?"}
    >>> with TestClient(app) as client:
    ...     reply = client.post("/v1/chat/completions", json={"messages": [message]})
    >>> reply.json()["choices"][0]["message"]["content"]
    '4'
    """
    settings = _config(config)
    reload = None if isinstance(config, Config) else partial(load, Path(config))
    if not run:
        return build(settings, reload)
    host = settings.server.host if host is None else host
    port = settings.server.port if port is None else port
    return server.run(
        settings,
        host,
        port,
        lambda url: print(f"Routewright serves OpenAI clients at {url}/v1", flush=True),
        reload,
    )


async def decide(
    query: Query | str, *, config: Config | Path | str = "routewright.yaml", policy: str = "auto"
) -> Decision:
    """Answers one query with the experts of a config, by one of its policies.

    `policy` is a name that clients may send as `model`: `auto`, a policy or an expert. A text gets
    the config's default data class. Every call reads the config and its router: for many queries,
    use `serve(config, run=False)`. Raises BadConfig if the config has mistakes, BadInput
    for an unknown policy, NotAdmissible if the query's limits leave no expert, UpstreamError if
    the experts fail, and DeadlineExceeded after the query's `max_latency` seconds.

    >>> import asyncio
    >>> import routewright as rw
    >>> from routewright.demo import example
    >>> config = example() / "routewright.yaml"
    >>> decision = asyncio.run(rw.decide("What is 2 + 2?", config=config, policy="auto"))
    >>> decision.answer.text, decision.path
    ('4', 'abacus')
    """
    settings = _config(config)
    if isinstance(query, str):
        query = Query.of(query, data_class=settings.server.default_data_class)
    strategy = Policies(settings).find(policy).strategy_for(query)
    experts = settings.experts_by_name().values()
    async with Client(experts) as client:
        return await drive.decide(strategy, query, experts, client)


def _config(config: Config | Path | str) -> Config:
    return config if isinstance(config, Config) else load(Path(config))
