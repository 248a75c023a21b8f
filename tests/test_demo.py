"""The demo as a newcomer runs it: real models, a real gateway, nothing from outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from routewright import demo
from routewright.data import outcomes
from routewright.errors import BadInput
from routewright.evaluation.evaluate import evaluate
from routewright.router.router import Router


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "made"
    command = [sys.executable, "-m", "routewright.cli.main", "demo", "--folder", str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "ONCE": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_routing_pays_at_half_of_the_generalists_cost(shown):
    folder, text = shown
    assert "routing pays" in text
    router = Router.load(folder / "router")
    e = evaluate(router, outcomes.read(folder / "outcomes.parquet", split="dev"))
    figures = e.to_json()
    assert demo.pays(figures)
    assert figures["at_cost_fraction"]["0.5"]["gain_ci"][0] > 0.05


def test_every_question_was_answered_over_http_with_expert_and_cost(shown):
    _, text = shown
    answers = text.split("3. Serve the router")[1]
    assert re.search(r"│ 0\.00\d+ ", answers), "US$ per 1,000 queries, as in the table above it"
    assert re.search(r"\b(?:abacus|lexis|sage) \d+ %", answers)
    assert sum(answers.count(expert) for expert in ("abacus", "lexis", "sage")) >= 5


def test_without_a_port_the_gateway_leaves_a_program_that_has_the_usual_one(shown, tmp_path):
    shutil.copytree(shown[0], folder := tmp_path / "made")
    files = demo.Folder(folder)
    with socket.create_server(("127.0.0.1", 0)) as program:
        taken = program.getsockname()[1]
        files.config.write_text(f"{files.config.read_text()}\nserver: {{port: {taken}}}\n")
        with demo.gateway(files, None) as (url, _):
            assert int(url.rpartition(":")[2]) != taken
            with urllib.request.urlopen(f"{url}/v1/models") as response:
                assert response.status == 200
        with pytest.raises(BadInput, match="another port"), demo.gateway(files, taken):
            pass


def test_the_demos_config_passes_the_check(shown):
    folder, _ = shown
    command = [sys.executable, "-m", "routewright.cli.main", "check", "--json"]
    done = subprocess.run(
        [*command, str(folder / "routewright.yaml")], capture_output=True, text=True
    )
    assert json.loads(done.stdout)["ok"], done.stdout
