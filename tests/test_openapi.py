"""`/openapi.json` says what the gateway does: schemathesis sends what it allows and forbids."""

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from starlette.schemas import BaseSchemaGenerator

from routewright.gateway.app import build
from routewright.gateway.openapi import OPERATIONS, document
from upstream import config_of, gateway

KEY = "key-for-tests"


# A valid request may name an unknown model (404), score a decision again (409), or ask for what no
# expert can do (422).
ACCEPTED = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]
negative_data_rejection.expected-statuses = ["400", "401", "404", "405", "415", "422"]
"""


def sandbox(router, **server):
    """The demo's models under the names of the router's experts."""
    models = {"adder": "abacus", "speller": "lexis", "sage": "sage"}
    experts = [
        {"name": name, "model": model, "provider": "sandbox", "latency": 0.1, "input_per_mtok": 1}
        for name, model in models.items()
    ]
    policies = {"default": {"strategy": "auto", "router": str(router), "max_cost_fraction": 0.5}}
    return config_of(*experts, policies=policies, server=server)


@contextmanager
def served(config):
    """The gateway for a config, on a socket, in a thread of its own; gives its URL."""
    url, started, stop = [], threading.Event(), threading.Event()

    async def serve():
        async with gateway(config) as address:
            url.append(address)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
    thread.start()
    assert started.wait(600)
    try:
        yield url[0]
    finally:
        stop.set()
        thread.join()


def test_the_gateway_does_what_its_document_says(router_folder, tmp_path):
    """Sends what the document allows and what it forbids; every check of schemathesis must hold."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(ACCEPTED)
    feedback = str(tmp_path / "feedback.jsonl")
    store = f"sqlite:///{tmp_path}/store.db"
    server = {"feedback": feedback, "store": store, "api_keys": [KEY], "admin_key": KEY}
    with served(sandbox(router_folder, **server)) as url:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
        command += ["run", f"{url}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {KEY}", "--seed", "0"]
        command += ["--exclude-path", "/admin/reload"]  # this gateway has no file to read again
        command += ["--max-examples", "30", "--generation-database", "none"]
        hooks = {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent)}
        environment = {**os.environ, **hooks}
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_route_is_in_the_document_and_nothing_else(router_folder):
    routes = build(sandbox(router_folder)).routes
    endpoints = BaseSchemaGenerator().get_endpoints(routes)
    in_app = {(endpoint.http_method, endpoint.path) for endpoint in endpoints}
    paths = document(routes)["paths"]
    in_document = {(method, path) for path, entry in paths.items() for method in entry}
    assert in_document == in_app == set(OPERATIONS)
