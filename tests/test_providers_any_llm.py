"""Services that do not speak OpenAI's API, asked through any-llm at an upstream on the loopback."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest

from routewright import config
from routewright.errors import EXTRAS
from upstream import Upstream, asked, break_off, config_of, front, hang, running, status

TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
CALL = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "now", "arguments": '{"city": "Basel"}'},
}
FILE = """\
version: 1
experts:
  - {name: small, provider: any_llm, output_per_mtok: 10, REST}
policies:
  default: {strategy: fixed, options: {expert: small}}
"""


class Service(Upstream):
    """An upstream that leaves out nothing that any-llm checks."""

    def count(self, body: dict[str, Any], text: str) -> dict[str, int]:
        counts = super().count(body, text)
        return {**counts, "total_tokens": sum(counts.values())}


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("any_llm", reason="needs the extra any-llm")


def served(work: Any, upstream: Service, **traits: Any) -> Any:
    """Runs `work` with a client of a gateway whose expert is asked through any-llm."""

    async def run() -> Any:
        async with running(upstream):
            own = {"provider": "any_llm", "model": "vllm:small-7b", "api_key": "key-of-any"}
            entry = upstream.expert("small", **{**own, **traits})
            async with front(config_of(entry)) as client:
                return await work(client)

    return asyncio.run(run())


async def chat(client: Any, **more: Any) -> Any:
    return await client.chat.completions.create(model="auto", messages=asked(), **more)


async def pieces(client: Any, **more: Any) -> list[Any]:
    options = {"include_usage": True}
    return [c async for c in await chat(client, stream=True, stream_options=options, **more)]


def test_an_answer_arrives_whole_with_its_usage_and_its_cost() -> None:
    upstream = Service(says="it is four")
    reply = served(chat, upstream)
    assert (reply.model, reply.choices[0].message.content) == ("small", "it is four")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (5, 3)
    (body,), (headers,) = upstream.bodies, upstream.headers
    assert (body["model"], headers["Authorization"]) == ("small-7b", "Bearer key-of-any")


def test_an_answer_is_streamed_with_its_usage() -> None:
    upstream = Service(says="it is four")
    chunks = served(pieces, upstream)
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == "it is four"
    assert len([text for text in texts if text]) == 3
    assert chunks[-1].usage.completion_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
def test_tools_reach_the_model_and_their_calls_come_back(stream: bool) -> None:
    upstream = Service(says="", message={"role": "assistant", "tool_calls": [CALL]})

    async def work(client: Any) -> Any:
        if not stream:
            return (await chat(client, tools=[TOOL])).choices[0].message.tool_calls[0].function
        deltas = [c.choices[0].delta for c in await pieces(client, tools=[TOOL]) if c.choices]
        (call,) = (call for delta in deltas for call in delta.tool_calls or ())
        return call.function

    function = served(work, upstream)
    assert (function.name, json.loads(function.arguments)) == ("now", {"city": "Basel"})
    assert upstream.bodies[0]["tools"][0]["function"]["name"] == "now"


def test_options_and_limits_reach_the_model() -> None:
    upstream = Service()
    served(
        lambda client: chat(client, max_tokens=7, temperature=0.5, seed=3),
        upstream,
        options={"top_p": 0.9},
    )
    (body,) = upstream.bodies
    assert (body["temperature"], body["seed"], body["top_p"]) == (0.5, 3, 0.9)
    assert body.get("max_tokens") or body["max_completion_tokens"] == 7


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field", ["extra_headers", "extra_query", "timeout", "api_key", "top_k"])
def test_what_any_llm_does_not_name_is_not_sent_and_the_client_is_told(
    field: str, stream: bool
) -> None:
    async def work(client: Any) -> Any:
        own = {"authorization": "Bearer mine"}
        body = {"model": "auto", "messages": asked(), "stream": stream, field: own}
        return await client._client.post(f"{client.base_url}chat/completions", json=body)

    upstream = Service()
    reply = served(work, upstream)
    assert (reply.status_code, reply.headers["x-routewright-warning"]) == (
        200,
        f"not sent: {field}",
    )
    assert "mine" not in f"{upstream.bodies} {[dict(headers) for headers in upstream.headers]}"


def test_a_field_that_any_llm_does_not_know_may_stand_in_the_options() -> None:
    upstream = Service()
    served(chat, upstream, options={"extra_body": {"top_k": 5}})
    assert upstream.bodies[0]["top_k"] == 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "seen"), [(400, 400), (401, 502), (404, 502), (429, 429), (500, 502), (503, 503)]
)
def test_a_failure_has_the_status_that_it_would_have_at_openai(
    code: int, seen: int, stream: bool
) -> None:
    upstream = Service(faults=[status(code, "the words of the service")] * 9)

    async def work(client: Any) -> Any:
        with pytest.raises(openai.APIStatusError) as raised:
            await chat(client, stream=stream)
        return raised.value

    error = served(work, upstream, retries=0)
    assert (error.status_code, "the words of the service" in error.message) == (seen, True)
    assert upstream.requests == 1  # the SDK repeats nothing itself


def test_a_failure_that_may_pass_is_repeated() -> None:
    upstream = Service(faults=[status(503), status(429, Retry_After="0")])
    assert served(chat, upstream).model == "small"
    assert upstream.requests == 3


def test_a_stream_that_breaks_off_is_told() -> None:
    upstream = Service(faults=[break_off])

    async def work(client: Any) -> None:
        with pytest.raises(openai.APIError):
            await pieces(client)

    served(work, upstream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_service_that_says_nothing_is_not_waited_for(stream: bool) -> None:
    upstream = Service(faults=[hang])

    async def work(client: Any) -> Any:
        with pytest.raises(openai.APIStatusError) as raised:
            await chat(client, stream=stream)
        return raised.value

    assert served(work, upstream, timeout=0.5).status_code == 504


def test_a_service_that_is_not_there_costs_nothing() -> None:
    async def work(client: Any) -> Any:
        with pytest.raises(openai.APIStatusError) as raised:
            await chat(client)
        return raised.value

    error = served(work, Service(), base_url="http://127.0.0.1:9/v1", retries=0)
    assert (error.status_code, error.response.headers["x-routewright-cost"]) == (
        502,
        "0.0000000000",
    )
    assert "127.0.0.1" not in error.message


def test_no_key_reaches_a_client() -> None:
    upstream = Service(faults=[status(401, "the key key-of-any is not valid")])

    async def work(client: Any) -> Any:
        with pytest.raises(openai.APIStatusError) as raised:
            await chat(client)
        return raised.value.response.text

    assert "key-of-any" not in served(work, upstream)


# --- the config ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("model: small-7b", "names no service"),
        ("model: 'vlm:small-7b'", "names a service that any-llm does not have"),
        ("model: 'vllm:small', headers: {x-a: b}", "cannot be sent by any_llm"),
        ("model: 'vllm:small', proxy: 'http://127.0.0.1:3128'", "cannot be asked by a proxy"),
    ],
)
def test_what_any_llm_cannot_do_is_a_mistake(tmp_path: Path, rest: str, problem: str) -> None:
    file = tmp_path / "routewright.yaml"
    file.write_text(FILE.replace("REST", rest))
    (mistake,) = config.examine(file).mistakes
    assert problem in mistake.text(file)


def test_without_the_extra_check_says_what_to_install(tmp_path: Path) -> None:
    file = tmp_path / "routewright.yaml"
    file.write_text(FILE.replace("REST", "model: 'mistral:mistral-small-latest'"))
    program = f"""
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "any_llm":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, NotInstalled())
from pathlib import Path
from routewright import config
print(config.examine(Path({str(file)!r})).mistakes[0].text("."))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False
    )
    assert "pip install 'routewright[any-llm]'" in done.stdout, done.stderr
    assert EXTRAS["any_llm"] == "any-llm"
