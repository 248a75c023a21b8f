"""The real Codex in front of a gateway whose expert is a scripted chat upstream.

Skipped where there is no `codex`: `npm install --prefix build/node @openai/codex` brings it.
"""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from upstream import Upstream, config_of, gateway, running

BIN = Path(__file__).parent.parent / "build" / "node" / "node_modules" / ".bin"
SECONDS = 600.0
CONFIG = """
model = "auto"
model_provider = "routewright"

[model_providers.routewright]
name = "Routewright"
base_url = "{url}/v1"
env_key = "ROUTEWRIGHT_KEY"
wire_api = "responses"
"""


def missing():
    """Why Codex cannot be run here; None if it can."""
    if shutil.which("node") is None:
        return "node is not on the PATH"
    if shutil.which("codex", path=f"{os.environ['PATH']}{os.pathsep}{BIN}") is None:
        return "codex is neither on the PATH nor in build/node/node_modules/.bin"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


async def codex(url, folder, prompt):
    """What `codex exec` reports, line by line."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIG.format(url=url))
    program = shutil.which("codex", path=f"{os.environ['PATH']}{os.pathsep}{BIN}")
    process = await asyncio.create_subprocess_exec(
        *(program, "exec", "--json", "--skip-git-repo-check", "--sandbox", "danger-full-access"),
        prompt,
        cwd=work,
        env={**os.environ, "CODEX_HOME": str(home), "ROUTEWRIGHT_KEY": "key-of-codex"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, out.decode() + err.decode()
    return [json.loads(line) for line in out.decode().splitlines()]


def run(folder, upstream, prompt):
    async def work():
        async with running(upstream):
            config = config_of(upstream.expert("small"), server={"api_keys": ["key-of-codex"]})
            async with gateway(config) as url:
                return await codex(url, folder, prompt)

    events = asyncio.run(work())
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    (turn,) = [event for event in events if event["type"] == "turn.completed"]
    return items, turn["usage"]


def test_codex_gets_an_answer(tmp_path):
    upstream = Upstream(says="two and two is four")
    items, usage = run(tmp_path, upstream, "What is 2 + 2?")
    assert items[-1]["type"] == "agent_message"
    assert items[-1]["text"] == "two and two is four"
    assert usage["output_tokens"] == 5
    (body,) = upstream.bodies
    assert body["stream"] is True
    assert body["messages"][-1] == {"role": "user", "content": "What is 2 + 2?"}
    assert {tool["type"] for tool in body["tools"]} == {"function"}


def test_codex_runs_a_command_that_the_expert_calls(tmp_path):
    upstream = Upstream()
    upstream.says = lambda body: "" if upstream.message else "it is done"
    arguments = json.dumps({"cmd": "echo four > answer.txt; cat answer.txt"})
    function = {"name": "exec_command", "arguments": arguments}
    upstream.message = {"tool_calls": [{"id": "call_1", "type": "function", "function": function}]}

    async def then_text(upstream, request, body):
        reply = await upstream.answer(request, body)
        upstream.message = None
        return reply

    upstream.faults = [then_text]
    items, _ = run(tmp_path, upstream, "Write four into answer.txt.")
    assert (tmp_path / "work" / "answer.txt").read_text() == "four\n"
    commands = [item for item in items if item["type"] == "command_execution"]
    assert [command["exit_code"] for command in commands] == [0]
    assert items[-1]["text"] == "it is done"
    assert len(upstream.bodies) == 2
    call, output = upstream.bodies[1]["messages"][-2:]
    assert call["tool_calls"][0]["id"] == output["tool_call_id"] == "call_1"
    assert "four" in output["content"]
