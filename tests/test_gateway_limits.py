"""What the gateway refuses, and how it says so."""

import asyncio
import json

import openai
import pytest

from test_gateway import TOOLS, create, post, served
from upstream import Upstream, asked, config_of, gateway, running


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_class", "secret"),
        ("data_class", "Restricted"),
        ("max_cost", -1),
        ("max_cost", True),
        ("max_cost", "much"),
        ("min_quality", 2),
        ("max_latency_ms", 0),
        ("lambda", -0.1),
        ("region", ""),
        ("tags", "maths"),
        ("dataclass", "restricted"),
    ],
)
def test_a_limit_that_is_not_understood_is_refused_by_name_and_value(field, value):
    upstream = Upstream()
    with pytest.raises(openai.BadRequestError) as error:
        served(create(extra_body={"routewright": {field: value}}), upstream)
    assert error.value.param == f"routewright.{field}"
    assert json.dumps(value) in error.value.message
    assert upstream.requests == 0


@pytest.mark.parametrize(
    "metadata",
    [{"data_class": "secret"}, {"data-class": "restricted"}, {"dataClass": "restricted"}],
)
def test_a_misspelt_limit_in_the_metadata_is_refused_too(metadata):
    upstream = Upstream()
    with pytest.raises(openai.BadRequestError, match="data_class"):
        served(create(metadata=metadata), upstream)
    assert upstream.requests == 0


@pytest.mark.parametrize(
    "astray",
    [
        {"extra_body": {"data_class": "restricted"}},
        {"extra_body": {"max_cost": 1}},
        {"extra_body": {"extra_body": {"data_class": "restricted"}}},
        {"metadata": {"routewright": '{"data_class": "restricted"}'}},
    ],
)
def test_a_limit_that_stands_where_nobody_reads_it_is_refused(astray):
    upstream = Upstream()
    with pytest.raises(openai.BadRequestError, match="metadata"):
        served(create(**astray), upstream)
    assert upstream.requests == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataClass", "restricted"),
        ("DATA-CLASS", "restricted"),
        ("data_clas", "restricted"),
        ("Region", "eu"),
        ("maxCost", 1),
        ("routeWright", {"data_class": "restricted"}),
        ("route_wright", {"data_class": "restricted"}),
        ("routewrite", {"data_class": "restricted"}),
        ("Metadata", {"data_class": "restricted"}),
        ("metadata", {"Routewright": "restricted"}),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_limit_that_is_misspelt_anywhere_is_refused(field, value, nested):
    upstream = Upstream()
    extra = {"extra_body": {field: value}} if nested else {field: value}
    with pytest.raises(openai.BadRequestError) as error:
        served(create(extra_body=extra), upstream)
    assert field in error.value.message
    assert upstream.requests == 0


def test_fields_of_other_vendors_are_no_misspelt_limits():
    fields = """temperature top_p top_k min_p max_tokens max_completion_tokens user seed stop store
        logit_bias logprobs top_logprobs presence_penalty frequency_penalty
        reasoning_effort service_tier tool_choice parallel_tool_calls prediction
        modalities audio verbosity safety_identifier prompt_cache_key web_search_options
        reasoning thinking plugins provider models route transforms repetition_penalty
        guided_json chat_template_kwargs min_tokens best_of ignore_eos priority
        safety_settings cached_content extra_headers keep_alive options format domain
        tags timeout num_retries fallbacks caching mock_response guardrails
        enable_thinking search_domain return_citations random_seed safe_prompt
        prompt_mode disable_search origin labels"""
    upstream = Upstream()
    sent = dict.fromkeys(fields.split(), "x") | {"max_tokens": 9, "max_completion_tokens": 9}
    served(create(extra_body=sent), upstream)
    assert sent.keys() - {"max_completion_tokens"} <= upstream.bodies[0].keys()


def test_an_extra_body_in_the_body_is_unpacked_as_the_official_client_does_it():
    upstream = Upstream()
    limits = {"routewright": {"data_class": "restricted"}, "top_k": 3}
    with pytest.raises(openai.UnprocessableEntityError):
        served(create(extra_body={"extra_body": limits}), upstream)
    assert upstream.requests == 0
    served(create(extra_body={"extra_body": {"top_k": 3}}), upstream)
    assert upstream.bodies[0]["top_k"] == 3
    assert "extra_body" not in upstream.bodies[0]
    with pytest.raises(openai.BadRequestError, match=r"top_k and extra_body.top_k differ"):
        served(create(extra_body={"top_k": 1, "extra_body": {"top_k": 3}}), upstream)


def test_limits_in_the_metadata_are_strings():
    upstream = Upstream()
    limits = {"max_cost": "0.01", "data_class": "public", "tags": "a, b", "user": "me"}
    assert served(create(metadata=limits), upstream).model == "small"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0]"),
        ({"messages": asked(), "n": 2}, "n"),
        ({"messages": asked(), "max_tokens": 0}, "max_tokens"),
        ({"messages": asked(), "stream": "yes"}, "stream"),
        ({"messages": asked(), "model": 7}, "model"),
        ({"messages": asked(), "routewright": "cheap"}, "routewright"),
    ],
)
def test_a_malformed_request_is_400_and_names_the_field(body, param):
    with pytest.raises(openai.BadRequestError) as error:
        served(post("/chat/completions", body), Upstream())
    assert error.value.param == param


HALF = rb'{"messages": [{"role": "user", "content": "\ud800"}]}'  # of a surrogate pair


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b'{"messages": NaN}', HALF, b"\xff", b"[" * 100_000]
)
def test_a_body_that_is_no_json_object_is_400(content):
    async def work(client):
        url = f"{client.base_url}chat/completions"
        return await client._client.post(url, content=content)

    assert served(work, Upstream()).status_code == 400


def test_a_body_that_is_too_large_is_413():
    with pytest.raises(openai.APIStatusError) as error:
        served(create(messages=asked("x" * 2000)), Upstream(), server={"max_body_bytes": 1000})
    assert error.value.status_code == 413


def test_where_nobody_may_answer_each_experts_reason_is_told():
    traits = ({"region": "us"}, {"data_classes": ["internal"], "region": "eu"})
    limits = {"routewright": {"region": "eu"}}
    with pytest.raises(openai.UnprocessableEntityError) as error:
        served(create(extra_body=limits), Upstream(), Upstream(), traits=traits)
    assert error.value.code == "no_admissible_expert"
    assert error.value.body["rejected"] == {
        "small": "runs in region us, not eu",
        "large": "serves data class internal, not public",
    }


@pytest.mark.parametrize(
    ("options", "lacks"),
    [
        ({"tools": TOOLS}, "tools"),
        ({"response_format": {"type": "json_object"}}, "json"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ]
            },
            "vision",
        ),
    ],
)
def test_needs_are_seen_in_the_request(options, lacks):
    upstream = Upstream()
    with pytest.raises(openai.UnprocessableEntityError, match=f"lacks {lacks}"):
        served(create(**options), upstream, traits=({"capabilities": []},))
    assert upstream.requests == 0


def test_min_quality_without_predictions_is_refused_rather_than_ignored():
    with pytest.raises(openai.BadRequestError, match="predicts no quality"):
        served(create(extra_body={"routewright": {"min_quality": 0.5}}), Upstream())


def test_max_cost_holds_at_the_gateway():
    limits = {"routewright": {"max_cost": 3e-4}}
    answer = served(create(extra_body=limits), Upstream(says="word " * 1000))
    assert 1e-4 < answer.usage.cost <= 3e-4


KEYS = {"api_keys": ["key-one", "key-two"]}


def test_a_valid_key_is_let_in():
    assert served(create(), Upstream(), api_key="key-two", server=KEYS).model == "small"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/route"])
def test_without_a_valid_key_nothing_is_answered(path):
    async def work(client):
        url = str(client.base_url).replace("/v1/", path)
        method = "GET" if path.endswith("models") else "POST"
        return await client._client.request(
            method, url, headers={"Authorization": "Bearer key-on"}, json={}
        )

    reply = served(work, Upstream(), server=KEYS)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"


def test_an_address_that_does_not_exist_is_an_openai_error():
    with pytest.raises(openai.NotFoundError, match="/v1/nowhere"):
        served(post("/nowhere", {}), Upstream())


def test_health_needs_no_key_and_the_request_id_comes_back():
    async def run():
        import aiohttp

        async with running(upstream := Upstream()):
            config = config_of(upstream.expert("small"), server=KEYS)
            async with gateway(config) as url, aiohttp.ClientSession() as session:
                headers = {"x-request-id": "mine-1"}
                async with session.get(f"{url}/health", headers=headers) as reply:
                    return reply.status, reply.headers["x-request-id"]

    assert asyncio.run(run()) == (200, "mine-1")
