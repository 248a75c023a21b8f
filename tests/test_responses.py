"""OpenAI Responses through the front door: the official client, real sockets, real upstreams."""

import asyncio
import json
import math
from contextlib import asynccontextmanager
from typing import get_args

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel
from sqlalchemy import func, select

from responses_upstream import (
    USAGE,
    ResponsesUpstream,
    function_call,
    message,
    reasoning,
    responding,
)
from routewright.records import keys, responses, schema
from routewright.records.keys import Budget
from routewright.records.store import Store
from upstream import Upstream, break_off, config_of, front, running, status

KINDS = {
    name: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
    for name in get_args(model.model_fields["type"].annotation)
}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
IMAGE = "data:image/png;base64,iVBORw0KGgo="


@asynccontextmanager
async def serving(*upstreams, traits=({},), api_key="none", **sections):
    """A client of a gateway with the experts small, large, … in front of upstreams."""
    chats = [one for one in upstreams if isinstance(one, Upstream)]
    natives = [one for one in upstreams if isinstance(one, ResponsesUpstream)]
    async with running(*chats), responding(*natives):
        experts = [
            upstream.expert(name, **(traits[place] if place < len(traits) else {}))
            for place, (name, upstream) in enumerate(
                zip(("small", "large", "third"), upstreams, strict=False)
            )
        ]
        async with front(config_of(*experts, **sections), api_key) as client:
            yield client


def served(work, *upstreams, **options):
    """What `work(client)` returns."""

    async def run():
        async with serving(*upstreams, **options) as client:
            return await work(client)

    return asyncio.run(run())


def create(**options):
    """Work that asks for one response."""

    async def work(client):
        return await client.responses.create(**{"model": "auto", "input": "2 + 2?", **options})

    return work


def raw(**options):
    async def work(client):
        fields = {"model": "auto", "input": "2 + 2?", **options}
        return await client.responses.with_raw_response.create(**fields)

    return work


async def events_of(client, **options):
    """The events of a stream as they were written, each of which is one of OpenAI's models."""
    fields = {"model": "auto", "input": "2 + 2?", "stream": True, **options}
    async with client.responses.with_streaming_response.create(**fields) as reply:
        lines = [line async for line in reply.iter_lines()]
    names = [line[7:] for line in lines if line.startswith("event: ")]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        KINDS[event["type"]].model_validate(event)
    assert [e["type"] for e in events[:2]] == ["response.created", "response.in_progress"]
    ids = {event["response"]["id"] for event in events if "response" in event}
    assert len(ids) == 1
    return events


def streamed(**options):
    async def work(client):
        return await events_of(client, **options)

    return work


def kinds(events):
    return [event["type"].removeprefix("response.") for event in events]


def store_at(folder):
    return {"store": f"sqlite:///{folder}/store.db"}


def key_in(folder, name, day=None, **limits):
    store = Store(store_at(folder)["store"])
    store.prepare()
    with store.begin() as connection:
        key = keys.create(connection, name, Budget(day), **limits)
    store.close()
    return key


def sums(folder):
    """US$ of all asks, and their number."""
    store = Store(store_at(folder)["store"])
    asks = schema.asks
    with store.read() as connection:
        query = select(func.sum(asks.c.usd), func.count())
        row = connection.execute(query).one()
    store.close()
    return tuple(row)


# --- a chat expert -------------------------------------------------------------------------


def test_an_answer_names_the_expert_and_says_what_it_took():
    reply = served(raw(), Upstream(says="two and two is four"))
    response = reply.parse()
    Response.model_validate(json.loads(reply.text))
    assert (response.model, response.status) == ("small", "completed")
    assert response.output_text == "two and two is four"
    assert (response.usage.input_tokens, response.usage.output_tokens) == (3, 5)
    assert response.id == f"resp_{reply.headers['x-routewright-decision-id']}"
    assert response.routewright["path"] == "small"
    assert response.store is False  # nothing is kept without a store


def test_a_stream_has_every_event_in_openais_order():
    events = served(streamed(), Upstream(says="two words"))
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    final = events[-1]["response"]
    assert final["output"] == [events[-2]["item"]]
    assert final["output"][0]["content"][0]["text"] == "two words"
    assert final["model"] == "small"
    assert final["usage"]["total_tokens"] == 5


def test_the_clients_own_stream_helper_reads_the_stream():
    async def work(client):
        async with client.responses.stream(model="auto", input="2 + 2?") as stream:
            said = [event.delta async for event in stream if event.type.endswith("text.delta")]
            return said, await stream.get_final_response()

    said, final = served(work, Upstream(says="two words"))
    assert ("".join(said), final.output_text) == ("two words", "two words")


def test_fields_of_the_request_are_written_in_chats_words():
    upstream = Upstream()
    options = {
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "5", "annotations": []}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "And"},
                    {"type": "input_image", "image_url": IMAGE, "detail": "low"},
                ],
            },
        ],
        "temperature": 0.5,
        "max_output_tokens": 50,
        "reasoning": {"effort": "low"},
        "text": {
            "verbosity": "low",
            "format": {
                "type": "json_schema",
                "name": "sum",
                "schema": {"type": "object"},
                "strict": True,
            },
        },
        "tools": [ADD],
        "tool_choice": {"type": "function", "name": "add"},
        "parallel_tool_calls": False,
        "metadata": {"mine": "1", "max_cost": "0.5"},
        "extra_body": {"top_k": 4},
    }
    response = served(create(**options), upstream)
    (body,) = upstream.bodies
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "5"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And"},
                {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
            ],
        },
    ]
    expected = {
        "temperature": 0.5,
        "max_tokens": 50,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "sum", "schema": {"type": "object"}, "strict": True},
        },
        "tools": [
            {
                "type": "function",
                "function": {"name": "add", "parameters": {"type": "object"}, "strict": False},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
        "metadata": {"mine": "1"},
        "top_k": 4,
    }
    assert {key: body.get(key) for key in expected} == expected
    assert body.keys() == {"model", "messages", *expected}
    echo = (
        response.instructions,
        response.max_output_tokens,
        response.metadata,
        response.temperature,
    )
    assert echo == ("Be brief.", 50, {"mine": "1"}, 0.5)
    assert response.text.format.name == "sum"
    assert response.reasoning.effort == "low"


def test_a_tool_call_goes_round():
    upstream = Upstream(message={"role": "assistant", "content": None, "tool_calls": [CALL]})

    async def work(client):
        first = await client.responses.create(model="auto", input="2 + 2?", tools=[ADD])
        (call,) = first.output
        upstream.message = None
        upstream.says = "four"
        items = [
            {"role": "user", "content": "2 + 2?"},
            call.model_dump(exclude_none=True),
            {"type": "function_call_output", "call_id": call.call_id, "output": "4"},
        ]
        return call, await client.responses.create(model="auto", input=items, tools=[ADD])

    call, last = served(work, upstream)
    assert (call.type, call.name, call.arguments, call.call_id) == (
        "function_call",
        "add",
        '{"a": 2}',
        "c1",
    )
    assert last.output_text == "four"
    assert upstream.bodies[1]["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]


def test_a_streamed_tool_call_has_its_own_events():
    upstream = Upstream(says="", message={"tool_calls": [CALL]})
    events = served(streamed(tools=[ADD]), upstream)
    names = ("output_item.added", "function_call_arguments.delta")
    ends = ("function_call_arguments.done", "output_item.done", "completed")
    assert kinds(events)[2:] == [*names, *ends]
    assert events[-1]["response"]["output"][0]["arguments"] == '{"a": 2}'
    assert events[4]["arguments"] == '{"a": 2}'


PATCH = "*** Begin Patch\n*** End Patch"
APPLY = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'},
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_custom_tool_is_a_function_with_one_text_for_a_chat_expert(stream):
    arguments = json.dumps({"input": PATCH})
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "apply_patch", "arguments": arguments},
    }
    upstream = Upstream(
        says="", message={"role": "assistant", "content": None, "tool_calls": [call]}
    )
    if stream:
        events = served(streamed(tools=[APPLY]), upstream)
        names = ("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done")
        assert kinds(events)[2:] == [*names, "output_item.done", "completed"]
        item = events[-1]["response"]["output"][0]
    else:
        item = served(create(tools=[APPLY]), upstream).output[0].model_dump()
    fields = {"type": "custom_tool_call", "name": "apply_patch", "input": PATCH, "call_id": "c1"}
    assert {key: item[key] for key in fields} == fields
    (tool,) = upstream.bodies[0]["tools"]
    text = {"type": "string", "description": 'start: "x"'}
    assert tool["function"]["parameters"]["properties"] == {"input": text}


def test_the_calls_of_custom_tools_and_namespaces_come_back_as_they_were():
    space = {"type": "namespace", "name": "files", "description": "d", "tools": [ADD]}
    call = {"id": "c1", "type": "function", "function": {"name": "files__add", "arguments": "{}"}}
    upstream = Upstream(message={"role": "assistant", "content": None, "tool_calls": [call]})
    items = [
        {"role": "user", "content": "go"},
        {"type": "custom_tool_call", "call_id": "c0", "name": "apply_patch", "input": PATCH},
        {"type": "custom_tool_call_output", "call_id": "c0", "output": "done"},
        {
            "type": "function_call",
            "call_id": "c9",
            "namespace": "files",
            "name": "add",
            "arguments": "{}",
        },
        {
            "type": "function_call_output",
            "call_id": "c9",
            "output": [
                {"type": "input_text", "text": "1"},
                {"type": "input_image", "image_url": IMAGE},
            ],
        },
    ]
    response = served(create(input=items, tools=[APPLY, space]), upstream)
    (item,) = response.output
    assert (item.name, item.namespace, item.call_id) == ("add", "files", "c1")
    messages = upstream.bodies[0]["messages"]
    assert [message["role"] for message in messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "user",
    ]
    function = messages[1]["tool_calls"][0]["function"]
    assert function == {"name": "apply_patch", "arguments": json.dumps({"input": PATCH})}
    assert messages[3]["tool_calls"][0]["function"]["name"] == "files__add"
    assert messages[4]["content"] == "1"
    assert messages[5]["content"] == [{"type": "image_url", "image_url": {"url": IMAGE}}]


def test_thousands_of_calls_are_no_more_work_each_than_one():
    """If each were compared with all before it, this would take half a minute."""
    calls = [{**CALL, "id": f"c{i}"} for i in range(4000)]
    upstream = Upstream(message={"role": "assistant", "content": None, "tool_calls": calls})
    response = served(create(tools=[ADD]), upstream)
    assert [item.call_id for item in response.output] == [call["id"] for call in calls]
    assert {item.status for item in response.output} == {"completed"}


def test_a_namespace_that_is_no_text_is_none():
    upstream = Upstream(says="four")
    choice = {"type": "function", "name": "add", "namespace": 5}
    served(create(tools=[ADD], tool_choice=choice), upstream)
    assert upstream.bodies[0]["tool_choice"] == {"type": "function", "function": {"name": "add"}}


def test_structured_output_is_parsed_by_the_client():
    class Sum(BaseModel):
        value: int

    async def work(client):
        return await client.responses.parse(model="auto", input="2 + 2?", text_format=Sum)

    upstream = Upstream(says='{"value": 4}')
    assert served(work, upstream).output_parsed == Sum(value=4)
    schema = upstream.bodies[0]["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("Sum", True)


@pytest.mark.parametrize("summary", [None, "auto"])
def test_reasoning_of_a_chat_expert_is_an_item_of_its_own(summary):
    upstream = Upstream(
        message={"role": "assistant", "content": "four", "reasoning_content": "2+2"}
    )
    reasoning = {"summary": summary} if summary else {}
    response = served(create(reasoning=reasoning), upstream)
    thought, answer = response.output
    assert (thought.type, answer.content[0].text) == ("reasoning", "four")
    parts = thought.summary if summary else thought.content
    assert [part.text for part in parts] == ["2+2"]
    assert len({item.id for item in response.output}) == 2


def test_an_answer_that_was_cut_off_is_incomplete():
    async def cut(upstream, request, body):
        from aiohttp import web

        message = {"role": "assistant", "content": "fo"}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return web.json_response({"object": "chat.completion", "choices": [choice]})

    response = served(create(), Upstream(faults=[cut]))
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"


def test_what_chat_cannot_carry_is_named_in_a_header():
    tools = [ADD, {"type": "web_search"}]
    items = [
        {"role": "user", "content": "2 + 2?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "xyz"},
    ]
    upstream = Upstream()
    work = raw(input=items, tools=tools, include=["reasoning.encrypted_content"], truncation="auto")
    reply = served(work, upstream)
    assert reply.headers["x-routewright-warning"] == (
        "not sent: built-in tool web_search, truncation, include, reasoning items"
    )
    assert len(upstream.bodies[0]["tools"]) == 1


def test_only_experts_with_a_built_in_tool_are_asked_if_any_lists_it():
    plain, web = Upstream(says="plain"), ResponsesUpstream([message("web")])
    traits = ({"capabilities": ["tools"]}, {"capabilities": ["tools", "web_search"]})
    policies = {
        "default": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]}
    }
    work = create(tools=[{"type": "web_search_preview_2025_03_11"}])
    response = served(work, plain, web, traits=traits, policies=policies)
    assert (response.model, response.output_text) == ("large", "web")
    assert web.bodies[0]["tools"] == [{"type": "web_search_preview_2025_03_11"}]
    response = served(work, plain, web, traits=traits[:1], policies=policies)
    assert response.model == "small"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"background": True}, "background"),
        ({"extra_body": {"conversation": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        (
            {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
            "input[0].call_id",
        ),
        ({"input": [{"role": "user", "content": 4}]}, "input[0].content"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{}]}, "tools[0]"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"metadata": {"max_cots": "1"}}, "metadata"),
        ({"extra_body": {"data_class": "restricted"}}, "data_class"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(options, field):
    upstream = Upstream()
    with pytest.raises(openai.BadRequestError) as error:
        served(create(**options), upstream)
    assert error.value.body["param"] == field
    assert not upstream.bodies


def test_a_stream_that_breaks_ends_with_a_failure():
    events = served(streamed(), Upstream(faults=[break_off]), traits=({"retries": 0},))
    assert kinds(events)[-1] == "failed"
    assert events[-1]["response"]["status"] == "failed"
    assert "small" in events[-1]["response"]["error"]["message"]


def test_an_upstreams_error_keeps_its_words():
    with pytest.raises(openai.BadRequestError, match="no such tool"):
        served(create(), Upstream(faults=[status(400, "no such tool")]))


@pytest.mark.parametrize("stream", [False, True])
def test_a_cascade_answers_a_responses_request(stream):
    small = Upstream(
        says=lambda body: "no" if "Is this" in str(body) or "correct" in str(body) else "five"
    )
    large = Upstream(says="four")
    policies = {
        "default": {"strategy": "cascade", "options": {"ladder": ["small", "large"], "trust": 0.7}}
    }
    if stream:
        events = served(streamed(), small, large, policies=policies)
        final = Response.model_validate(events[-1]["response"])
    else:
        final = served(create(), small, large, policies=policies)
    assert (final.model, final.output_text) == ("large", "four")
    assert final.routewright["path"] == "small>verify:0.00>large"


# --- what is kept --------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return store_at(tmp_path)["store"]


def test_a_conversation_goes_on_after_a_restart(store_url):
    upstream = Upstream(says="four")
    server = {"store": store_url}
    first = served(create(instructions="Be brief."), upstream, server=server)
    assert first.store is True
    work = create(input="And 3 + 3?", previous_response_id=first.id)
    second = served(work, upstream, server=server)
    assert second.previous_response_id == first.id
    third = served(streamed(input="Why?", previous_response_id=second.id), upstream, server=server)
    assert third[-1]["response"]["previous_response_id"] == second.id
    texts = [(one["role"], one["content"]) for one in upstream.bodies[2]["messages"]]
    assert texts == [
        ("user", "2 + 2?"),
        ("assistant", "four"),
        ("user", "And 3 + 3?"),
        ("assistant", "four"),
        ("user", "Why?"),
    ]


def test_a_stored_response_can_be_read_and_deleted(tmp_path):
    async def work(client):
        made = await client.responses.create(model="auto", input="2 + 2?")
        more = await client.responses.create(
            model="auto", input="So?", previous_response_id=made.id
        )
        read = await client.responses.retrieve(made.id)
        items = [item async for item in client.responses.input_items.list(more.id, order="asc")]
        await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError) as gone:
            await client.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError) as ended:
            await client.responses.create(model="auto", input="?", previous_response_id=more.id)
        return made, read, items, gone.value, ended.value

    made, read, items, gone, ended = served(work, Upstream(says="four"), server=store_at(tmp_path))
    assert read.to_dict() == made.to_dict()
    assert [item.content[0].text for item in items] == ["2 + 2?", "four", "So?"]
    assert gone.code == "response_not_found"
    assert (ended.code, ended.param) == ("previous_response_not_found", "previous_response_id")


def test_a_conversation_lives_as_long_as_its_last_response_and_is_pruned_after_that(store_url):
    server = {"store": store_url}

    async def work(client):
        first = await client.responses.create(model="auto", input="2 + 2?")
        alone = await client.responses.create(model="auto", input="Alone.")
        last = await client.responses.create(
            model="auto", input="So?", previous_response_id=first.id
        )
        return [one.id for one in (first, alone, last)]

    first, alone, last = served(work, Upstream(), server=server)
    store = Store(store_url)
    table = schema.responses
    with store.begin() as connection:
        end = connection.scalar(select(table.c.expires_at).where(table.c.id == last))
        ends = dict(iter(connection.execute(select(table.c.id, table.c.expires_at))))
        connection.execute(table.update().where(table.c.id == alone).values(expires_at=1.0))
    assert ends == {first: end, alone: ends[alone], last: end}
    assert ends[alone] < end

    async def read(client):
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(alone)
        await client.responses.retrieve(first)

    served(read, Upstream(), server={**server, "responses": {"store": False}})
    pruned = responses.prune_all(store, -math.inf, 2.0)
    assert pruned == {"responses": 1} or pruned == {"responses": 0}  # a gateway may have done it
    with store.read() as connection:
        assert set(connection.scalars(select(table.c.id))) == {first, last}
        assert responses.prunable(connection, math.inf, 2.0) == {"responses": 2}
    assert responses.prune_all(store, math.inf, 2.0) == {"responses": 2}
    with store.read() as connection:
        assert connection.scalar(select(func.count()).select_from(schema.response_items)) == 0
    store.close()


def test_a_conversation_stays_in_its_region(tmp_path):
    near, far = Upstream(says="near"), Upstream(says="far")
    traits = ({"region": "eu"}, {"region": "us"})

    async def work(client):
        first = await client.responses.create(model="small", input="hi", metadata={"region": "eu"})
        more = {"input": "So?", "previous_response_id": first.id}
        with pytest.raises(openai.UnprocessableEntityError, match="runs in region us, not eu"):
            await client.responses.create(model="large", **more)
        with pytest.raises(openai.BadRequestError, match="eu and us"):
            await client.responses.create(model="large", metadata={"region": "us"}, **more)

    served(work, near, far, traits=traits, server=store_at(tmp_path))
    assert not far.bodies


def test_a_name_that_no_response_can_have_is_unknown(store_url):
    """PostgreSQL holds no NUL, and would fail."""

    async def work(client):
        item = [{"type": "item_reference", "id": "msg\0"}]
        for options in ({"previous_response_id": "resp\0"}, {"input": item}):
            with pytest.raises(openai.NotFoundError):
                await create(**options)(client)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp%00")

    served(work, Upstream(), server={"store": store_url})


def test_an_item_can_be_referred_to_by_its_id(tmp_path):
    upstream = Upstream(says="four")

    async def work(client):
        made = await client.responses.create(model="auto", input="2 + 2?")
        items = [
            {"role": "user", "content": "2 + 2?"},
            {"type": "item_reference", "id": made.output[0].id},
            {"role": "user", "content": "So?"},
        ]
        await client.responses.create(model="auto", input=items)
        items[1]["id"] = "msg_unknown"
        await client.responses.create(model="auto", input=items)

    with pytest.raises(openai.NotFoundError) as error:
        served(work, upstream, server=store_at(tmp_path))
    assert error.value.code == "item_not_found"
    assert upstream.bodies[1]["messages"][1] == {"role": "assistant", "content": "four"}


@pytest.mark.parametrize("configured", [False, True])
def test_only_the_key_that_made_a_response_can_use_it(tmp_path, configured):
    upstream = Upstream(says="four")
    server = store_at(tmp_path)
    if configured:
        server["api_keys"] = ["key-of-ada", "key-of-bob"]
        mine, other = server["api_keys"]
    else:
        mine, other = key_in(tmp_path, "ada"), key_in(tmp_path, "bob")
    made = served(create(), upstream, server=server, api_key=mine)

    async def steal(client):
        refusals = []
        for step in (
            client.responses.retrieve(made.id),
            client.responses.delete(made.id),
            client.responses.create(model="auto", input="?", previous_response_id=made.id),
            client.get(f"/responses/{made.id}/input_items", cast_to=dict),
            client.responses.retrieve("resp_unknown"),
        ):
            with pytest.raises(openai.NotFoundError) as error:
                await step
            refusals.append(error.value.body["message"])
        return refusals

    assert len(set(served(steal, upstream, server=server, api_key=other))) == 1

    async def read(client):
        return await client.responses.retrieve(made.id)

    assert served(read, upstream, server=server, api_key=mine).id == made.id


@pytest.mark.parametrize(
    ("options", "server"),
    [
        ({"store": False}, {}),
        ({"metadata": {"data_class": "restricted"}}, {}),
        ({}, {"responses": {"store": False}}),
    ],
)
def test_what_shall_not_be_kept_is_not(tmp_path, options, server):
    async def work(client):
        made = await client.responses.create(model="auto", input="my diagnosis", **options)
        assert made.store is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)

    traits = ({"data_classes": ["public", "restricted"]},)
    served(work, Upstream(), traits=traits, server={**store_at(tmp_path), **server})
    assert b"my diagnosis" not in (tmp_path / "store.db").read_bytes()


def test_a_conversation_with_restricted_text_stays_restricted(tmp_path):
    inside, outside = Upstream(says="inside"), Upstream(says="outside")
    traits = ({"data_classes": ["public", "restricted"]}, {"data_classes": ["public"]})
    server = {**store_at(tmp_path), "records": {"restricted": "full"}}

    async def work(client):
        def ask(model, place, **options):
            # Each in a session of its own, which would else keep the data class.
            headers = {"x-routewright-session": f"s{place}"}
            return client.responses.create(
                model=model, input=f"question {place}", extra_headers=headers, **options
            )

        first = await ask("small", 1, metadata={"data_class": "restricted"})
        with pytest.raises(openai.UnprocessableEntityError, match="not restricted"):
            await ask("large", 2, previous_response_id=first.id)
        second = await ask("small", 3, previous_response_id=first.id)
        with pytest.raises(openai.UnprocessableEntityError, match="not restricted"):
            await ask("large", 4, previous_response_id=second.id)

    served(work, inside, outside, traits=traits, server=server)
    assert not outside.bodies


def test_a_key_with_a_budget_is_charged_what_the_answer_cost(tmp_path):
    key = key_in(tmp_path, "ada", day=1.0)
    native = ResponsesUpstream()

    async def work(client):
        for model in ("small", "large"):
            await client.responses.create(model=model, input="2 + 2?", max_output_tokens=100)
            await events_of(client, model=model, max_output_tokens=100)

    served(work, Upstream(says="four"), native, server=store_at(tmp_path), api_key=key)
    usd, count = sums(tmp_path)
    assert count == 4
    assert usd == pytest.approx(2 * (3 + 2) / 1e6 + 2 * (11 + 2 * 7) / 1e6)


# --- an expert that speaks Responses -------------------------------------------------------

NATIVE = {
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]},
        {
            "type": "web_search_call",
            "id": "ws_1",
            "status": "completed",
            "action": {"type": "search"},
        },
    ],
    "instructions": "Be brief.",
    "tools": [ADD, {"type": "web_search", "search_context_size": "low"}],
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"verbosity": "low"},
    "truncation": "auto",
    "prompt_cache_key": "k",
    "store": False,
    "metadata": {"mine": "1"},
}
SEARCH = {
    "id": "ws_9",
    "type": "web_search_call",
    "status": "completed",
    "action": {"type": "search", "query": "2+2"},
}
OUTPUT = [reasoning("secret"), SEARCH, message("two and two is four"), function_call("add", "{}")]


def test_a_native_expert_gets_the_request_as_it_was_sent():
    upstream = ResponsesUpstream()
    work = raw(**NATIVE, extra_body={"new_field": {"a": 1}, "routewright": {"max_cost": 1}})
    reply = served(work, upstream)
    (body,) = upstream.bodies
    limit = body.pop("max_output_tokens")  # what US$ 1 buys
    assert 0 < limit < 500_000
    assert body == {**NATIVE, "new_field": {"a": 1}, "model": "small"}
    assert "x-routewright-warning" not in reply.headers


def test_a_native_reply_comes_back_as_it_was_written():
    upstream = ResponsesUpstream(OUTPUT, more={"new_field": {"a": [1]}})
    reply = json.loads(served(raw(**NATIVE), upstream).text)
    ours = {"id", "model", "routewright"}
    (written,) = upstream.replies
    assert {k: v for k, v in reply.items() if k not in ours} == {
        k: v for k, v in written.items() if k not in ours
    }
    assert reply["model"] == "small"
    assert reply["id"] == f"resp_{reply['routewright']['decision_id']}"


def test_native_events_come_back_as_they_were_written():
    odd = [{"type": "response.rate_limits.updated", "limits": [1]}]
    upstream = ResponsesUpstream(OUTPUT)
    events = served(streamed(**NATIVE), upstream)

    def plain(events):
        left_out = ("id", "model", "routewright")
        plain = []
        for event in events:
            event = {k: v for k, v in event.items() if k != "sequence_number"}
            if "response" in event:
                response = event["response"]
                event["response"] = {k: v for k, v in response.items() if k not in left_out}
            plain.append(event)
        return plain

    assert plain(events) == plain(upstream.events)
    assert {e["response"]["model"] for e in events if "response" in e} == {"small"}
    upstream = ResponsesUpstream(OUTPUT, odd=odd)

    async def work(client):
        stream = await client.responses.create(model="auto", input="?", stream=True)
        return [event.type async for event in stream]

    assert served(work, upstream).count("response.rate_limits.updated") == len(OUTPUT)


def test_a_native_answer_that_was_judged_is_written_as_events():
    small = ResponsesUpstream(OUTPUT[:3])
    large = Upstream(says="never")
    small.turns = [OUTPUT[:3], [message("correct")]]
    policies = {
        "default": {"strategy": "cascade", "options": {"ladder": ["small", "large"], "trust": 0.7}}
    }
    events = served(streamed(), small, large, policies=policies)
    final = events[-1]["response"]
    assert (final["model"], final["output"]) == ("small", OUTPUT[:3])
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == OUTPUT[:3]
    text = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(text) == "two and two is four"


def test_a_chat_request_reaches_a_native_expert_and_comes_back_as_chat():
    upstream = ResponsesUpstream(OUTPUT)
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "2 + 2?"},
                {"type": "image_url", "image_url": {"url": IMAGE}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]
    options = {
        "max_tokens": 9,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "seed": 3,
    }

    async def work(client):
        whole = await client.chat.completions.with_raw_response.create(
            model="auto", messages=messages, tools=[tool], **options
        )
        stream = await client.chat.completions.create(
            model="auto", messages=messages, tools=[tool], stream=True, **options
        )
        return whole, [chunk async for chunk in stream]

    whole, chunks = served(work, upstream)
    body = upstream.bodies[0]
    assert body == {
        "model": "small",
        "store": False,
        "input": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "2 + 2?"},
                    {"type": "input_image", "image_url": IMAGE},
                ],
            },
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 2}'},
            {"type": "function_call_output", "call_id": "c1", "output": "4"},
        ],
        "tools": [{"type": "function", "name": "add", "parameters": {"type": "object"}}],
        "max_output_tokens": 9,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
    }
    assert whole.headers["x-routewright-warning"] == "not sent: seed"
    completion = whole.parse()
    choice = completion.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("two and two is four", "tool_calls")
    assert choice.message.tool_calls[0].function.name == "add"
    assert choice.message.reasoning_content == "it adds"
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 7)
    assert usage.prompt_tokens_details.cached_tokens == 3
    assert usage.completion_tokens_details.reasoning_tokens == 2
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == "twoandtwoisfour"  # as its deltas were
    calls = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert calls[0][0].function.name == "add"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_encrypted_reasoning_goes_only_to_the_expert_that_made_it(tmp_path):
    small, large = ResponsesUpstream([reasoning("of small"), message("a")]), ResponsesUpstream()

    async def work(client):
        first = await client.responses.create(model="small", input="2 + 2?")
        items = [{"role": "user", "content": "2 + 2?"}, *(i.to_dict() for i in first.output)]
        again = [*items, {"role": "user", "content": "So?"}]
        headers = []
        for model in ("small", "large"):
            for options in ({"input": again}, {"input": "So?", "previous_response_id": first.id}):
                reply = await client.responses.with_raw_response.create(model=model, **options)
                headers.append(reply.headers.get("x-routewright-warning"))
        return headers

    headers = served(work, small, large, server=store_at(tmp_path))
    assert headers == [None, None, *["not sent: reasoning items of another expert"] * 2]
    for body in small.bodies[1:]:
        assert body["input"][1] == OUTPUT[0] | {"encrypted_content": "of small"}
        assert "previous_response_id" not in body
    assert all("of small" not in str(body) for body in large.bodies)
    assert [len(body["input"]) for body in large.bodies] == [3, 3]


def test_a_native_failure_is_an_error_before_the_first_word_and_an_event_after_it():
    with pytest.raises(openai.RateLimitError, match="slow down"):
        served(create(stream=True), ResponsesUpstream(fails_after=2), traits=({"retries": 0},))
    events = served(streamed(), ResponsesUpstream([message("two words")], fails_after=6))
    assert kinds(events)[-1] == "failed"
    assert events[-1]["response"]["error"]["code"] == "rate_limit_exceeded"
    events = served(streamed(), ResponsesUpstream([message("two words")], breaks_after=6))
    assert kinds(events)[-1] == "failed"


def test_another_expert_answers_if_a_native_one_fails_before_its_first_word():
    policies = {
        "default": {"strategy": "fixed", "options": {"expert": "small"}, "fallback": ["large"]}
    }
    native = ResponsesUpstream(fails_after=3)
    events = served(
        streamed(), native, Upstream(says="four"), policies=policies, traits=({"retries": 0},)
    )
    assert kinds(events)[-1] == "completed"
    assert {e["response"]["model"] for e in events if "response" in e} == {"large"}


def test_a_native_error_keeps_its_words_and_code():
    error = {
        "message": "no such tool",
        "type": "invalid_request_error",
        "code": "bad_tool",
        "param": "tools",
    }
    with pytest.raises(openai.BadRequestError, match="no such tool") as caught:
        served(create(), ResponsesUpstream(error=(400, error)))
    assert (caught.value.code, caught.value.param) == ("bad_tool", "tools")


def test_a_native_answer_that_was_cut_off_is_incomplete():
    upstream = ResponsesUpstream(incomplete="max_output_tokens")
    events = served(
        streamed(), ResponsesUpstream(status="incomplete", incomplete="max_output_tokens")
    )
    assert kinds(events)[-1] == "incomplete"
    assert served(create(), upstream).status == "incomplete"


def test_the_usage_of_a_native_expert_is_what_it_reported():
    response = served(create(), ResponsesUpstream())
    assert response.usage.to_dict() == USAGE
    assert response.routewright["cost"] == pytest.approx((11 + 2 * 7) / 1e6)
