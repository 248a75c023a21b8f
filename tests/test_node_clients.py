"""The clients of Node before a gateway: OpenAI's SDK, and Vercel's `ai` with its providers.

tests/node/clients.mjs has their scenarios; one process runs a whole group of them. `make node`
installs the clients into build/node.
"""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tool_upstream import ANSWER, ARGUMENTS, OBJECT, before_tools

SCRIPT = Path(__file__).parent / "node" / "clients.mjs"
BUILD = Path(__file__).parent.parent / "build" / "node"
NODE = shutil.which("node")
TOOL = "the tool says 4"


def missing():
    """Why the clients of Node cannot be run here; None if they can."""
    if NODE is None:
        return "node is not on the PATH: `make node` installs it where it can"
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0] or 0) < 20:
        return f"node is {version}, and these clients need version 20 or newer"
    absent = [
        name
        for name in ("openai", "ai", "@ai-sdk/openai", "@ai-sdk/anthropic")
        if not (BUILD / "node_modules" / name / "package.json").exists()
    ]
    return f"build/node has no {', '.join(absent)}: `make node` installs it" if absent else None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def run(group, folder):
    """What the scenarios of a group give, by their names."""

    async def work():
        async with before_tools(folder) as url:
            process = await asyncio.create_subprocess_exec(
                *(NODE, "--input-type=module", "-", group, url),
                cwd=BUILD,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(600):
                output, errors = await process.communicate(SCRIPT.read_bytes())
        assert process.returncode == 0, output.decode() + errors.decode()
        return json.loads(output)

    return asyncio.run(work())


@pytest.fixture(scope="module")
def openai(tmp_path_factory):
    return run("openai", tmp_path_factory.mktemp("openai"))


@pytest.fixture(scope="module")
def vercel(tmp_path_factory):
    return run("vercel", tmp_path_factory.mktemp("vercel"))


def test_openais_sdk_gets_chats(openai):
    assert openai["chat"] == [ANSWER, "small", 5]
    assert openai["chat_stream"] == [ANSWER, ANSWER, 5]


def test_openais_sdk_runs_tools_over_chat(openai):
    assert openai["chat_tools"][1:] == [ARGUMENTS, TOOL]
    assert openai["chat_tools_stream"] == TOOL


def test_openais_sdk_gets_responses(openai):
    assert openai["responses"] == [ANSWER, "small", 5]
    assert openai["responses_stream"] == [ANSWER, ANSWER]
    assert openai["responses_tools"] == [ARGUMENTS, TOOL]


def test_openais_sdk_gets_embeddings_models_and_errors(openai):
    assert openai["embeddings"] == [[3, 1], [5, 1]]
    assert openai["models"] == ["auto", "routewright/default", "small"]
    assert openai["error"] == ["NotFoundError", 404, "model_not_found"]


# `openai("auto")` of @ai-sdk/openai, the same with `store: false`, `openai.chat("auto")`, and
# `anthropic("auto")` of @ai-sdk/anthropic.
@pytest.mark.parametrize("model", ["responses", "unstored", "chat", "messages"])
def test_the_ai_sdk_gets_text_tools_and_objects(vercel, model):
    assert vercel[model] == [ANSWER, "stop", 5, "small"]
    assert vercel[f"{model}_stream"] == [ANSWER, "stop", 5]
    assert vercel[f"{model}_tools"] == [TOOL, 2, 4]
    assert vercel[f"{model}_tools_stream"] == [TOOL, 2]
    assert vercel[f"{model}_object"] == OBJECT


def test_the_ai_sdk_gets_embeddings_and_sets_limits(vercel):
    assert vercel["embeddings"] == [[3, 1], [5, 1]]
    assert vercel["limits"] == ["AI_APICallError", 422]
