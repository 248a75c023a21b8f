"""Requests as Cursor writes them, through the front door; its own servers send them."""

import asyncio
import json

import openai
import pytest

from tool_upstream import ANSWER, ToolUpstream
from upstream import config_of, front, running

PATCH = "*** Begin Patch\n*** End Patch"
READ = {
    "type": "function",
    "function": {"name": "read_file", "parameters": {"type": "object"}},
}
FLAT = {"type": "function", "name": "read_file", "parameters": {"type": "object"}}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: begin hunk end"}
APPLY = {"type": "custom", "name": "ApplyPatch", "description": "Edits.", "format": GRAMMAR}
CALLED = {"name": "ApplyPatch", "arguments": PATCH}
AGENT = {
    "model": "my-auto",
    "user": "u1",
    "input": [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
        {"type": "function_call", "call_id": "c1", **CALLED},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [FLAT, APPLY],
    "tool_choice": "auto",
    "reasoning": {"effort": "medium", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "store": False,
    "metadata": {"cursorConversationId": "1"},
    "stream_options": {"include_usage": True},
}


class Patching(ToolUpstream):
    """Calls ApplyPatch with a patch where it is offered first."""

    async def answer(self, request, body):
        function = {"name": "ApplyPatch", "arguments": json.dumps({"input": PATCH})}
        call = {"id": "call_1", "type": "function", "function": function}
        self.says, self.message = "", {"role": "assistant", "tool_calls": [call]}
        return await super(ToolUpstream, self).answer(request, body)


def served(body, upstream):
    """The reply to a chat completion request before an expert that is `upstream`."""

    async def run():
        async with running(upstream):
            fixed = {"strategy": "fixed", "options": {"expert": "small"}}
            config = config_of(upstream.expert("small"), policies={"my-auto": fixed})
            async with front(config) as client:
                reply = await client.post("/chat/completions", body=body, cast_to=dict)
                stream = await client.post(
                    "/chat/completions", body={**body, "stream": True}, cast_to=str
                )
                return reply, [
                    json.loads(line[6:])
                    for line in stream.splitlines()
                    if line.startswith("data: {")
                ]

    return asyncio.run(run())


def deltas(chunks):
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


def joined(chunks):
    """The calls of a stream: their names and arguments."""
    calls = {}
    for delta in deltas(chunks):
        for call in delta.get("tool_calls", []):
            one = calls.setdefault(call["index"], {"name": "", "arguments": ""})
            for key in one:
                one[key] += call["function"].get(key) or ""
    return list(calls.values())


def test_cursors_agent_is_answered_in_chat_completions():
    upstream = Patching()
    reply, chunks = served(AGENT, upstream)
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", CALLED)
    assert joined(chunks) == [CALLED]
    assert chunks[-1]["usage"]["prompt_tokens"] > 0
    body = upstream.bodies[0]
    assert [message["role"] for message in body["messages"]] == [
        *("system", "user", "assistant", "tool", "user")
    ]
    sent = body["messages"][2]["tool_calls"][0]["function"]
    assert json.loads(sent["arguments"]) == {"input": PATCH}
    assert [tool["function"]["name"] for tool in body["tools"]] == ["read_file", "ApplyPatch"]
    assert "begin hunk end" in json.dumps(body["tools"][1])
    assert body["reasoning_effort"] == "medium"
    assert "input" not in body


def test_cursor_may_mix_tools_of_both_kinds_with_messages():
    turn = {"role": "assistant", "content": None}
    turn["tool_calls"] = [{"id": "c1", "type": "function", "function": CALLED}]
    result = {"role": "tool", "tool_call_id": "c1", "content": "done"}
    messages = [{"role": "user", "content": "Fix it."}, turn, result]
    messages.append({"role": "user", "content": "And now?"})
    choice = {"type": "custom", "name": "ApplyPatch"}
    upstream = Patching()
    body = {"model": "my-auto", "messages": messages, "tools": [READ, APPLY], "tool_choice": choice}
    reply, chunks = served(body, upstream)
    assert reply["choices"][0]["message"]["tool_calls"][0]["function"] == CALLED
    assert joined(chunks) == [CALLED]
    body = upstream.bodies[0]
    assert body["tools"][0] == READ
    assert body["tools"][1]["type"] == "function"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "ApplyPatch"}}
    assert json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "input": PATCH
    }


def test_cursors_ask_mode_gets_a_text():
    reply, chunks = served({"model": "my-auto", "input": "What is two and two?"}, ToolUpstream())
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"]["content"] == ANSWER
    assert "".join(delta.get("content") or "" for delta in deltas(chunks)) == ANSWER


@pytest.mark.parametrize(
    "fields",
    [{"previous_response_id": "resp_1"}, {"input": [{"type": "item_reference", "id": "msg_1"}]}],
)
def test_chat_completions_refer_to_no_stored_response(fields):
    with pytest.raises(openai.BadRequestError, match="POST it to /v1/responses"):
        served({**AGENT, **fields}, ToolUpstream())
