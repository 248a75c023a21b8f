"""Anthropic's Messages through the front door: the official clients, real sockets, real servers."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anthropic_upstream import (
    SIGNATURE,
    AnthropicUpstream,
    mistake_in,
    running_anthropic,
    status,
    streamed,
    text,
    thinking,
    tool_use,
)
from routewright.errors import UpstreamError
from routewright.experts.providers import Call
from routewright.experts.providers._messages_reply import Transcript
from routewright.experts.providers._messages_request import translated
from routewright.gateway.messages_body import parse
from routewright.gateway.messages_reply import MessagesReply
from routewright.types import Decision, Expert
from upstream import Upstream, begin, break_off, config_of, gateway, running, send
from upstream import status as chat_status

TOOL = {
    "name": "read_file",
    "description": "Reads a file.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "read_file", "arguments": '{"path": "a.txt"}'},
}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
)
ASKED = {"max_tokens": 100, "messages": [{"role": "user", "content": "What is two and two?"}]}


def messages(*turns):
    return [{"role": role, "content": content} for role, content in turns]


@asynccontextmanager
async def clients(*experts, key="none", **sections):
    """The official clients of Anthropic and of OpenAI, and a plain one, before one gateway."""
    async with (
        gateway(config_of(*experts, **sections)) as url,
        anthropic.AsyncAnthropic(
            base_url=url,
            api_key=key,
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(verify=False),  # reading them takes long
        ) as client,
        openai.AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key=key,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(verify=False),
        ) as chat,
        aiohttp.ClientSession(url, headers={"x-api-key": key}) as plain,
    ):
        yield client, chat, plain


def served(work, upstream=None, traits=None, key="none", **sections):
    """Runs `work(client, chat, plain)` before an expert `small`, which is `upstream`'s."""
    upstream = upstream or Upstream()
    start = running_anthropic if isinstance(upstream, AnthropicUpstream) else running

    async def run():
        async with start(upstream):
            expert = upstream.expert("small", **(traits or {}))
            async with clients(expert, key=key, **sections) as doors:
                return await work(*doors)

    return asyncio.run(run())


def create(**options):
    options = {"model": "auto", **ASKED, **options}

    async def work(client, chat, plain):
        return await client.messages.create(**options)

    return work


def stream(**options):
    """Work that streams; returns the final message and the kinds of the events."""
    options = {"model": "auto", **ASKED, **options}

    async def work(client, chat, plain):
        async with client.messages.stream(**options) as events:
            kinds = [event.type async for event in events]
            return await events.get_final_message(), kinds

    return work


def post(path="/v1/messages", **body):
    """Work that sends a body which the official client would not; returns status, body, headers."""

    async def work(client, chat, plain):
        headers = {"anthropic-version": "2023-06-01"}
        async with plain.post(path, json={"model": "auto", **body}, headers=headers) as reply:
            return reply.status, await reply.json(), reply.headers

    return work


async def events(plain, **body):
    """The events of a stream, as they stand on the wire."""
    body = {"model": "auto", **ASKED, "stream": True, **body}
    async with plain.post("/v1/messages", json=body) as reply:
        raw = (await reply.read()).decode()
    lines = [line for line in raw.split("\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


# --- to an expert that speaks OpenAI chat ------------------------------------------------------


def test_a_message_is_answered_by_a_chat_expert():
    upstream = Upstream("four")
    reply = served(create(system="Be brief.", stop_sequences=["END"], temperature=0.5), upstream)
    assert [(block.type, block.text) for block in reply.content] == [("text", "four")]
    assert (reply.role, reply.model, reply.stop_reason) == ("assistant", "small", "end_turn")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 1)
    assert reply.id == f"msg_{reply.routewright['decision_id']}"
    (body,) = upstream.bodies
    assert body == {
        "model": "small",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is two and two?"},
        ],
        "max_tokens": 100,
        "stop": ["END"],
        "temperature": 0.5,
    }


def test_a_stream_of_a_chat_expert_has_every_event_in_its_place():
    reply, kinds = served(stream(), Upstream("two and two is four"))
    assert reply.content[0].text == "two and two is four"
    assert (reply.model, reply.stop_reason) == ("small", "end_turn")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (5, 5)
    raw = [kind for kind in kinds if kind != "text"]
    assert raw[:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert raw[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert raw.count("message_start") == raw.count("message_stop") == 1


def test_tool_calls_and_results_go_there_and_back():
    upstream = Upstream(message={"role": "assistant", "content": None, "tool_calls": [CALL]})
    reply = served(create(tools=[TOOL], tool_choice={"type": "any"}), upstream)
    assert reply.stop_reason == "tool_use"
    (block,) = reply.content
    assert (block.type, block.name, block.input) == ("tool_use", "read_file", {"path": "a.txt"})
    (body,) = upstream.bodies
    assert body["tool_choice"] == "required"
    assert body["tools"][0]["function"]["parameters"] == TOOL["input_schema"]
    image = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    parts = [text("a text"), {"type": "image", "source": image}]
    result = {"type": "tool_result", "tool_use_id": block.id, "content": parts}
    conversation = messages(
        ("user", "read it"),
        ("assistant", [text("I will."), block.model_dump()]),
        ("user", [result, text("and now?")]),
    )
    upstream.message = None
    served(create(tools=[TOOL], messages=conversation), upstream)
    assert upstream.bodies[1]["messages"] == [
        {"role": "user", "content": "read it"},
        {"role": "assistant", "content": "I will.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a text"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]


def test_a_streamed_tool_call_arrives_in_pieces_that_make_its_input():
    upstream = Upstream("", message={"role": "assistant", "content": None, "tool_calls": [CALL]})
    reply, kinds = served(stream(tools=[TOOL]), upstream)
    assert reply.content[-1].input == {"path": "a.txt"}
    assert reply.stop_reason == "tool_use"
    assert "input_json" in kinds


def test_tool_calls_whose_pieces_are_mixed_become_blocks_one_after_the_other():
    def piece(index, **function):
        id = {"id": f"c{index}"} if "name" in function else {}
        return {"tool_calls": [{"index": index, **id, "function": function}]}

    pieces = [piece(0, name="a", arguments=""), piece(1, name="b", arguments="")]
    pieces += [piece(0, arguments='{"x"'), piece(1, arguments='{"y": 2}')]
    pieces += [{"content": "between"}, piece(0, arguments=": 1}")]

    async def mixed(upstream, request, body):
        reply = await begin(request)
        for delta in pieces:
            await send(reply, delta)
        await send(reply, {}, finish_reason="tool_calls")
        await reply.write(b"data: [DONE]\n\n")
        return reply

    reply, kinds = served(stream(tools=[TOOL]), Upstream(faults=[mixed]))
    blocks = [(b.type, getattr(b, "input", None) or getattr(b, "text", "")) for b in reply.content]
    assert blocks == [("tool_use", {"x": 1}), ("tool_use", {"y": 2}), ("text", "between")]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3


@pytest.mark.parametrize("asks", [True, False])
def test_reasoning_becomes_a_thinking_block_if_the_client_thinks(asks):
    message = {"role": "assistant", "content": "four", "reasoning_content": "2 + 2"}
    options = {"thinking": {"type": "enabled", "budget_tokens": 2000}} if asks else {}
    upstream = Upstream(message=message)
    reply = served(create(**options, **{"max_tokens": 3000}), upstream)
    kinds = [block.type for block in reply.content]
    assert kinds == (["thinking", "text"] if asks else ["text"])
    assert upstream.bodies[0].get("reasoning_effort") == ("low" if asks else None)
    if asks:
        assert (reply.content[0].thinking, reply.content[0].signature) == ("2 + 2", "")


def test_what_a_chat_cannot_carry_is_named_in_a_warning():
    cached = {"cache_control": {"type": "ephemeral"}}
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    turns = messages(
        ("user", [text("hi", **cached)]),
        ("assistant", [thinking("hm"), text("yes?")]),
        ("user", "go on"),
    )
    body = {**ASKED, "messages": turns, "tools": [TOOL, search], "top_k": 5, "speed": "fast"}
    upstream = Upstream()
    code, reply, headers = served(post(**body, service_tier="standard_only"), upstream)
    assert code == 200, reply
    warning = headers["x-routewright-warning"]
    names = ("cache_control", "thinking blocks", "server tool web_search", "top_k", "speed")
    assert all(name in warning for name in (*names, "service_tier")), warning
    assert [tool["function"]["name"] for tool in upstream.bodies[0]["tools"]] == ["read_file"]
    assert set(upstream.bodies[0]) == {"model", "messages", "max_tokens", "tools"}


@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_for_the_answer_reaches_a_chat_expert(strict):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    if strict:  # as OpenAI understands it, who refuses any other as strict
        schema |= {"required": ["n"], "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}, "effort": "high"}
    upstream = Upstream('{"n": 4}')
    served(create(output_config=config), upstream)
    form = {"name": "answer", "strict": strict, "schema": schema}
    assert upstream.bodies[0]["response_format"] == {"type": "json_schema", "json_schema": form}
    assert upstream.bodies[0]["reasoning_effort"] == "high"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content[0].source"),
        ({"messages": messages(("assistant", [{"type": "tool_use"}]))}, "content[0].name"),
        ({"tools": 5}, "tools"),
        ({"tools": [5]}, "tools.0"),
        ({"system": 5}, "system"),
        ({"temperature": 2}, "temperature"),
        ({"thinking": {"budget_tokens": 5}}, "thinking.type"),
        ({"stream": "yes"}, "stream"),
        ({"anthropic_beta": [{"name": "b"}]}, "anthropic_beta"),
        ({"metadata": 5}, "metadata"),
        ({"max_cost": 5}, "max_cost"),
        ({"metadata": {"data_class": "secret"}}, "metadata.data_class"),
        ({"routewright": {"max_price": 1}}, "routewright.max_price"),
    ],
)
def test_a_request_with_a_mistake_is_refused_and_the_field_is_named(body, field):
    upstream = Upstream()
    code, reply, _ = served(post(**{**ASKED, **body}), upstream)
    assert (code, reply["type"], reply["error"]["type"]) == (400, "error", "invalid_request_error")
    assert field in reply["error"]["message"]
    assert upstream.requests == 0


def test_limits_and_the_users_id_stand_in_metadata():
    upstream, metadata = Upstream(), {"user_id": "u1", "max_cost": "0.5"}
    code, _, _ = served(post(**ASKED, metadata=metadata), upstream)
    assert code == 200
    assert upstream.bodies[0]["metadata"] == {"user_id": "u1"}
    code, reply, _ = served(post(**ASKED, routewright={"max_cost": 1e-9}), upstream)
    assert (code, reply["error"]["type"]) == (422, "invalid_request_error")


def test_an_effort_that_an_endpoint_refuses_is_named():
    refusal = chat_status(400, "Unrecognized request argument supplied: reasoning_effort")
    upstream = Upstream(faults=[refusal])
    code, _, headers = served(post(**ASKED, output_config={"effort": "high"}), upstream)
    assert code == 200
    assert "reasoning_effort" in headers["x-routewright-warning"]
    assert [body.get("reasoning_effort") for body in upstream.bodies] == ["high", None]


@pytest.mark.parametrize(
    "reason",
    [
        "System message must be at the beginning.",
        "conversation roles must alternate user/assistant",
    ],
)
def test_a_system_message_that_comes_late_is_the_users_where_an_endpoint_refuses_it(reason):
    turns = messages(("user", "hi"), ("system", "Be brief."))
    upstream = Upstream(faults=[chat_status(400, reason)])
    served(create(system="You help.", messages=turns), upstream)
    first, second = ([m["role"] for m in body["messages"]] for body in upstream.bodies)
    assert (first, second) == (["system", "user", "system"], ["system", "user"])
    assert upstream.bodies[1]["messages"][1]["content"] == "hi\n\nBe brief."


# --- to an expert that speaks Messages ---------------------------------------------------------

SEARCH = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
]
USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 100,
    "cache_creation_input_tokens": 1000,
    "output_tokens": 5,
    "service_tier": "standard",
    "server_tool_use": {"web_search_requests": 1},
}
NATIVE = {
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "max_tokens": 3000,
    "thinking": {"type": "enabled", "budget_tokens": 2000},
    "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}],
    "top_k": 5,
    "metadata": {"user_id": "u1"},
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "messages": messages(
        ("user", "hi"),
        ("assistant", [thinking("hm"), text("I look."), tool_use("read_file", path="a")]),
        (
            "user",
            [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x", "is_error": True}],
        ),
    ),
}


def native():
    says = [thinking("so"), *SEARCH, text("Done.", citations=None), tool_use("read_file", path="b")]
    return AnthropicUpstream(says, usage=USAGE, more={"container": None, "new_field": [1]})


def test_a_native_request_and_its_reply_pass_as_they_are():
    upstream = native()
    code, reply, headers = served(post(**NATIVE), upstream)
    assert code == 200, reply
    assert upstream.bodies == [{**NATIVE, "model": "claude-haiku-4-5"}]
    assert "x-routewright-warning" not in headers
    explanation = reply.pop("routewright")
    own = {"id": f"msg_{explanation['decision_id']}", "model": "small"}
    assert reply == {**upstream.sent[0], **own}
    dollars = (10 + 100 + 1000 + 5 * 2) / 1e6
    assert float(headers["x-routewright-cost"]) == pytest.approx(dollars)


def test_a_native_stream_passes_as_it_is():
    upstream = native()

    async def work(client, chat, plain):
        return await events(plain, **NATIVE)

    received = served(work, upstream)
    assert upstream.bodies == [{**NATIVE, "model": "claude-haiku-4-5", "stream": True}]
    explanation = received[-1].pop("routewright")
    start = upstream.sent[0][0]
    own = {"id": f"msg_{explanation['decision_id']}", "model": "small"}
    expected = [{**start, "message": {**start["message"], **own}}, *upstream.sent[0][1:]]
    assert received == expected


def test_the_official_client_reads_a_native_stream():
    known = {name: value for name, value in NATIVE.items() if name != "context_management"}
    reply, _ = served(stream(**known), native())
    kinds = ["thinking", "server_tool_use", "web_search_tool_result", "text", "tool_use"]
    assert [block.type for block in reply.content] == kinds
    assert reply.content[0].signature == SIGNATURE
    assert reply.content[4].input == {"path": "b"}
    assert (reply.stop_reason, reply.usage.cache_read_input_tokens) == ("tool_use", 100)


def test_betas_and_the_key_are_sent_as_headers():
    upstream = AnthropicUpstream()
    betas = {"anthropic-beta": "context-1m-2025-08-07,fine-grained-tool-streaming-2025-05-14"}
    served(create(extra_headers=betas), upstream)
    headers = upstream.headers[0]
    assert headers["anthropic-beta"] == betas["anthropic-beta"]
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant-test", "2023-06-01")
    assert "authorization" not in headers
    assert "anthropic_beta" not in upstream.bodies[0]


def test_thinking_that_nobody_signed_is_not_sent():
    upstream = AnthropicUpstream()
    turns = messages(
        ("user", "hi"),
        ("assistant", [thinking("hm", ""), text("yes?")]),
        ("user", "and"),
        ("assistant", [thinking("only", "")]),
        ("user", "go on"),
    )
    served(create(messages=turns), upstream)
    assert upstream.bodies[0]["messages"] == messages(
        ("user", "hi"), ("assistant", [text("yes?")]), ("user", "and"), ("user", "go on")
    )


def test_options_of_the_config_hold_in_the_terms_of_the_protocol():
    upstream = AnthropicUpstream()
    options = {"reasoning_effort": "low", "max_tokens": 2000, "stop": "END", "seed": 1}
    served(create(max_tokens=3000), upstream, {"options": options})
    body = upstream.bodies[0]
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert (body["max_tokens"], body["stop_sequences"]) == (2000, ["END"])
    assert "seed" not in body


def test_a_budget_limits_a_native_answer_and_its_thinking():
    upstream = AnthropicUpstream()
    body = {**ASKED, "max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 4000}}
    code, reply, headers = served(post(**body, routewright={"max_cost": 0.005}), upstream)
    assert code == 200, reply
    sent = upstream.bodies[0]
    assert 1024 < sent["max_tokens"] < 2500
    assert sent["thinking"]["budget_tokens"] == sent["max_tokens"] - 1
    assert "thinking.budget_tokens" in headers["x-routewright-warning"]


def test_a_budget_covers_what_of_a_native_request_no_chat_can_carry():
    """A block that nobody knows is sent too, and the input alone may cost more than the budget."""
    upstream = AnthropicUpstream()
    blocks = [text("What is this?"), {"type": "hologram", "data": "x" * 10_000}]
    body = {**ASKED, "messages": messages(("user", blocks))}
    code, reply, _ = served(post(**body, routewright={"max_cost": 0.005}), upstream)
    assert (code, upstream.bodies) == (422, []), reply
    assert "max_cost" in reply["error"]["message"]
    image = {"type": "image", "source": {"type": "base64", "media_type": "a/b", "data": PIXEL}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    turns = messages(("user", "2 + 2?"), ("assistant", [tool_use("f", "t")]), ("user", [result]))
    body = {**ASKED, "messages": turns}
    code, reply, _ = served(post(**body, routewright={"max_cost": 0.005}), upstream)
    assert code == 200, reply


# --- chat clients before an expert that speaks Messages ------------------------------------------


def test_a_chat_client_is_answered_by_an_expert_of_anthropic():
    upstream = AnthropicUpstream([thinking("2 + 2"), text("four")], usage=USAGE)
    question = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]

    async def work(client, chat, plain):
        return await chat.chat.completions.with_raw_response.create(
            model="auto", messages=question, temperature=1.5, seed=7, frequency_penalty=0.5
        )

    raw = served(work, upstream)
    reply = raw.parse()
    assert upstream.bodies == [
        {
            "model": "claude-haiku-4-5",
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "2 + 2?"}],
            "temperature": 1.0,
            "max_tokens": 16384,
        }
    ]
    warning = raw.headers["x-routewright-warning"]
    assert all(n in warning for n in ("seed", "frequency_penalty", "temperature above 1"))
    message = reply.choices[0].message
    assert (message.content, message.reasoning_content) == ("four", "2 + 2")
    assert message.thinking_blocks == [thinking("2 + 2")]
    assert reply.usage.prompt_tokens == 1110
    assert reply.usage.prompt_tokens_details.cached_tokens == 100


@pytest.mark.parametrize("streams", [True, False])
def test_a_chat_client_calls_the_tools_of_an_expert_of_anthropic(streams):
    says = [
        text("I look."),
        tool_use("read_file", "toolu_1", path="a"),
        tool_use("now", "toolu_2"),
    ]
    upstream = AnthropicUpstream(lambda body: [text("ok")] if len(body["messages"]) > 1 else says)
    function = {"name": "read_file", "parameters": TOOL["input_schema"]}
    tools = [{"type": "function", "function": function}]
    turns = [{"role": "user", "content": "read"}]

    async def ask(chat):
        options = {"model": "auto", "messages": turns, "tools": tools}
        if not streams:
            return (await chat.chat.completions.create(**options)).choices[0]
        async with chat.chat.completions.stream(**options) as pieces:
            return (await pieces.get_final_completion()).choices[0]

    async def work(client, chat, plain):
        first = await ask(chat)
        turns.append(first.message.model_dump(exclude_none=True))
        for call in first.message.tool_calls:
            turns.append({"role": "tool", "tool_call_id": call.id, "content": call.id})
        turns.append({"role": "user", "content": "go on"})
        return first, await ask(chat)

    first, second = served(work, upstream)
    assert first.finish_reason == "tool_calls"
    calls = [(c.function.name, json.loads(c.function.arguments)) for c in first.message.tool_calls]
    assert calls == [("read_file", {"path": "a"}), ("now", {})]
    assert second.message.content == "ok"
    results = [
        {"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": f"toolu_{n}"}
        for n in (1, 2)
    ]
    assert upstream.bodies[1]["messages"][1:] == messages(
        ("assistant", says), ("user", [*results, text("go on")])
    )


def test_images_schemas_and_efforts_of_a_chat_client_reach_an_expert_of_anthropic():
    upstream = AnthropicUpstream([text('{"n": 4}')])
    urls = (f"data:image/png;base64,{PIXEL}", "https://example.com/a.png")
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}

    async def work(client, chat, plain):
        return await chat.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": parts}],
            response_format=form,
            reasoning_effort="medium",
            stop=["END"],
            temperature=0.5,
        )

    served(work, upstream, {"model": "claude-opus-4-8"})
    body = upstream.bodies[0]
    assert [block["source"] for block in body["messages"][0]["content"]] == [
        {"type": "base64", "media_type": "image/png", "data": PIXEL},
        {"type": "url", "url": "https://example.com/a.png"},
    ]
    format = {"type": "json_schema", "schema": schema}
    assert body["output_config"] == {"format": format, "effort": "medium"}
    assert (body["thinking"], body["stop_sequences"]) == ({"type": "adaptive"}, ["END"])
    assert "temperature" not in body  # this model has none


# --- failures ----------------------------------------------------------------------------------

BUSY = status(529, "overloaded_error", "Overloaded")
MANY = status(429, "rate_limit_error", "slow down", retry_after="7")
LONG = status(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
LARGE = status(413, "request_too_large", "Request exceeds the maximum size")
WRONG = status(400, "invalid_request_error", "messages.0: unexpected `x`")
REFUSED = status(401, "authentication_error", "invalid x-api-key")


@pytest.mark.parametrize(
    ("fault", "kind", "code", "type"),
    [
        (BUSY, anthropic.InternalServerError, 503, "overloaded_error"),
        (MANY, anthropic.RateLimitError, 429, "rate_limit_error"),
        (LONG, anthropic.BadRequestError, 400, "invalid_request_error"),
        (LARGE, anthropic.RequestTooLargeError, 413, "request_too_large"),
        (WRONG, anthropic.BadRequestError, 400, "invalid_request_error"),
        (REFUSED, anthropic.InternalServerError, 502, "api_error"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
def test_a_failure_of_an_expert_is_the_exception_that_the_client_expects(
    fault, kind, code, type, streams
):
    upstream = AnthropicUpstream(faults=[fault])
    with pytest.raises(kind) as failure:
        served(stream() if streams else create(), upstream, {"retries": 0})
    assert failure.value.status_code == code
    assert failure.value.body["error"]["type"] == type
    if fault is MANY:
        assert failure.value.response.headers["retry-after"] == "7"
    if fault is LONG:
        assert failure.value.body["error"]["code"] == "context_length_exceeded"
        assert "prompt is too long" in failure.value.body["error"]["message"]


def test_a_prompt_too_long_for_a_chat_expert_is_told_in_anthropics_words():
    fault = chat_status(400, "This model's maximum context length is 4096 tokens.")
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        served(create(), Upstream(faults=[fault]))


def test_unknown_models_keys_and_sizes_are_refused_in_anthropics_shape():
    with pytest.raises(anthropic.NotFoundError) as failure:
        served(create(model="nobody"))
    assert failure.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.AuthenticationError):
        served(create(), key="wrong", server={"api_keys": ["right"]})
    served(create(), key="right", server={"api_keys": ["right"]})
    with pytest.raises(anthropic.RequestTooLargeError):
        served(create(system="x" * 2000), server={"max_body_bytes": 1000})


def test_a_passing_failure_is_tried_again():
    upstream = AnthropicUpstream(faults=[BUSY])
    assert served(create(), upstream).content[0].text == "hello there"
    assert len(upstream.bodies) == 2


START = {
    "type": "message_start",
    "message": {
        "id": "msg_upstream",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 1},
    },
}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": text("")}
PIECE = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ha"}}
FAILURE = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@pytest.mark.parametrize(
    "upstream",
    [
        AnthropicUpstream(faults=[streamed(START, BLOCK, PIECE, cut=True)]),
        AnthropicUpstream(faults=[streamed(START, BLOCK, PIECE, FAILURE)]),
        Upstream(faults=[break_off]),
    ],
    ids=["cut", "error", "chat"],
)
def test_a_stream_that_breaks_ends_with_an_error_event(upstream):
    async def work(client, chat, plain):
        upstream.faults = [faults[0]]
        received = await events(plain)
        upstream.faults = [faults[0]]
        with pytest.raises(anthropic.APIStatusError) as failure:
            async with client.messages.stream(model="auto", **ASKED) as pieces:
                await pieces.get_final_message()
        return received, failure.value.body

    faults = list(upstream.faults)
    received, body = served(work, upstream)
    kinds = [event["type"] for event in received]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "error"
    assert "message_stop" not in kinds
    assert body["error"]["type"] == "api_error"


def test_a_stream_that_breaks_costs_what_was_received_of_it(tmp_path):
    """Its first event counts one token of output, whatever follows."""
    pieces = [{**PIECE, "delta": {"type": "text_delta", "text": "x" * 40}}] * 100
    upstream = AnthropicUpstream(faults=[streamed(START, BLOCK, *pieces, cut=True)])
    boss = {"authorization": "Bearer boss"}

    async def work(client, chat, plain):
        await events(plain)
        rows = []
        while not rows:  # the record may be a moment later than the error
            async with plain.get("/admin/decisions", headers=boss) as reply:
                rows = (await reply.json())["data"]
        return rows

    server = {"store": f"sqlite:///{tmp_path}/store.db", "admin_key": "boss"}
    (row,) = served(work, upstream, {"retries": 0}, server=server)
    assert row["usd"] == pytest.approx((5 + 1000 * 2) / 1e6)
    assert row["estimated_usd"] == row["usd"]


def test_an_error_before_the_first_piece_leaves_the_answer_to_another_expert():
    first = AnthropicUpstream(faults=[streamed(START, {"type": "ping"}, FAILURE)])
    second = AnthropicUpstream([thinking("hm"), text("four")])
    third = Upstream("from a chat")

    async def run(fallback):
        first.faults = [streamed(START, {"type": "ping"}, FAILURE)]
        policy = {"strategy": "fixed", "options": {"expert": "first"}, "fallback": [fallback]}
        async with running_anthropic(first, second), running(third):
            experts = [first.expert("first", retries=0), second.expert("second")]
            experts.append(third.expert("third"))
            async with clients(*experts, policies={"default": policy}) as (_, _, plain):
                return await events(plain)

    received = asyncio.run(run("second"))
    assert [event["type"] for event in received].count("message_start") == 1
    assert received[0]["message"]["model"] == "second"
    assert received[1:-1] == second.sent[0][1:-1]
    received = asyncio.run(run("third"))
    assert received[0]["message"]["model"] == "third"
    assert [event["type"] for event in received].count("message_start") == 1


def test_events_and_blocks_that_nobody_knows_pass():
    odd = {"type": "hologram", "data": {"x": 1}}
    begin = {"type": "content_block_start", "index": 1, "content_block": odd}
    delta = {"type": "content_block_delta", "index": 1, "delta": {"type": "hologram_delta", "y": 2}}
    unknown = [{"type": "weather", "sunny": True}, begin, delta]
    ends = [
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE},
        {"type": "message_stop"},
    ]
    sent = [START, BLOCK, PIECE, {"type": "content_block_stop", "index": 0}, *unknown, *ends]
    upstream = AnthropicUpstream()

    async def work(client, chat, plain):
        upstream.faults = [streamed(*sent), streamed(*sent)]
        received = await events(plain)
        question = [{"role": "user", "content": "hi"}]
        pieces = await chat.chat.completions.create(model="auto", messages=question, stream=True)
        return received, [piece async for piece in pieces]

    received, pieces = served(work, upstream)
    assert received[1:-1] == sent[1:-1]
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    assert "".join(delta.content or "" for delta in deltas) == "ha"
    assert [odd] in [getattr(delta, "content_blocks", None) for delta in deltas]


def test_a_refusal_is_told_in_both_protocols():
    upstream = AnthropicUpstream([text("no")], stop_reason="refusal")
    assert served(create(), upstream).stop_reason == "refusal"

    async def work(client, chat, plain):
        question = [{"role": "user", "content": "hi"}]
        return await chat.chat.completions.create(model="auto", messages=question)

    assert served(work, upstream).choices[0].finish_reason == "content_filter"


# --- strategies, keys and counts -----------------------------------------------------------------


@pytest.mark.parametrize("trusted", [True, False])
def test_a_cascade_judges_an_answer_and_then_writes_it_as_it_came(trusted):
    """The small expert speaks Messages, and so does the large one; `native` of the one that is
    kept is written, as one message or as the events of a stream."""

    def says(body):
        is_check = "correct" in json.dumps(body["messages"]).lower()
        return [text("CORRECT" if trusted else "INCORRECT")] if is_check else answer

    answer = [thinking("hm"), text("two and two is five")]
    small, large = AnthropicUpstream(says, usage=USAGE), AnthropicUpstream([text("four")])
    cascade = {"strategy": "cascade", "options": {"ladder": ["small", "large"]}}

    async def run():
        async with running_anthropic(small, large):
            experts = [small.expert("small"), large.expert("large")]
            async with clients(*experts, policies={"default": cascade}) as (client, _, plain):
                whole = await client.messages.create(model="auto", **ASKED)
                received = await events(plain)
                async with client.messages.stream(model="auto", **ASKED) as pieces:
                    return whole, received, await pieces.get_final_message()

    whole, received, final = asyncio.run(run())
    assert whole.model == ("small" if trusted else "large")
    blocks = [block.model_dump(exclude={"parsed_output"}) for block in final.content]
    assert [block.model_dump() for block in whole.content] == blocks
    assert [block.type for block in whole.content] == (
        ["thinking", "text"] if trusted else ["text"]
    )
    kinds = [event["type"] for event in received]
    assert kinds.count("message_start") == kinds.count("message_stop") == 1
    if trusted:
        assert whole.content[0].signature == final.content[0].signature == SIGNATURE
        assert final.usage.cache_read_input_tokens == 100
        assert "verify" in received[-1]["routewright"]["path"]


def test_a_key_with_a_budget_is_charged_what_the_answer_cost(tmp_path):
    upstream = AnthropicUpstream([text("four")], usage=USAGE)
    server = {"store": f"sqlite:///{tmp_path}/store.db", "admin_key": "boss"}
    prices = {"cached_input_per_mtok": 0.1, "cache_write_per_mtok": 1.25}

    async def work(client, chat, plain):
        boss = {"authorization": "Bearer boss"}
        body = {"name": "ann", "budget": {"day": 0.01}}
        async with plain.post("/admin/keys", json=body, headers=boss) as reply:
            key = (await reply.json())["key"]
        client = client.with_options(api_key=key)
        raw = await client.messages.with_raw_response.create(model="auto", **ASKED)
        async with client.messages.stream(model="auto", **ASKED) as pieces:
            await pieces.get_final_message()
        async with plain.get("/admin/decisions", headers=boss) as reply:
            rows = (await reply.json())["data"]
        async with plain.get("/admin/spend", headers=boss) as reply:
            return raw.headers, rows, await reply.json()

    headers, rows, spend = served(work, upstream, prices, server=server)
    dollars = (10 + 100 * 0.1 + 1000 * 1.25 + 5 * 2) / 1e6
    assert float(headers["x-routewright-cost"]) == pytest.approx(dollars)
    assert [row["usd"] for row in rows] == [pytest.approx(dollars)] * 2
    assert [(row["input_tokens"], row["output_tokens"]) for row in rows] == [(1110, 5)] * 2
    assert spend["total_usd"] == pytest.approx(2 * dollars)


def test_a_tool_loop_goes_on_with_its_expert_whatever_its_calls_are_named():
    """Ids as Kimi writes them have signs that Anthropic's do not have."""
    call = {**CALL, "id": "functions.read_file:0"}
    small = Upstream(message={"role": "assistant", "content": None, "tool_calls": [call]})
    large = Upstream("done")
    session = {"x-routewright-session": "s1"}

    async def run():
        policy = {"strategy": "fixed", "options": {"expert": "large"}, "fallback": ["small"]}
        async with running(small, large):
            experts = [small.expert("small"), large.expert("large")]
            async with clients(*experts, policies={"default": policy}) as (client, _, _):
                ask = {**ASKED, "tools": [TOOL], "extra_headers": session}
                first = await client.messages.create(model="small", **ask)
                await client.messages.create(model="large", **ask)
                result = {"type": "tool_result", "tool_use_id": first.content[0].id}
                blocks = [block.model_dump() for block in first.content]
                ask["messages"] = [
                    *ASKED["messages"],
                    *messages(("assistant", blocks), ("user", [{**result, "content": "x"}])),
                ]
                return (await client.messages.create(model="auto", **ask)).model

    assert asyncio.run(run()) == "small"


def count(**options):
    options = {"model": "auto", "messages": ASKED["messages"], **options}

    async def work(client, chat, plain):
        return await client.messages.with_raw_response.count_tokens(**options)

    return work


def test_tokens_are_counted_by_an_expert_that_speaks_the_protocol():
    upstream = AnthropicUpstream()
    raw = served(count(tools=[TOOL], system="Be brief."), upstream)
    assert raw.parse().input_tokens == 321
    assert "x-routewright-estimated" not in raw.headers
    sent = {"model": "claude-haiku-4-5", "system": "Be brief.", "tools": [TOOL]}
    assert upstream.counted == [{**sent, "messages": ASKED["messages"]}]
    assert upstream.bodies == []


@pytest.mark.parametrize("why", ["chat", "failure", "class"])
def test_tokens_are_estimated_where_nobody_can_or_may_count_them(why, caplog):
    upstream = Upstream() if why == "chat" else AnthropicUpstream(faults=[BUSY])
    extra = {"metadata": {"data_class": "restricted"}} if why == "class" else {}
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    options = {"messages": messages(("user", [text("x" * 400), image])), "tools": [TOOL]}
    with caplog.at_level("INFO"):
        raw = served(count(**options, extra_body=extra), upstream)
    assert raw.headers["x-routewright-estimated"] == "true"
    assert 2100 < raw.parse().input_tokens < 2200
    assert len(getattr(upstream, "counted", ())) == (why == "failure")
    assert '"event": "decision"' not in caplog.text


def test_nobody_counts_tokens_of_a_restricted_session_who_may_not_read_it():
    upstream, inside = AnthropicUpstream(), Upstream()
    session = {"x-routewright-session": "s1"}

    async def run():
        async with running_anthropic(upstream), running(inside):
            experts = [upstream.expert("out"), inside.expert("in", data_classes=["restricted"])]
            policy = {"strategy": "fixed", "options": {"expert": "out"}, "fallback": ["in"]}
            async with clients(*experts, policies={"default": policy}) as (client, _, _):
                own = {"data_class": "restricted"}
                await client.messages.create(
                    model="in", **ASKED, extra_headers=session, extra_body={"routewright": own}
                )
                return await count(extra_headers=session)(client, None, None)

    raw = asyncio.run(run())
    assert raw.headers["x-routewright-estimated"] == "true"
    assert upstream.counted == []


def test_counting_needs_a_key_like_the_rest():
    with pytest.raises(anthropic.AuthenticationError):
        served(count(), key="wrong", server={"api_keys": ["right"]})


# --- translations there and back -----------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
IDS = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
ARGUMENTS = st.dictionaries(WORDS, WORDS | st.integers(-5, 5) | st.booleans(), max_size=3)


@st.composite
def conversations(draw):
    """Chat messages in an order that every chat may have."""
    turns = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(WORDS)})
        ids = draw(st.lists(IDS, max_size=2, unique=True))
        calls = [
            {
                "id": id,
                "type": "function",
                "function": {"name": draw(IDS), "arguments": json.dumps(draw(ARGUMENTS))},
            }
            for id in ids
        ]
        said = draw(WORDS | st.none()) if calls else draw(WORDS)
        answer = {"role": "assistant", "content": said}
        turns.append({**answer, "tool_calls": calls} if calls else answer)
        turns += [{"role": "tool", "tool_call_id": id, "content": draw(WORDS)} for id in ids]
    return [*turns, {"role": "user", "content": draw(WORDS)}]


def canonical(turns):
    """The turns with the arguments of calls as objects, whose spelling may differ."""
    read = json.loads(json.dumps(turns))
    for turn in read:
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return read


@given(conversations(), st.integers(1, 1000), st.floats(0, 1), st.lists(WORDS, max_size=2))
def test_a_chat_translated_there_and_back_is_the_same(turns, limit, temperature, stop):
    options = {"max_tokens": limit, "temperature": temperature, **({"stop": stop} if stop else {})}
    request, lost = translated({"messages": turns, **options}, "claude-haiku-4-5")
    assert lost == ()
    assert mistake_in({"model": "m", **request}) is None
    query = parse(request, "public").query
    assert canonical(query.messages) == canonical(turns)
    assert query.options == options
    assert query.native.lost == ()
    assert query.native.body == request


SCALARS = st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS | st.sampled_from([text("a"), thinking("b"), tool_use("c"), {"type": "text_delta"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                *("message_start", "content_block_start", "content_block_delta"),
                *("content_block_stop", "message_delta", "message_stop", "message", "ping"),
                *("other", "error"),
            ]
        )
    },
    optional={
        **dict.fromkeys(("index", "content_block", "message", "usage", "content"), VALUES),
        "delta": VALUES | st.dictionaries(st.sampled_from(["type", "text", "stop_reason"]), VALUES),
    },
)


@given(st.lists(EVENTS, max_size=8), st.booleans())
def test_no_event_of_an_upstream_breaks_the_reader(stream, is_native):
    """Whatever it reads, it reads an answer or raises UpstreamError; so does the writer."""
    native = {"messages": []} if is_native else None
    call = Call(Expert("small", provider="anthropic"), {"messages": []}, native=native)
    transcript = Transcript(call)
    request = parse({**ASKED, "stream": True}, "public")
    reply_format = MessagesReply("d", request)
    try:
        pieces = [delta for event in stream for delta in transcript.feed(event)]
        last, answer = transcript.last(), transcript.answer()
    except UpstreamError:
        return
    if not transcript.is_complete(True):
        return
    written = [part for piece in pieces for part in reply_format.piece(piece)]
    written += reply_format.end(Decision(answer), last, {})
    names = [part.split(b"\n")[0] for part in written]
    assert names.count(b"event: message_start") == 1
    assert names.count(b"event: message_stop") == 1
    MessagesReply("d", request).whole(Decision(answer), {})
