"""`routewright serve` as a process, with the models that come in the package."""

import os
import re
import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from routewright.sandbox.model import TinyLM
from upstream import wait_until

CONFIG = """\
version: 1
experts:
  - {name: abacus, provider: sandbox, output_per_mtok: 1.0}
  - {name: sage, provider: sandbox, output_per_mtok: 10.0}
policies:
  default: {strategy: cascade, options: {ladder: [abacus, sage], trust: 0.6}}
"""
COMMAND = [
    sys.executable,
    "-c",
    "import sys; from typer import Typer; from routewright.cli.serve import serve;"
    "from routewright.errors import RoutewrightError;"
    "app = Typer(); app.command()(serve)\n"
    "try: app()\n"
    "except RoutewrightError as error: print(error, file=sys.stderr); sys.exit(2)",
]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "routewright.yaml"
    path.write_text(CONFIG)
    return str(path)


def start(*arguments):
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_serve_says_where_it_is_answers_and_stops_when_told(config):
    process = start(config, "--port", "0")
    try:
        lines = []
        while not lines or "curl" not in lines[-1]:
            lines.append(process.stdout.readline())
        welcome = "".join(lines)
        assert "routewright/default" in welcome
        assert "abacus, sage" in welcome
        url = re.search(r"http://[\d.]+:\d+/v1", welcome)[0]
        body = {"messages": [{"role": "user", "content": "What is 2 + 3?"}]}
        reply = _post(f"{url}/chat/completions", body)
        answer = reply.json()
        own = TinyLM.load(answer["model"]).generate("What is 2 + 3?").text
        assert answer["choices"][0]["message"]["content"] == own
        assert reply.headers["x-routewright-path"].startswith("abacus>verify:")
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert '"status": "ok"' in errors


def _post(url, body):
    wait_until(lambda: _listens(url))
    return httpx2.post(url, json=body, timeout=600)


def _listens(url):
    with socket.socket() as one:
        return one.connect_ex((httpx2.URL(url).host, httpx2.URL(url).port)) == 0


def test_a_port_that_is_taken_is_one_clear_message(config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start(config, "--port", port)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert f"127.0.0.1:{port}" in errors
    assert "--port" in errors
    assert "Traceback" not in errors


def test_a_config_with_mistakes_is_not_served(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("version: 1\nexperts: []\n")
    process = start(str(path))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "experts" in errors
    assert "Traceback" not in errors
