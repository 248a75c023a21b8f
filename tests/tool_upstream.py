"""An upstream that calls each tool once, and writes JSON where a schema is requested."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from upstream import Upstream, config_of, gateway, running

ANSWER = "two and two is four"
ARGUMENTS = {"a": 2, "b": 2}
OBJECT = {"sum": 4}


@asynccontextmanager
async def before_tools(folder: Path) -> AsyncIterator[str]:
    """A gateway with the key `k1` before one expert, `small`, that calls tools; gives its URL."""
    upstream = ToolUpstream()
    async with running(upstream):
        fixed = {"strategy": "fixed", "options": {"expert": "small"}, "embeddings": "small"}
        server = {"api_keys": ["k1"], "store": f"sqlite:///{folder}/store.db"}
        expert = upstream.expert("small")
        config = config_of(expert, policies={"default": fixed}, server=server)
        async with gateway(config) as url:
            yield url


@dataclass
class ToolUpstream(Upstream):
    """Calls the first tool where a request offers one and brings no result; else it answers.

    Its answer is JSON if the request asks for it, and else names the result of the tool, if any.
    A tool `json` is how some clients request JSON.
    """

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        result = body["messages"][-1]["role"] == "tool"
        calls = bool(body.get("tools")) and not result
        self.message = _call(body["tools"][0]["function"]["name"]) if calls else None
        self.says = "" if calls else _answer(body)
        return await super().answer(request, body)


def _call(name: str) -> dict[str, Any]:
    arguments = json.dumps(OBJECT if name == "json" else ARGUMENTS)
    function = {"name": name, "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _answer(body: dict[str, Any]) -> str:
    if body.get("response_format", {}).get("type") == "json_schema":
        return json.dumps(OBJECT)
    last = body["messages"][-1]
    return f"the tool says {last['content']}" if last["role"] == "tool" else ANSWER
