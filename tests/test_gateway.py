"""The gateway through the front door: the official client, a real socket, real upstreams."""

import asyncio
import json
import logging

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from upstream import Upstream, asked, begin, config_of, front, running, send, status, until

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def served(work, *upstreams, traits=({},), api_key="none", **sections):
    """Runs `work(client)` against a gateway with experts small, large, … in front of upstreams."""

    async def run():
        async with running(*upstreams):
            names = ("small", "large", "third")
            experts = [
                upstream.expert(name, **(traits[place] if place < len(traits) else {}))
                for place, (name, upstream) in enumerate(zip(names, upstreams, strict=False))
            ]
            async with front(config_of(*experts, **sections), api_key) as client:
                return await work(client)

    return asyncio.run(run())


def create(model="auto", **options):
    """Work that asks for one completion."""
    options.setdefault("messages", asked())

    async def work(client):
        return await client.chat.completions.create(model=model, **options)

    return work


def raw(model="auto", **options):
    """The same, with the headers."""
    options.setdefault("messages", asked())

    async def work(client):
        return await client.chat.completions.with_raw_response.create(model=model, **options)

    return work


def post(path, body, **headers):
    """Work that sends a body which the official client would not."""

    async def work(client):
        options = {"headers": headers}
        return await client.post(path, cast_to=dict, body=body, options=options)

    return work


def pieces(model="auto", **options):
    options.setdefault("messages", asked())

    async def work(client):
        stream = await client.chat.completions.create(model=model, stream=True, **options)
        return [piece async for piece in stream]

    return work


# --- answers -------------------------------------------------------------------------------


def test_an_answer_names_the_expert_and_says_what_it_took():
    reply = served(raw(), Upstream(says="four"))
    completion = reply.parse()
    assert completion.model == "small"
    assert completion.choices[0].message.content == "four"
    assert completion.usage.prompt_tokens == 5
    headers = {key: reply.headers[f"x-routewright-{key}"] for key in ("expert", "policy", "path")}
    assert headers == {"expert": "small", "policy": "default", "path": "small"}
    assert float(reply.headers["x-routewright-cost"]) == pytest.approx((5 + 2) / 1e6)
    assert 0 <= float(reply.headers["x-routewright-overhead-ms"]) < 1000
    assert reply.headers["x-routewright-decision-id"] in completion.id


def test_a_stream_keeps_one_id_and_one_model_and_adds_nothing_to_the_text():
    chunks = served(pieces(), Upstream(says="one two three"))
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.model for chunk in chunks} == {"small"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].routewright["path"] == "small"


def test_a_stream_that_is_passed_on_as_it_is_written_says_so():
    reply = served(raw(stream=True), Upstream(says="one two three"))
    assert reply.headers["x-routewright-streamed"] == "true"


def test_a_stream_counts_tokens_when_asked_to():
    upstream = Upstream(says="one two three")
    chunks = served(pieces(stream_options={"include_usage": True}), upstream)
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.completion_tokens, chunks[-1].usage.prompt_tokens) == (3, 5)
    assert chunks[-1].usage.cost == pytest.approx((5 + 6) / 1e6)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_arrives_piece_by_piece():
    """The upstream writes a word only once the client has read the one before."""
    told, read = [], []

    async def waiting(upstream, request, body):
        reply = await begin(request)
        for word in ("one", " two", " three"):
            await until(lambda: read == told)
            told.append(word)
            await send(reply, {"content": word})
        await send(reply, {}, finish_reason="stop")
        return reply

    async def work(client):
        stream = await client.chat.completions.create(model="auto", messages=asked(), stream=True)
        async for piece in stream:
            read.extend(filter(None, [piece.choices[0].delta.content]))

    served(work, Upstream(faults=[waiting]))
    assert read == ["one", " two", " three"]


def test_tool_calls_pass_both_ways():
    upstream = Upstream(message={"role": "assistant", "content": None, "tool_calls": [CALL]})
    history = [*asked(), {"role": "assistant", "tool_calls": [CALL]}]
    history += [{"role": "tool", "tool_call_id": "c1", "content": "4"}]
    traits = ({"capabilities": ["tools"]},)
    answer = served(create(messages=history, tools=TOOLS), upstream, traits=traits)
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"a": 2}'
    assert upstream.bodies[0]["tools"] == TOOLS
    assert upstream.bodies[0]["messages"] == history


@pytest.mark.parametrize("policy", ["fixed", "cascade"])
def test_tool_calls_pass_in_streams(policy):
    upstream = Upstream(
        says="correct", message={"role": "assistant", "content": None, "tool_calls": [CALL]}
    )
    large = Upstream(says="correct")
    policies = {
        "fixed": {"strategy": "fixed", "options": {"expert": "small"}},
        "cascade": {"strategy": "cascade", "options": {"ladder": ["small"]}},
    }
    traits = ({"capabilities": ["tools"]},)
    chunks = served(pieces(policy, tools=TOOLS), upstream, large, traits=traits, policies=policies)
    calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls] == [(0, "add")]


def test_logprobs_pass():
    token = {"token": "four", "logprob": -0.1, "bytes": None, "top_logprobs": []}

    async def with_logprobs(upstream, request, body):
        from aiohttp import web

        assert body["logprobs"] is True
        message = {"role": "assistant", "content": "four"}
        choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": [token]}}
        return web.json_response({"choices": [choice]})

    answer = served(create(logprobs=True), Upstream(faults=[with_logprobs]))
    assert answer.choices[0].logprobs.content[0].logprob == -0.1
    assert not hasattr(answer.choices[0].message, "logprobs")


def test_what_is_ours_does_not_travel_upstream():
    upstream = Upstream()
    limits = {"routewright": {"max_cost": 0.01, "domain": "maths"}}
    metadata = {"team": "a", "data_class": "public"}
    served(create(metadata=metadata, extra_body=limits), upstream, api_key="mine")
    assert not {"routewright", "stream"} & upstream.bodies[0].keys()
    assert upstream.bodies[0]["metadata"] == {"team": "a"}
    served(create(metadata={"data_class": "public"}), upstream)
    assert "metadata" not in upstream.bodies[1]
    assert "Authorization" not in upstream.headers[0]


# --- model names ---------------------------------------------------------------------------

TWO = {
    "cheap": {"strategy": "fixed", "options": {"expert": "small"}},
    "best": {"strategy": "fixed", "options": {"expert": "large"}},
}


@pytest.mark.parametrize(
    ("model", "expert", "policy"),
    [
        ("auto", "small", "cheap"),
        ("routewright/auto", "small", "cheap"),
        ("best", "large", "best"),
        ("routewright/best", "large", "best"),
        ("large", "large", "direct"),
    ],
)
def test_model_names(model, expert, policy):
    reply = served(raw(model), Upstream(), Upstream(), policies=TWO)
    headers = reply.headers
    assert headers["x-routewright-expert"] == expert
    assert headers["x-routewright-policy"] == policy


def test_without_a_model_the_default_policy_decides():
    reply = served(
        post("/chat/completions", {"messages": asked()}), Upstream(), Upstream(), policies=TWO
    )
    assert reply["model"] == "small"


def test_an_unknown_model_is_404_and_names_those_that_exist():
    with pytest.raises(openai.NotFoundError, match="routewright/best") as error:
        served(create("gpt-9"), Upstream(), Upstream(), policies=TWO)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_models_lists_policies_before_experts():
    async def work(client):
        return [model.id async for model in client.models.list()]

    assert served(lambda client: client.models.retrieve("small"), Upstream()).id == "small"
    names = served(work, Upstream(), Upstream(), policies=TWO)
    assert names == ["auto", "routewright/cheap", "routewright/best", "small", "large"]


# --- explanations ------------------------------------------------------------------------


def test_debug_tells_why_each_expert_was_kept_or_rejected():
    traits = ({}, {"data_classes": ["internal"]})
    headers = {"x-routewright-debug": "true"}
    answer = served(create(extra_headers=headers), Upstream(), Upstream(), traits=traits)
    rows = {row["name"]: row["reason"] for row in answer.routewright["experts"]}
    assert rows == {"small": None, "large": "serves data class internal, not public"}


def test_route_explains_without_asking_anybody():
    upstream = Upstream()
    traits = ({}, {"data_classes": ["internal"]})
    reply = served(post("/route", {"messages": asked()}), upstream, Upstream(), traits=traits)
    assert reply["first_asks"] == [{"expert": "small", "kind": "answer", "final": True}]
    assert [row["admissible"] for row in reply["experts"]] == [True, False]
    assert upstream.requests == 0


def test_the_log_has_one_line_per_decision_and_no_text(caplog):
    caplog.set_level(logging.INFO, "routewright")
    served(create(messages=asked("my secret wish")), Upstream(says="private reply"))
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("routewright")]
    told = json.loads(line)
    assert (told["status"], told["expert"], told["path"]) == ("ok", "small", "small")
    assert "secret" not in line
    assert "private" not in line


def test_whatever_an_expert_writes_gets_through():
    text = "a\ud800b 汉字 \u2028 </s>"
    assert served(create(), Upstream(says=text)).choices[0].message.content == text
    chunks = served(pieces(), Upstream(says=text))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def got(path):
    """Work that fetches an address outside /v1."""

    async def work(client):
        url = str(client.base_url).removesuffix("v1/") + path
        return await client._client.get(url, headers={"authorization": f"Bearer {client.api_key}"})

    return work


def test_metrics_count_what_was_asked_and_paid_check_included():
    policies = {"up": {"strategy": "cascade", "options": {"ladder": ["small", "large"]}}}

    async def work(client):
        whole = await raw("up")(client)
        streamed = (await pieces("up")(client))[-1].routewright["cost"]
        cost = float(whole.headers["x-routewright-cost"]) + streamed
        return cost, (await got("metrics")(client)).text

    small, large = Upstream(says="incorrect"), Upstream()
    cost, text = served(work, small, large, policies=policies)
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    seen = {sample.name + str(sorted(sample.labels.values())): sample.value for sample in samples}
    assert seen["routewright_decisions_total['ok', 'up']"] == 2
    assert seen["routewright_answers_total['large', 'up']"] == 2
    assert seen["routewright_asks_total['ok', 'small', 'verify']"] == 2
    assert seen["routewright_request_seconds_count['up']"] == 2
    told = sum(v for name, v in seen.items() if name.startswith("routewright_cost_usd_total"))
    assert told == pytest.approx(cost)


def test_metrics_count_failures_and_say_nothing_of_the_text():
    async def work(client):
        with pytest.raises(openai.APIStatusError):
            await create(messages=asked("my secret wish"))(client)
        return (await got("metrics")(client)).text

    text = served(work, Upstream(faults=[status(500)]), traits=({"retries": 0},))
    assert 'routewright_asks_total{expert="small",kind="answer",outcome="failed"} 1.0' in text
    assert 'status="UpstreamError"' in text
    assert "secret" not in text


def test_metrics_need_a_key_where_there_are_keys_and_readiness_needs_none():
    keys = {"api_keys": ["mine"]}
    assert served(got("metrics"), Upstream(), server=keys).status_code == 401
    assert served(got("metrics"), Upstream(), server=keys, api_key="mine").status_code == 200
    assert served(got("ready"), Upstream(), server=keys).json() == {"status": "ready"}
