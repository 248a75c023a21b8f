"""The gateway's log on a terminal and in a pipe; examples and completion of every command."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.core import TyperGroup
from typer.testing import CliRunner

from routewright.cli.main import EXAMPLES, app
from routewright.cli.quiet import LONG, quiet
from routewright.gateway.server import listen
from upstream import Upstream, in_thread, status


@contextmanager
def serving(folder: Path, upstream: Upstream, *words: str, terminal: bool = True, **env: str):
    """`routewright serve` with its log on a terminal or in a pipe: its URL and the log's lines."""
    file = folder / "routewright.yaml"
    policies = {"mine": {"strategy": "fixed", "options": {"expert": "small"}}}
    document = {"version": 1, "experts": [upstream.expert("small")], "policies": policies}
    port = free_port() if "--quiet" in words else 0  # a quiet gateway does not say which it took
    file.write_text(yaml.safe_dump({**document, "server": {"port": port}}))
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "routewright", "serve", str(file), *words],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "NO_COLOR": "", "TERM": "xterm", **env},
    )
    os.close(theirs)
    try:
        url = f"http://127.0.0.1:{port}" if port else said_url(process)
        yield url, process, lines(ours)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        os.close(ours)


def free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        return listener.getsockname()[1]


def said_url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(rb"http://[\d.:]+", line):
            return match[0].decode()
    raise AssertionError("it ended without its URL")


def lines(descriptor: int) -> Iterator[str]:
    rest = ""
    while True:
        ready, _, _ = select.select([descriptor], [], [], 600)
        assert ready, f"no line: {rest}"
        rest += os.read(descriptor, 4096).decode()
        *whole, rest = rest.split("\n")
        yield from (line.rstrip("\r") for line in whole)


def ask(url: str) -> None:
    """Asks as soon as the gateway listens."""
    body = json.dumps({"messages": [{"role": "user", "content": "my secret"}]}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        try:
            opener.open(request, timeout=600).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            select.select([], [], [], 0.1)


def test_a_terminal_shows_a_readable_line_per_decision(tmp_path):
    upstream = Upstream(faults=[None, status(400)])
    with in_thread(upstream), serving(tmp_path, upstream) as (url, _, log):
        ask(url)
        line = next(log)
        assert "\x1b[32m✓\x1b[0m" in line
        plain = re.sub(r"\x1b\[\d+m", "", line)
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d  ✓  mine  small  \$0.000006  \d+\.\d\d s  2 → 2 tokens", plain
        )
        ask(url)
        failed = next(log)
        assert "\x1b[31m✗ UpstreamRefused 400\x1b[0m" in failed
        assert "small:failed" in failed


def test_no_color_and_quiet_are_obeyed(tmp_path):
    with in_thread(upstream := Upstream()):
        with serving(tmp_path, upstream, NO_COLOR="1") as (url, _, log):
            ask(url)
            assert "\x1b" not in next(log)
        with serving(tmp_path, upstream, "--quiet") as (url, process, _):
            ask(url)
            process.terminate()
            assert process.communicate(timeout=600)[0] == b""


def test_every_long_command_can_be_quiet():
    """design: progress, `--json` and `--quiet`; LONG names a verb of a group by its last word."""
    assert {name.split()[-1] for name in commands()} >= set(LONG)
    for name, command in commands().items():
        flags = [flag for option in command.params for flag in option.opts]
        if name.split()[-1] in LONG and name != "serve":
            assert "--quiet" in flags, name


def test_a_quiet_command_says_nothing_but_its_json_and_what_is_wrong(
    routewright, outcome_table, tmp_path
):
    words = ("fit", outcome_table, "--predictor", "prior", "--encoder", "surface")
    assert routewright(*words, "--out", tmp_path / "a", "-q") == (0, "", "")
    assert (tmp_path / "a" / "router.json").exists()
    code, said, _ = routewright("evaluate", tmp_path / "a", outcome_table, "--json", "-", "--quiet")
    assert code == 0
    assert json.loads(said)["n"] > 0
    file = tmp_path / "figures.json"
    words = ("evaluate", tmp_path / "a", outcome_table, "--json", file, "--quiet")
    assert routewright(*words) == (0, "", "")
    assert json.loads(file.read_text())["n"] > 0
    code, said, error = routewright("fit", tmp_path / "none.parquet", "--out", tmp_path / "b", "-q")
    assert (code, said) == (2, "")
    assert "none.parquet" in error


def test_warnings_reach_a_quiet_reader(capsys):
    with quiet(keeps_output=False):
        print("some words")
        print("progress", file=sys.stderr)
        print("Warning: mind this", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert tuple(capsys.readouterr()) == ("", "Warning: mind this\n")


def test_a_pipe_gets_json(tmp_path):
    upstream = Upstream()
    with in_thread(upstream), serving(tmp_path, upstream, terminal=False) as (url, _, log):
        ask(url)
        line = json.loads(next(log))
    assert (line["event"], line["status"], line["expert"]) == ("decision", "ok", "small")


def commands() -> dict[str, object]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    found = {}
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            found |= {f"{name} {verb}": inner for verb, inner in command.commands.items()}
        else:
            found[name] = command
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_has_an_example_that_it_accepts(name):
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).stdout
    assert f"Example: {EXAMPLES[name]}" in shown
    program, *words = shlex.split(EXAMPLES[name])
    assert (program, words[: len(name.split())]) == ("routewright", name.split())
    commands()[name].make_context(name, words[len(name.split()) :])  # raises where it does not fit


def test_completion_can_be_shown_for_a_shell():
    shown = subprocess.run(
        [sys.executable, "-m", "routewright", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "SHELL": "/bin/bash",
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
    )
    assert shown.returncode == 0
    assert "complete" in shown.stdout
