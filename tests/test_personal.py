"""Personal data in a prompt makes it restricted; nothing makes a prompt less so."""

from __future__ import annotations

import asyncio

import pytest
from openai import APIStatusError

import extras
from routewright.errors import BadInput
from upstream import Upstream, asked, config_of, front, running

extras.require("presidio_analyzer", "the extra `pii` is not installed")

CARD = "Pay with 4111 1111 1111 1111, please."


def config(cloud, own, **pii):
    return config_of(
        cloud.expert("cloud", data_classes=["public", "internal"]),
        own.expert("own", data_classes=["public", "internal", "restricted"]),
        policies={
            "default": {
                "strategy": "fixed",
                "options": {"expert": "cloud"},
                "fallback": ["own"],
            }
        },
        server={"store": "none", "pii": pii},
    )


def test_who_gets_which_text():
    cloud, own = Upstream(), Upstream()
    texts = {
        "What is 2 + 2? 1234567": "cloud",
        CARD: "own",
        "Write to ada@example.com about it.": "own",
        "My account is DE89370400440532013000.": "own",
        "def f(x): return x * 12345678  # 2026-11-30": "cloud",
    }

    async def steps():
        async with running(cloud, own), front(config(cloud, own)) as client:
            got = {}
            for text in texts:
                reply = await client.chat.completions.create(model="auto", messages=asked(text))
                got[text] = reply.model
            history = [*asked(CARD), {"role": "assistant", "content": "Paid."}, *asked("Thanks.")]
            later = await client.chat.completions.create(model="auto", messages=history)
            with pytest.raises(APIStatusError) as direct:
                await client.chat.completions.create(model="cloud", messages=asked(CARD))
            call = {"name": "pay", "arguments": '{"card": "4111 1111 1111 1111"}'}
            tool = {"id": "c1", "type": "function", "function": call}
            loop = [
                *asked("Pay it."),
                {"role": "assistant", "content": None, "tool_calls": [tool]},
                {"role": "tool", "tool_call_id": "c1", "content": "paid"},
            ]
            in_call = await client.chat.completions.create(model="auto", messages=loop)
            return got, later.model, direct.value.status_code, in_call.model

    assert asyncio.run(steps()) == (texts, "own", 422, "own")
    assert all("4111" not in str(body) for body in cloud.bodies)


def test_a_class_is_raised_and_never_lowered():
    cloud, own = Upstream(), Upstream()

    async def steps():
        async with running(cloud, own), front(config(cloud, own, raise_to="internal")) as client:
            raised = await client.chat.completions.create(model="auto", messages=asked(CARD))
            stated = await client.chat.completions.create(
                model="auto",
                messages=asked(CARD),
                extra_body={"routewright": {"data_class": "restricted"}},
            )
            return raised.model, stated.model

    assert asyncio.run(steps()) == ("cloud", "own")


@pytest.mark.parametrize(
    ("pii", "message"),
    [
        ({"entities": ["SHOE_SIZE"]}, "no SHOE_SIZE; there are .*CREDIT_CARD"),
        ({"model": "no_such_model"}, "spaCy has no model 'no_such_model': .* spacy download"),
    ],
)
def test_mistakes_name_the_way_out(pii, message):
    cloud, own = Upstream(), Upstream()

    async def steps():
        async with running(cloud, own), front(config(cloud, own, **pii)):
            raise AssertionError("the gateway started")

    with pytest.raises(BadInput, match=message):
        asyncio.run(steps())
