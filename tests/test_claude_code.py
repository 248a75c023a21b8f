"""The real Claude Code before a gateway: a plain answer, and a loop through one of its tools.

Its experts are scripted servers on the loopback, one that speaks OpenAI chat and one that speaks
Anthropic's Messages. Claude Code is looked for on PATH and in build/node/node_modules/.bin.
"""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from anthropic_upstream import AnthropicUpstream, running_anthropic, text, thinking, tool_use
from upstream import Upstream, config_of, gateway, running, status

BUILD = Path(__file__).parent.parent / "build" / "node" / "node_modules" / ".bin"
CLAUDE = shutil.which("claude", path=os.pathsep.join([os.environ.get("PATH", ""), str(BUILD)]))
pytestmark = pytest.mark.skipif(
    CLAUDE is None,
    reason="Claude Code is not here: npm install --prefix build/node @anthropic-ai/claude-code",
)
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
}
SECRET = "the word is xylophone"


def claude(upstream, folder, prompt, *options, model="auto"):
    """Runs Claude Code once, in a folder, before a gateway with one expert; returns its report."""
    start = running_anthropic if isinstance(upstream, AnthropicUpstream) else running

    async def run():
        async with (
            start(upstream),
            gateway(
                config_of(upstream.expert("small", timeout=600), server={"api_keys": ["k1"]})
            ) as url,
        ):
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(folder / "home"),
                "ANTHROPIC_BASE_URL": url,
                "ANTHROPIC_AUTH_TOKEN": "k1",
                "ANTHROPIC_MODEL": model,
                **QUIET,
            }
            process = await asyncio.create_subprocess_exec(
                *(CLAUDE, "-p", prompt, "--output-format", "json", *options),
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            async with asyncio.timeout(600):
                output, errors = await process.communicate()
            assert process.returncode == 0, output.decode() + errors.decode()
            return json.loads(output)

    return asyncio.run(run())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "note.txt").write_text(SECRET + "\n")
    return tmp_path


def test_a_chat_expert_answers_claude_code(folder):
    upstream = Upstream("the plain answer")
    report = claude(upstream, folder, "Say hello.")
    assert (report["result"], report["is_error"]) == ("the plain answer", False)
    assert report["usage"]["output_tokens"] == 3
    (body,) = upstream.bodies
    assert "Read" in [tool["function"]["name"] for tool in body["tools"]]


def test_an_expert_of_anthropic_answers_claude_code(folder):
    upstream = AnthropicUpstream([thinking("hm"), text("the plain answer")])
    report = claude(upstream, folder, "Say hello.")
    assert (report["result"], report["is_error"]) == ("the plain answer", False)
    assert upstream.headers[0]["anthropic-beta"].startswith("claude-code-")


def test_claude_code_reads_a_file_for_a_chat_expert(folder):
    function = {"name": "Read", "arguments": json.dumps({"file_path": str(folder / "note.txt")})}
    call = {"id": "functions.Read:0", "type": "function", "function": function}

    async def calls(upstream, request, body):
        upstream.message = {"role": "assistant", "content": None, "tool_calls": [call]}
        upstream.says, says = "", upstream.says
        reply = await upstream.answer(request, body)
        upstream.message, upstream.says = None, says
        return reply

    refusal = status(400, "System message must be at the beginning.")
    upstream = Upstream(lambda body: "the file says so", faults=[refusal, calls])
    report = claude(upstream, folder, "What does note.txt say?", "--allowedTools", "Read")
    assert (report["result"], report["num_turns"]) == ("the file says so", 2)
    results = [m["content"] for m in upstream.bodies[-1]["messages"] if m["role"] == "tool"]
    assert SECRET in results[0]
    assert "system" not in [m["role"] for m in upstream.bodies[-1]["messages"][1:]]


def test_claude_code_reads_a_file_for_an_expert_of_anthropic(folder):
    def says(body):
        if len(body["messages"]) > 2:
            return [text("the file says so")]
        path = str(folder / "note.txt")
        return [thinking("I read it."), text("Reading."), tool_use("Read", file_path=path)]

    upstream = AnthropicUpstream(says)
    prompt = "What does note.txt say?"
    # Claude Code keeps the thinking only of the model that it asked for by name.
    report = claude(upstream, folder, prompt, "--allowedTools", "Read", model="small")
    assert (report["result"], report["num_turns"]) == ("the file says so", 2)
    turns = upstream.bodies[-1]["messages"]
    (answer,) = [turn for turn in turns if turn["role"] == "assistant"]
    assert answer["content"][0] == thinking("I read it.")
    assert SECRET in json.dumps(turns[-1]) + json.dumps(turns[-2])
