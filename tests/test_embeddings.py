"""`/v1/embeddings`, as OpenAI's own client uses it."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from openai import APIStatusError
from sqlalchemy import select

from routewright.records import keys, schema
from routewright.records.keys import Budget
from routewright.records.store import Store
from upstream import Upstream, config_of, front, gateway, running, status

POLICY = {"strategy": "fixed", "options": {"expert": "chat"}}


def config(chat, vectors, **server):
    return config_of(
        chat.expert("chat"),
        vectors.expert("vectors", output_per_mtok=0.0),
        policies={"default": {**POLICY, "embeddings": "vectors"}, "plain": POLICY},
        server={"store": "none", **server},
    )


def run(steps, **server):
    """What `steps` returns, which gets a client; and the two upstreams."""
    chat, vectors = Upstream(), Upstream()

    async def all_steps():
        async with running(chat, vectors), front(config(chat, vectors, **server)) as client:
            return await steps(client, vectors)

    return asyncio.run(all_steps()), chat, vectors


@pytest.mark.parametrize("model", ["vectors", "auto", "default", "routewright/default"])
def test_texts_are_embedded_by_the_expert_that_is_named_or_that_a_policy_names(model):
    async def steps(client, vectors):
        raw = await client.embeddings.with_raw_response.create(
            model=model, input=["one two", "three"], dimensions=2
        )
        return raw.headers, raw.parse()

    (headers, reply), chat, vectors = run(steps)
    assert [row.embedding for row in reply.data] == [[7.0, 1.0], [5.0, 1.0]]
    assert reply.model == headers["x-routewright-expert"] == "vectors"
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 3
    assert float(headers["x-routewright-cost"]) == pytest.approx(3e-6)
    assert reply.speed == "fast", "a field of the upstream was dropped"
    assert chat.requests == 0
    (body,) = vectors.bodies  # OpenAI's client asks for base64, and decodes it
    assert body == {
        "model": "vectors",
        "input": ["one two", "three"],
        "dimensions": 2,
        "encoding_format": "base64",
    }


def test_tokens_are_sent_as_they_are():
    async def steps(client, vectors):
        tokens = await client.embeddings.create(
            model="vectors", input=[5, 6, 7], encoding_format="float"
        )
        lists = await client.embeddings.create(
            model="vectors", input=[[5, 6], [7]], encoding_format="float"
        )
        return len(tokens.data), len(lists.data)

    async def pretend(upstream, request, body):
        several = isinstance(body["input"][0], list)
        data = [{"embedding": [1.0]} for _ in range(len(body["input"]) if several else 1)]
        return web.json_response({"data": data})

    async def with_tokens(client, vectors):
        vectors.faults = [pretend, pretend]
        return await steps(client, vectors)

    numbers, _, vectors = run(with_tokens)
    assert numbers == (1, 2)
    assert [body["input"] for body in vectors.bodies] == [[5, 6, 7], [[5, 6], [7]]]


@pytest.mark.parametrize(
    ("body", "status_code", "message"),
    [
        ({"model": "plain", "input": "a"}, 422, "'plain' makes no embeddings: .* `embeddings:`"),
        ({"model": "nobody", "input": "a"}, 404, "'nobody' does not exist"),
        ({"model": "vectors"}, 400, "input must be a text, a list of texts or tokens, not null"),
        ({"model": "vectors", "input": []}, 400, "input must be a text"),
        ({"model": "vectors", "input": ["a", ""]}, 400, r"input\[1\] must be a text"),
        ({"model": "vectors", "input": ["a", 5]}, 400, r"input\[1\] must be .*, not 5"),
        ({"model": "vectors", "input": ["a"] * 2049}, 400, "2,049 texts: send at most 2,048"),
        ({"model": "vectors", "input": "a", "stream": True}, 400, "embeddings are not streamed"),
        (
            {"model": "vectors", "input": "a", "routewright": {"data_class": "restricted"}},
            422,
            "serves data class public, not restricted",
        ),
    ],
)
def test_mistakes_name_the_value_and_the_way_out(body, status_code, message):
    async def steps(client, vectors):
        with pytest.raises(APIStatusError, match=message) as caught:
            await client.post("/embeddings", body=body, cast_to=dict)
        return caught.value.status_code

    code, _, vectors = run(steps)
    assert code == status_code
    assert vectors.requests == 0


def test_a_failure_is_tried_again_and_no_other_model_takes_over():
    async def steps(client, vectors):
        vectors.faults = [status(503)]
        again = await client.embeddings.create(model="auto", input="a")
        vectors.faults = [status(500)] * 3
        with pytest.raises(APIStatusError) as caught:
            await client.embeddings.create(model="auto", input="a")
        return len(again.data), caught.value.status_code

    (rows, code), chat, vectors = run(steps)
    assert (rows, code) == (1, 502)
    assert (chat.requests, vectors.requests) == (0, 5)


def test_an_expert_that_makes_none_says_so():
    async def steps():
        setup = config_of(
            {"name": "echo", "provider": "echo"},
            policies={"default": {"strategy": "fixed", "options": {"expert": "echo"}}},
            server={"store": "none"},
        )
        async with gateway(setup) as url, aiohttp.ClientSession() as http:
            body = {"model": "echo", "input": "a"}
            async with http.post(f"{url}/v1/embeddings", json=body) as reply:
                return reply.status, (await reply.json())["error"]["message"]

    code, message = asyncio.run(steps())
    assert code == 422
    assert "its provider 'echo' makes no embeddings" in message


def test_a_budget_pays_for_embeddings_and_ends_them(tmp_path):
    """The reservation, the charge and the record are those of every other ask."""
    url = f"sqlite:///{tmp_path}/books.db"
    store = Store(url)
    store.prepare()
    with store.begin() as connection:
        token = keys.create(connection, "team", Budget(1e-4, None))
    chat, vectors = Upstream(), Upstream()

    async def steps():
        async with (
            running(chat, vectors),
            front(config(chat, vectors, store=url), token) as client,
        ):
            for count in range(100):
                try:
                    await client.embeddings.create(model="auto", input="one two three")
                except APIStatusError as error:
                    return count, error
        raise AssertionError("the budget never ended")

    count, error = asyncio.run(steps())
    assert error.status_code == 429
    assert "budget" in str(error)
    assert 0 < count == vectors.requests
    with store.read() as connection:
        asks = connection.execute(select(schema.asks)).all()
    assert {(ask.kind, ask.expert, ask.policy, ask.key) for ask in asks} == {
        ("embed", "vectors", "default", "team")
    }
    assert sum(ask.usd for ask in asks) == pytest.approx(3e-6 * count)
    assert 3e-6 * count <= 1e-4
    store.close()
